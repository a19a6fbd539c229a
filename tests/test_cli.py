"""The command line: help, version, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import gserver
from gserver.cli import main
from tests.helpers.processes import run_gserver


def test_help_names_every_flag_of_the_manual() -> None:
    ended = run_gserver("--help")

    assert ended.returncode == 0
    for flag in ("--bind", "--workers", "--config", "--chdir", "--log-level", "--backlog", "--graceful-timeout"):
        assert flag in ended.stdout


def test_version_is_the_packages() -> None:
    ended = run_gserver("--version")

    assert ended.stdout == f"gserver {gserver.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nocolon"], "application 'nocolon': expected MODULE:NAME, MODULE:FACTORY(ARGS) or one of echo, json"),
        (["echo", "-w", "none"], "setting workers is 'none', must be a whole number of at least 1"),
        (["echo", "-b", "here"], "setting bind is 'here' has no port: expected HOST:PORT, [V6]:PORT or unix:PATH"),
        (["echo", "--greenlets", "x"], "setting greenlets is 'x', must be one of pooled, dedicated"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"gserver: {says}\n"


def test_a_wrong_setting_in_the_config_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conf.py"
    path.write_text("wrokers = 2")

    assert main(["echo", "-c", str(path)]) == 1
    assert capsys.readouterr().err == "gserver: unknown setting 'wrokers', did you mean 'workers'?\n"


def test_no_application_is_a_usage_error() -> None:
    ended = run_gserver()

    assert ended.returncode == 2
    assert "the following arguments are required: APP" in ended.stderr
