"""Calls through a Pool while the server is reloaded and its workers are killed: what fails, and what is done twice."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from gserver import Client, Lines, NoReply, Pool
from tests.helpers.processes import GserverProcess, run_gserver, wait_for

pytestmark = pytest.mark.long

#: Writes each message that it executes into a file, then takes a moment, so that reloads and kills find calls in work.
COUNTING_APP = """
import os, gevent
from gserver import Lines, Service
file = os.open("executed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def execute(line, conn):
    os.write(file, line + b"\\n")
    gevent.sleep(0.003)
    return line
app = Service(execute, codec=Lines)  # version {version}
"""
THREADS = 20


class Callers:
    """Threads that call through one pool, each with messages of its own; what became of each."""

    def __init__(self, pool: Pool, repeat: bool) -> None:
        self.outcomes: dict[str, str] = {}  # message -> "replied", or the name of the exception
        self._pool = pool
        self._repeat = repeat
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(THREADS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            message = f"{number}-{count}"
            count += 1
            try:
                reply = self._pool.call(message.encode(), repeat=self._repeat)
            except Exception as error:
                self.outcomes[message] = type(error).__name__
            else:
                self.outcomes[message] = "replied" if reply == message.encode() else f"replied {reply!r}"

    def wait_for_more(self) -> None:
        more = len(self.outcomes) + 5 * THREADS
        wait_for(lambda: len(self.outcomes) >= more, "the callers go on")


def write_app(folder: Path, version: int) -> None:
    (folder / "app.py").write_text(COUNTING_APP.format(version=version))


def disturb(server: GserverProcess, folder: Path, callers: Callers, reloads: int, kills: int) -> None:
    """Reload with changed code, so that all workers are replaced; kill workers between reloads."""
    for version in range(1, 1 + reloads):
        callers.wait_for_more()
        write_app(folder, version)
        ended = run_gserver("--reload-pid", "gserver.pid", cwd=folder)
        assert (ended.returncode, ended.stderr) == (0, "")
    for _ in range(kills):
        callers.wait_for_more()
        wait_for(lambda: len(server.serving_pids()) == 2, "the old workers have ended: they would not be replaced")
        server.kill_worker(server.serving_pids()[0])
    callers.wait_for_more()


@pytest.mark.parametrize(
    "kills", [pytest.param(0, marks=pytest.mark.longhaul), 4], ids=["reloads", "reloads and kills"]
)
@pytest.mark.parametrize("repeat", [True, False], ids=["repeat", "no repeat"])
def test_repeated_calls_never_fail_and_others_are_executed_once(tmp_path: Path, repeat: bool, kills: int) -> None:
    write_app(tmp_path, 0)
    options = ("--pid", "gserver.pid", "--reload-settle", "0.1", "--drain-spread", "0.3")
    with (
        GserverProcess(tmp_path, "app:app", *options, workers=2) as server,
        Pool(server.address, Lines, size=THREADS, timeout_s=30) as pool,
    ):
        workers = {worker.pid for worker in server.workers()}
        with Callers(pool, repeat) as callers:
            disturb(server, tmp_path, callers, 5, kills)
        assert not workers & {worker.pid for worker in server.workers()}
    executed = Counter((tmp_path / "executed").read_text().splitlines())
    outcomes = Counter(callers.outcomes.values())
    twice = sum(1 for count in executed.values() if count > 1)
    print(f"repeat={repeat} kills={kills}: {dict(outcomes)}, executed twice or more: {twice}")

    assert {message for message, outcome in callers.outcomes.items() if outcome == "replied"} <= executed.keys()
    if repeat:
        assert set(outcomes) == {"replied"}
    else:
        assert set(outcomes) <= {"replied", "NoReply"}
        assert twice == 0
    if kills and not repeat:
        assert outcomes["NoReply"] > 0, "the kills have found no call in work"


def test_a_call_that_a_kill_finds_in_work_has_no_reply(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(COUNTING_APP.format(version=0).replace("0.003", "3600"))
    with GserverProcess(tmp_path, "app:app") as server, Client(server.address, Lines()) as client:
        client.send(b"begun")
        wait_for(lambda: (tmp_path / "executed").read_text() == "begun\n", "the handler works")
        killer = threading.Timer(0.1, os.kill, (server.serving_pids()[0], signal.SIGKILL))
        killer.start()

        with pytest.raises(NoReply, match="may have been executed"):
            client.call(b"another")
        killer.join()
