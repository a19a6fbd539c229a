"""The command line: help, version, checks, and errors of one line."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gserver
from gserver.cli import main
from gserver.config.settings import declared
from tests.helpers.processes import PATIENCE_S, is_running, run_gserver, wait_for

#: The beginning of a module with a service.
SERVICE = "from gserver import Lines, Service\napp = Service(lambda line, conn: line, Lines, "
#: How long an application may take until it can be served. On a busy host the import of gevent alone may take as long.
READY_S = 1.5


def test_help_names_every_flag() -> None:
    ended = run_gserver("--help")

    assert ended.returncode == 0
    for flag in [flag for setting in declared() for flag in setting.metadata["flags"]]:
        assert flag in ended.stdout


def test_version_is_the_packages() -> None:
    ended = run_gserver("--version")

    assert ended.stdout == f"gserver {gserver.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nocolon"], "application 'nocolon': expected MODULE:NAME, MODULE:FACTORY(ARGS) or one of echo, json"),
        (["echo", "-w", "none"], "setting workers is 'none', must be auto, or a whole number from 1 to 500"),
        (
            ["echo", "-b", "here"],
            "setting bind is 'here' has no port: expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N",
        ),
        (["echo", "--greenlets", "x"], "setting greenlets is 'x', must be one of pooled, dedicated"),
        (["echo", "-c", "nowhere.py"], "config file '{cwd}/nowhere.py' cannot be used: FileNotFoundError: "),
        (["--reload-pid", "nowhere.pid"], "there is no process id in 'nowhere.pid'"),
        (
            ["echo", "-g", "9" * 20],
            "setting group is '99999999999999999999', must be the name or the number of a group",
        ),
        (["echo", "-b", f"host:{'9' * 5000}"], "setting bind is 'host:99"),
        (["echo", "-c", ""], "config file '{cwd}' cannot be used: IsADirectoryError: "),
        (["echo", "-c", "."], "config file '{cwd}' cannot be used: IsADirectoryError: "),
        (["echo", "--chdir", "nowhere"], "setting chdir is 'nowhere', must be a directory"),
        (["echo(", "-w", "2"], "application 'echo(': "),
        (["", "-w", "2"], "application '': "),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"gserver: {says.format(cwd=tmp_path)}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("a..b:80", "cannot listen on a..b:80: "),
        ("unix:s,user=\N{SUPERSCRIPT TWO}", "there is no user "),
        ("unix:s,group=99999999999", "there is no group "),
        ("unix:nowhere/s", "cannot listen on unix:nowhere/s: No such file or directory"),
        ("fd://99999", "descriptor 99999 is not a socket: "),
        ("fd://0", "descriptor 0 is no"),
    ],
)
def test_an_address_that_cannot_be_bound_is_one_line(tmp_path: Path, address: str, says: str) -> None:
    ended = run_gserver("echo", "-b", address, "--log-file", "log", cwd=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"gserver: {says}")
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, because the server changes the loggers."""
    ended = run_gserver("echo", "--log-file", "nowhere/log", cwd=tmp_path)

    says = "gserver: cannot log to 'nowhere/log': No such file or directory\n"
    assert (ended.returncode, ended.stderr) == (1, says)


def test_a_wrong_setting_in_the_config_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conf.py"
    path.write_text("wrokers = 2")

    assert main(["echo", "-c", str(path)]) == 1
    assert capsys.readouterr().err == "gserver: unknown setting 'wrokers', did you mean 'workers'?\n"


@pytest.mark.parametrize("text", ["", "garbage", "0", "-1", str(2**31), str(2**63)])
def test_a_pid_file_without_an_id_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "pid").write_text(text)

    assert main(["--reload-pid", str(tmp_path / "pid")]) == 1
    assert capsys.readouterr().err == f"gserver: there is no process id in '{tmp_path}/pid'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_a_pid_file_of_a_process_that_is_gone_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(60)
    (tmp_path / "pid").write_text(str(gone.pid))

    assert main(["--reload-pid", str(tmp_path / "pid")]) == 1
    assert capsys.readouterr().err == f"gserver: there is no process {gone.pid}\n"


