from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.failures import Failed
from benchmarks.servers import Server, serving
from loadtests.host.cpu_time import used_between
from loadtests.host.subprocesses import free_port
from loadtests.sampling.process_tree import Tree

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
    """Start a server and stop it; return its description."""
    port = free_port()
    command = [str(port) if word == "PORT" else word for word in words]
    with serving(command, port, service, sorted(os.sched_getaffinity(0))) as server:
        assert psutil.pid_exists(server.tree.root_pid)
    assert not psutil.pid_exists(server.tree.root_pid)
    return server


def test_a_server_answers_and_has_ended_afterwards(tmp_path: Path) -> None:
    assert serve(program(tmp_path, ECHO.format(answer="conn.recv(100)"))).reply == "hello"


def test_the_reply_of_a_json_server_is_kept_as_it_is(tmp_path: Path) -> None:
    answer = """b'{"status":  "OK", "result":30}\\n'"""

    assert serve(program(tmp_path, ECHO.format(answer=answer)), "json").reply == '{"status":  "OK", "result":30}'


def test_a_wrong_answer_is_a_failure_with_the_last_line_of_output(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"^it answered 'HELLO' to 'hello'; last output: listening$"):
        serve(program(tmp_path, ECHO.format(answer="conn.recv(100).upper()")))


def test_a_server_that_ends_is_a_failure_with_the_last_line_of_output(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"^it ended with status 3 before it answered; last output: oh dear$"):
        serve(program(tmp_path, "print('oh\\noh dear', flush=True); raise SystemExit(3)"))


def test_a_server_that_does_not_answer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.START_PATIENCE_S", 0.1)
    with pytest.raises(Failed, match=r"^it does not answer within 0\.1 s: .*refused$"):
        serve(program(tmp_path, "import time; time.sleep(60)"))


def test_a_missing_program_is_a_failure() -> None:
    with pytest.raises(Failed, match=r"^there is no program 'no-such-server'$"):
        serve(["no-such-server", "PORT"])


def test_a_server_runs_on_the_given_cores(tmp_path: Path) -> None:
    chosen = [max(os.sched_getaffinity(0))]
    port = free_port()
    command = program(tmp_path, ECHO.format(answer="conn.recv(100)"))[:-1]
    with serving([*command, str(port)], port, "echo", chosen) as server:
        assert os.sched_getaffinity(server.tree.root_pid) == set(chosen)


class ScriptedTree(Tree):
    """A process with these CPU times, one for each sample."""

    def __init__(self, cpu_s: Iterator[float]) -> None:
        self.cpu_s = cpu_s

    def sample(self, sockets: bool = False, memory: bool = False) -> list[dict[str, Any]]:
        return [{"pid": 1, "cpu_s": next(self.cpu_s)}]


def test_a_server_is_quiet_when_it_uses_hardly_any_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.QUIET_S", 0.001)
    cpu_s = iter([0.1, 0.3, 0.4, 0.405, 0.5])
    Server(ScriptedTree(cpu_s), "").wait_until_quiet()

    assert list(cpu_s) == [0.5]


def test_the_wait_for_a_server_that_is_never_quiet_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.QUIET_S", 0.001)
    monkeypatch.setattr("benchmarks.servers.QUIET_PATIENCE_S", 0.01)
    cpu_s = itertools.count(0.1)
    Server(ScriptedTree(cpu_s), "").wait_until_quiet()

    assert next(cpu_s) > 1


def test_cpu_time_and_memory_are_those_of_all_processes() -> None:
    busy = "held = b'x' * 30_000_000\nprint(1, flush=True)\ninput()\nimport time\n"
    busy += "while time.process_time() < 0.3: pass\nprint(2, flush=True)\ninput()"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent, busy], stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = Server(Tree(process.pid), "")
        assert process.stdout.readline() == b"1\n"
        before, resident = server.sample(), server.resident_bytes()
        process.stdin.write(b"\n")
        assert process.stdout.readline() == b"2\n"
        used = used_between(before, server.sample()).seconds
        process.kill()  # the child ends with its input
    assert 0.1 < used < 1
    assert 30_000_000 < resident < 200_000_000


def test_a_server_that_ended_during_the_measurement_is_a_failure() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        server = Server(Tree(process.pid), "")
        process.kill()
    with pytest.raises(Failed, match=r"^it ended during the measurement$"):
        server.sample()
