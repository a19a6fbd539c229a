from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.failures import Failed
from benchmarks.figures import Usage
from benchmarks.servers import Server, serving
from loadtests.host.subprocesses import free_port

ECHO = """
import os, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    while True:
        conn, _ = listener.accept()
        with conn:
            conn.sendall({answer})
"""


def program(folder: Path, text: str) -> list[str]:
    path = folder / "server.py"
    path.write_text(text)
    return [sys.executable, str(path), "PORT"]


def serve(words: list[str], service: str = "echo") -> Server:
    """Start it and stop it; what it was like."""
    port = free_port()
    command = [str(port) if word == "PORT" else word for word in words]
    with serving(command, port, service, os.sched_getaffinity(0)) as server:
        assert psutil.pid_exists(server.pid)
    assert not psutil.pid_exists(server.pid)
    return server


def test_a_server_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    assert serve(program(tmp_path, ECHO.format(answer="conn.recv(100)"))).reply == "hello"


def test_a_server_of_json_says_how_it_words_a_sum(tmp_path: Path) -> None:
    answer = """b'{"status":  "OK", "result":30}\\n'"""

    assert serve(program(tmp_path, ECHO.format(answer=answer)), "json").reply == '{"status":  "OK", "result":30}'


def test_a_wrong_answer_is_a_failure_that_says_what_the_server_said(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"^it answered 'HELLO' to 'hello'; the server said: listening$"):
        serve(program(tmp_path, ECHO.format(answer="conn.recv(100).upper()")))


def test_a_server_that_ends_is_a_failure_that_says_what_it_said_last(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"^it ended with status 3 before it answered; the server said: oh dear$"):
        serve(program(tmp_path, "print('oh\\noh dear', flush=True); raise SystemExit(3)"))


def test_a_server_that_does_not_answer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.START_PATIENCE_S", 0.1)
    with pytest.raises(Failed, match=r"^it does not answer within 0\.1 s: .*refused$"):
        serve(program(tmp_path, "import time; time.sleep(60)"))


def test_a_program_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(Failed, match=r"^there is no program 'no-such-server'$"):
        serve(["no-such-server", "PORT"])


def test_a_server_runs_on_the_processors_that_it_is_given(tmp_path: Path) -> None:
    chosen = {max(os.sched_getaffinity(0))}
    port = free_port()
    command = program(tmp_path, ECHO.format(answer="conn.recv(100)"))[:-1]
    with serving([*command, str(port)], port, "echo", chosen) as server:
        assert os.sched_getaffinity(server.pid) == chosen


def scripted(monkeypatch: pytest.MonkeyPatch, ticks: Iterator[float]) -> Server:
    """A server whose processor time is `ticks`, one at each look."""
    monkeypatch.setattr("benchmarks.servers.QUIET_S", 0.001)
    monkeypatch.setattr("benchmarks.servers.usage_of", lambda pid: Usage(next(ticks), 0))
    return Server(1, 0, "")


def test_a_server_is_quiet_when_it_uses_no_processor_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.1, 0.3, 0.4, 0.4, 0.5])
    scripted(monkeypatch, ticks).wait_until_quiet()

    assert list(ticks) == [0.5]


def test_nobody_waits_for_ever_for_a_server_that_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.QUIET_PATIENCE_S", 0.01)
    ticks = itertools.count(0.1)
    scripted(monkeypatch, ticks).wait_until_quiet()

    assert next(ticks) > 1
