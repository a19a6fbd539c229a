"""The command line of loadtests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.cli import entry_point, main
from loadtests.results.store import save_run
from loadtests.workloads.profiles import PROFILES
from tests.helpers.loadtests_runs import make_run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    for name, scale in (("a", 1.0), ("b", 1.5)):
        (tmp_path / name).mkdir()
        save_run(tmp_path / name, make_run(scale=scale))
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_list_names_and_explains_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for profile in PROFILES.values():
        assert profile.name in shown
        assert profile.description in shown
        assert profile.purpose in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_report_shows_the_runs_that_it_is_given(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *runs, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# 2 runs")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["run", "nothing"], 2, "there is no profile 'nothing': expected one of smoke, echo, json, max-throughput"),
        (["run", "smoke", "--host", "127.0.0.1:1"], 2, "host is '127.0.0.1:1', expected tcp://HOST:PORT"),
        (["run", "smoke", "--host", "tcp://127.0.0.1"], 2, "host is 'tcp://127.0.0.1', expected tcp://HOST:PORT"),
        (["run", "smoke", "--host", "tcp://h:99999"], 2, "host is 'tcp://h:99999', expected tcp://HOST:PORT"),
        (["run", "smoke", "--server-pid", "1"], 2, "--server-pid needs --host"),
        (["run", "smoke", "--sampler", "h:1"], 2, "--sampler needs --host"),
        (["run", "smoke", "--codec", "lines"], 2, "--codec needs --message"),
        (["run", "smoke", "--file", "x.py"], 2, "--file and --user go together: a Locust file, and the class in it"),
        (["run", "smoke", "--file", "nowhere.py", "--user", "X"], 2, "there is no file nowhere.py"),
        (["run", "smoke", "--message", "x", "--codec", "smoke"], 2, "--codec: "),
        (["worker", "--master", "127.0.0.1", "--file", "nowhere.py"], 2, "there is no file nowhere.py"),
        (["run", "smoke", "--message", "x", "--codec", "smoke", "--host", "tls://h:1"], 2, "--codec: "),
        (
            ["run", "smoke", "--message", "x", "--expect", r"a\nb"],
            2,
            "--expect is 'a\\\\nb', which cannot be a reply in lines",
        ),
        (["run", "smoke", "--start-timeout", "9", "--host", "tcp://h:1"], 2, "--start-timeout is for a server that is"),
        (["report", "nowhere"], 2, "nowhere: not the folder of a run (there is no run.json)"),
        (["compare", "nowhere", "nothing"], 2, "nowhere: not the folder of a run (there is no run.json)"),
        (["run", "smoke", "--bind", "h:1"], 2, "--bind needs --master"),
        (["run", "smoke", "--expect-workers-max-wait", "9"], 2, "--expect-workers-max-wait needs --master"),
        (
            ["run", "smoke", "--master", "--processes", "2"],
            2,
            "--processes is for a swarm on this host: with --master,",
        ),
        (
            ["run", "smoke", "--master", "--bind", "host.invalid:1"],
            2,
            "--bind host.invalid:1: Name or service not known",
        ),
        (["run", "smoke", "--results", "/dev/null/x"], 2, "/dev/null/x: Not a directory"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert error.startswith(f"loadtests: {says}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["run"],
        ["run", "smoke", "--users", "0"],
        ["run", "smoke", "--users", "many"],
        ["run", "smoke", "--rate", "-1"],
        ["run", "smoke", "--duration", "inf"],
        ["run", "smoke", "--duration", "2.5"],
        ["run", "smoke", "--master", "--bind", "nowhere:port"],
        ["worker"],
        ["worker", "--master", "host:0"],
    ],
)
def test_wrong_usage_is_status_2_and_no_traceback(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "loadtests", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert "usage: loadtests" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_internal_error_is_status_2(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Python's own exit status for it is 1, which means "worse" to a pipeline."""
    monkeypatch.setattr("loadtests.commands.list.main", lambda arguments: 1 // 0)
    monkeypatch.setattr(sys, "argv", ["loadtests", "list"])
    for name in ("stdout", "stderr"):  # which entry_point() replaces
        monkeypatch.setattr(sys, name, getattr(sys, name))

    with pytest.raises(SystemExit) as ended:
        entry_point()
    assert ended.value.code == 2
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_command_line_does_not_import_locust() -> None:
    code = "import sys, loadtests.cli; print('locust' in sys.modules, 'gevent' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "False False\n"
