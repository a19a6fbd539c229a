"""A server that a run starts: the run waits for it; if it does not get ready, one line explains why."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path

import psutil
import pytest

from loadtests.host.subprocesses import NotAnswering, free_port
from loadtests.servers.readiness import Probe
from loadtests.servers.target import Server, Target, local_target, try_out
from loadtests.workloads.profiles import PROFILES

PROBE = Probe.of(PROFILES["echo"])
LONG_S, SHORT_S = 60.0, 1.5
ECHO = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    for _ in range(int(sys.argv[2])):
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1024):
                connection.sendall(data)
"""


def program(code: str, *words: object, port: int | None = None) -> Target:
    port = free_port() if port is None else port
    return Target(("127.0.0.1", port), [sys.executable, "-c", code, str(port), *map(str, words)])


def refusal(target: Target, log: Path, patience_s: float = LONG_S) -> str:
    with pytest.raises(NotAnswering) as caught:
        try_out(target, PROBE, log, patience_s)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_that_replies_is_stopped_and_leaves_no_log(tmp_path: Path) -> None:
    target = program(ECHO, 1000)
    try_out(target, PROBE, tmp_path / "log", LONG_S)

    assert list(tmp_path.iterdir()) == []
    assert target.command not in [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]


@pytest.mark.parametrize(
    ("code", "how", "quoted"),
    [
        ("raise SystemExit('no settings')", "exit status 1", "has: no settings"),
        ("import nowhere_at_all", "exit status 1", "has: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV", "is empty"),
        (
            "print('Error: no such table'); print('Version 7'); raise SystemExit(4)",
            "exit status 4",
            "has: Error: no such",
        ),
    ],
)
def test_for_a_server_that_ends_the_error_quotes_its_log(tmp_path: Path, code: str, how: str, quoted: str) -> None:
    said = refusal(program(code), tmp_path / "log")

    assert f"ended before it replied ({how}); its log {tmp_path / 'log'} {quoted}" in said


@pytest.mark.parametrize(("word", "why"), [("no-such-program", "No such file or directory"), ("", "Permission denied")])
def test_a_command_that_cannot_be_executed_is_named(tmp_path: Path, word: str, why: str) -> None:
    path = str(tmp_path / word)

    assert refusal(Target(("127.0.0.1", 1), [path]), tmp_path / "log") == f"{path} cannot be started: {why}"


def test_a_log_that_cannot_be_written_is_not_taken_for_a_program_that_cannot_be_started() -> None:
    with pytest.raises(NotADirectoryError):
        try_out(program(ECHO, 1), PROBE, Path("/dev/null/log"), LONG_S)


def test_for_a_server_on_another_port_the_error_names_its_address(tmp_path: Path) -> None:
    other = free_port()
    target = Target(("127.0.0.1", free_port()), [sys.executable, "-c", ECHO, str(other), "1000"])

    assert f"(it listens at 127.0.0.1:{other})" in refusal(target, tmp_path / "log", SHORT_S)


def test_a_slow_server_gets_the_requested_time(tmp_path: Path) -> None:
    said = refusal(program("import time; time.sleep(60)"), tmp_path / "log", SHORT_S)

    assert "does not reply within 1.5 s: " in said
    assert "(it does not listen)" in said


def test_a_program_that_ends_after_its_first_connection_is_an_error(tmp_path: Path) -> None:
    assert "(exit status 0)" in refusal(program(ECHO, 1), tmp_path / "log")


def test_a_gserver_that_ends_before_its_workers_are_ready_is_an_error(tmp_path: Path) -> None:
    """It has one worker, and the run expects two."""
    target = local_target(PROFILES["echo"], tmp_path)
    more = Target(target.address, target.command, workers=2)
    server = Server(more, tmp_path / "log", patience_s=LONG_S)

    class Ending(Probe):
        def await_reply(self, *arguments: object) -> None:
            super().await_reply(*arguments)  # type: ignore[arg-type]
            assert server.process is not None
            server.process.send_signal(signal.SIGKILL)

    ending = Ending(PROBE.user, PROBE.exchange)
    with contextlib.ExitStack() as stack, pytest.raises(NotAnswering, match="ended before its workers were ready"):
        server.start(ending, stack)