@pytest.mark.parametrize("text", ["raise SystemExit('no licence')", "import sys; sys.exit()", "workers = 10 ** 5000"])
def test_a_config_file_that_ends_the_process_is_one_line_as_any_other(tmp_path: Path, text: str) -> None:
    (tmp_path / "gserver.conf.py").write_text(text)
    ended = run_gserver("--print-config", cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(("gserver: config file ", "gserver: setting workers is "))
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--wrokers 2", "GSERVER_CMD_ARGS: unrecognized arguments: --wrokers 2"),
        ("echo", "GSERVER_CMD_ARGS: unrecognized arguments: echo"),
        ("-n '", "GSERVER_CMD_ARGS: No closing quotation"),
        ("-w none", "setting workers is 'none', must be auto, or a whole number from 1 to 500"),
    ],
)
def test_a_wrong_variable_is_one_line(
    words: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSERVER_CMD_ARGS", words)

    assert main(["echo"]) == 1
    assert capsys.readouterr().err == f"gserver: {says}\n"


def test_a_file_that_is_named_takes_the_place_of_the_one_that_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gserver.conf.py").write_text("workers = 2\nbacklog = 2")
    (tmp_path / "other.py").write_text("workers = 3")
    monkeypatch.chdir(tmp_path)

    assert main(["--print-config", "-c", "other.py"]) == 0
    assert {"workers = 3", "backlog = 2048"} <= set(capsys.readouterr().out.splitlines())


def test_a_check_does_not_need_the_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_gserver("--check-config", "echo", "-b", f"127.0.0.1:{taken.getsockname()[1]}", cwd=tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--wrokers", "2", "echo"], ["-w"], ["echo", "json"], ["--check-config"]])
def test_wrong_usage_is_reported_without_a_traceback(arguments: list[str], tmp_path: Path) -> None:
    ended = run_gserver(*arguments, cwd=tmp_path)

    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: gserver ")
    assert "Traceback" not in ended.stderr


def test_no_application_is_a_usage_error() -> None:
    ended = run_gserver()

    assert ended.returncode == 2
    assert "the following arguments are required: APP" in ended.stderr


def test_all_settings_are_printed_as_they_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gserver.conf.py").write_text("workers = 2\ntimeout = 5\ndef on_exit(server): pass\n")
    monkeypatch.setenv("GSERVER_CMD_ARGS", "--timeout 6 --graceful-timeout 6")
    ended = run_gserver("--print-config", "--graceful-timeout", "7", "-b", "[::1]:1", cwd=tmp_path)

    lines = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert [line.partition(" = ")[0] for line in lines] == [setting.name for setting in declared()]
    shown = {"workers = 2", "timeout = 6", "graceful_timeout = 7", "bind = [::1]:1", "on_exit = on_exit"}
    assert shown | {"pidfile = None"} <= set(lines)


def test_a_good_configuration_is_checked_without_serving(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os\nassert os.environ['COLOUR']\nfrom gserver.handlers import json\napp = json()"
    )
    ended = run_gserver("--check-config", "app:app", "-e", "COLOUR=blue", cwd=tmp_path)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gserver: app:app can be served\n", "")


@pytest.mark.paced("READY_S")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n1 / 0", "'app:app' cannot be imported: ZeroDivisionError: division by zero ({folder}/app.py:2)"),
        ("import nothing_like_this", "'app:app' cannot be imported: ModuleNotFoundError: "),
        ("app = (", "'app:app' cannot be imported: SyntaxError: "),
        ("raise SystemExit('no\\nway')", "'app:app' cannot be imported: SystemExit: no"),
        ("app = 3", "'app:app' is 3: expected a Service"),
        ("other = 3", "module 'app' has no 'app', in 'app:app'"),
        ("import os; os._exit(0)", "'app:app' has ended the process"),
        (SERVICE + "ready=lambda: 1 / 0)", "ready() raised ZeroDivisionError: division by zero ({folder}/app.py:2)"),
        (SERVICE + "ready=exit)", "ready() raised SystemExit: None"),
        (SERVICE + "probe={'a': 1})", "the probe {{'a': 1}} cannot be encoded by the codec Lines: TypeError: "),
        (SERVICE + "on_error=1)", "on_error is 1: must be a function on_error(fault, conn) ({folder}/app.py:2)"),
        (SERVICE.replace("line, L", "1 / 0, L") + "probe=b'?')", "the probe was not answered: the handler raised Z"),
        (SERVICE.replace("line, L", "None, L") + "probe=b'?')", "the probe was not answered within {ready_s} s"),
        ("import time; time.sleep(60)", "'app:app' was not ready within {ready_s} s"),
    ],
)
def test_an_application_that_cannot_be_served_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "app.py").write_text(text)
    ready_s = f"{READY_S:g}"
    ended = run_gserver("--check-config", "app:app", "--ready-timeout", ready_s, cwd=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"gserver: {says.format(folder=tmp_path, ready_s=ready_s)}")
    assert ended.stderr.count("\n") == 1


def test_a_check_ends_whatever_the_application_has_started(tmp_path: Path) -> None:
    """The application has endless threads, child processes and atexit functions: all end, without a wait."""
    (tmp_path / "app.py").write_text(
        "import atexit, subprocess, sys, threading, time\n"
        "from gserver import Lines, Service\n"
        "def ready():\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    open('child', 'w').write(str(child.pid))\n"
        "    atexit.register(lambda: open('ended', 'w').close())\n"
        "app = Service(lambda line, conn: line, Lines, ready=ready, probe=b'?')\n"
    )
    began = time.monotonic()
    ended = run_gserver("--check-config", "app:app", cwd=tmp_path)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gserver: app:app can be served\n", "")
    assert time.monotonic() - began < PATIENCE_S
    assert (tmp_path / "ended").exists()
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_running(child), "what ready() has started is gone")


def test_an_application_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, because the check applies gevent's monkey-patching."""
    ended = run_gserver("--check-config", "nowhere:app", cwd=tmp_path)

    assert (ended.returncode, ended.stderr) == (1, "gserver: no module named 'nowhere', in 'nowhere:app'\n")


def test_an_engine_that_is_not_installed_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gserver.arbiter.reloader.has_watchfiles", lambda: False)

    assert main(["echo", "--reload", "--reload-engine", "watchfiles"]) == 1
    assert "is 'watchfiles', which is not installed" in capsys.readouterr().err


def test_passwords_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(
        "keyfile_password = 'secret'\n"
        "logconfig_dict = {'handlers': {'mail': {'credentials': ('me', 'secret')}}, 'loggers': {}}\n"
    )
    ended = run_gserver("--print-config", "-e", "TOKEN=secret", "-e", "EMPTY=", "-e", "TWO=secret=s", cwd=tmp_path)

    assert "keyfile_password = ...\n" in ended.stdout
    assert "raw_env = TOKEN=... EMPTY=... TWO=...\n" in ended.stdout
    assert "logconfig_dict = {'handlers': ..., 'loggers': ...}\n" in ended.stdout
    assert "secret" not in ended.stdout


def test_settings_without_a_value_are_printed(tmp_path: Path) -> None:
    ended = run_gserver("--print-config", cwd=tmp_path)

    for line in ("keyfile_password = None\n", "raw_env = \n", "logconfig_dict = None\n"):
        assert line in ended.stdout
