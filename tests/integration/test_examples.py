"""Check the examples as far as possible on a machine without running systemd and Docker."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gserver.arbiter.worker_timeouts import KILL_GRACE_S
from gserver.cli import main
from gserver.config.settings import Settings
from gserver.config.sources import parse_environment
from loadtests.cli import main as loadtests_main
from loadtests.servers.spec import parse_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
OPERATIONS = (EXAMPLES.parent / "docs" / "operations.md").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in (EXAMPLES / "systemd").iterdir():
        # Only the command does not exist on this machine.
        (tmp_path / unit.name).write_text(re.sub(r"/srv/myapp/venv/bin/gserver", sys.executable, unit.read_text()))
    units = [str(path) for path in tmp_path.iterdir()]
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_units_use_existing_flags(capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "systemd" / "gserver.service").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    known = capsys.readouterr().out

    flags = re.findall(r"(?<= )--[a-z-]+", " ".join(re.findall(r"^Exec.*$", text.replace("\\\n", ""), re.M)))
    assert flags
    assert [flag for flag in flags if flag not in known] == []


def seconds_to_stop(settings: Settings) -> float:
    return settings.shutdown_delay + settings.longest_drain_s + KILL_GRACE_S


def test_the_stop_timeout_of_the_unit_covers_the_default_drain() -> None:
    text = (EXAMPLES / "systemd" / "gserver.service").read_text()
    (allowed,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)

    assert int(allowed) > seconds_to_stop(Settings())
    assert f"The defaults of gserver need {seconds_to_stop(Settings()):g} s" in OPERATIONS
    for line in ("OOMPolicy=continue", "KillMode=mixed", "Type=notify"):
        assert f"\n{line}\n" in text
        assert f"`{line}`" in OPERATIONS


def test_the_container_stops_before_docker_kills_it() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    (words,) = re.findall(r'^ENV GSERVER_CMD_ARGS="(.*)"$', text, re.M)
    settings = Settings.checked(parse_environment({"GSERVER_CMD_ARGS": words}))
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.M)

    assert seconds_to_stop(settings) < 10
    assert json.loads(check) == ["gserver", "--stats", settings.stats_socket]


def test_the_command_of_the_container_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    words = [json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.M)]
    (program, *_), arguments = words

    assert program == "gserver"
    assert main([*arguments, "--print-config"]) == 0
    assert "bind = 0.0.0.0:3001" in capsys.readouterr().out


def test_the_container_copies_and_installs_existing_files() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()

    assert "COPY . /src" in text
    assert (EXAMPLES.parent / "setup.py").exists()
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.M)


WORKFLOW = EXAMPLES / "github-actions" / "loadtests.yml"


def test_the_workflow_is_valid_yaml_with_steps() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(WORKFLOW.read_text())

    (job,) = workflow["jobs"].values()
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    assert workflow[True] == "pull_request"  # "on" is the boolean true in YAML


def test_the_workflow_runs_valid_commands_of_loadtests(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[argparse.Namespace] = []

    def record(arguments: argparse.Namespace) -> int:
        parsed.append(arguments)
        return 0

    monkeypatch.setattr("loadtests.commands.ab.main", record)
    text = re.sub(r"\$\{\{ github.base_ref \}\}", "main", WORKFLOW.read_text())
    commands = re.findall(r"run: (?:>\n +)?loadtests (.*(?:\n {10}[^ ].*)*)", text)
    for command in commands:
        words, _, _ = command.partition(">")

        assert loadtests_main(shlex.split(words)) == 0
    (arguments,) = parsed
    base, head = parse_spec(arguments.a), parse_spec(arguments.b)
    assert (base.served, base.ref, head.served, head.ref) == ("json", "origin/main", "json", None)
    assert arguments.markdown
