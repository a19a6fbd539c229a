"""Orphan processes of workers get TERM, then KILL; processes in sessions of their own are left alone."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.orphan_processes import KILLED_S, TERM_S, OrphanProcesses
from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, is_alive, is_running, wait_for

#: Each line names a way to start a process; the reply is its pid.
APP = """
import os, signal, subprocess, sys, time
from gserver import Lines, Service

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"

def start(way):
    if way == b"program":
        return subprocess.Popen(["sleep", "1000"]).pid
    if way == b"stubborn":
        process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
        process.stdout.readline()
        return process.pid
    if way == b"session":
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    if way == b"orphan":
        return int(subprocess.check_output(["sh", "-c", "sleep 1000 >/dev/null & echo $!"]))
    if way == b"fork":
        pid = os.fork()
        if pid == 0:
            while True:
                time.sleep(1)
        return pid

app = Service(lambda line, conn: b"%d" % start(line), Lines)
"""
WAYS = ("program", "stubborn", "orphan", "fork")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def start(folder: Path, *arguments: str) -> GserverProcess:
    return GserverProcess(folder, "app:app", "--drain-spread", "0", "--reload-settle", "0.1", *arguments)


def begin(server: GserverProcess, *ways: str) -> dict[str, int]:
    """In the server's only worker."""
    with Client(server.address, Lines()) as client:
        return {way: int(client.call(way.encode())) for way in ways}


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_when_the_server_has_stopped_nothing_is_left_but_other_sessions(
    folder: Path, stop: int, arguments: tuple[str, ...]
) -> None:
    with start(folder, *arguments) as server:
        own = begin(server, "session")["session"]
        others = begin(server, *WAYS)
        server.signal(stop)
        assert server.wait() == 0
        left = {way: pid for way, pid in others.items() if is_running(pid)}
        goes_on = is_running(own)
        if goes_on:
            os.kill(own, signal.SIGKILL)

    assert left == {}
    assert goes_on


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT, signal.SIGABRT])
def test_what_a_worker_leaves_ends_with_it_or_with_the_server(folder: Path, number: int) -> None:
    with start(folder) as server:
        others = begin(server, *WAYS)
        os.kill(server.serving_pids()[0], number)
        server.wait_for_log("Worker ready", 2)
        if number in (signal.SIGTERM, signal.SIGQUIT):  # in order
            wait_for(lambda: not any(is_running(others[way]) for way in ("program", "stubborn", "fork")), "they end")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

        assert not any(is_running(pid) for pid in others.values())


def test_what_a_stuck_worker_leaves_ends_with_it(folder: Path) -> None:
    with start(folder, "--timeout", "1") as server:
        others = begin(server, "program", "stubborn", "fork")
        os.kill(server.serving_pids()[0], signal.SIGSTOP)
        server.wait_for_log("Worker exited with signal SIGKILL")
        wait_for(lambda: not any(map(is_running, others.values())), "they have ended")


def test_a_reload_ends_what_the_old_worker_started_and_nothing_else(folder: Path) -> None:
    with start(folder) as server:
        others = begin(server, *WAYS)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        news = begin(server, "program")
        wait_for(lambda: not any(is_running(others[way]) for way in ("program", "stubborn", "fork")), "they have ended")

        assert is_running(news["program"])
        assert is_running(others["orphan"])  # its origin is not known any more


def test_without_an_arbiter_a_worker_ends_them_by_itself(folder: Path) -> None:
    with start(folder) as server:
        others = begin(server, "program", "stubborn", "fork")
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: not any(map(is_running, others.values())), "they have ended")


HOOK_CONFIG = """
import subprocess
def on_starting(server):
    server.helper = subprocess.Popen(["sleep", "1000"])
    with open("helper", "w") as file:
        file.write(str(server.helper.pid))
"""


def test_what_hooks_have_started_is_their_own(folder: Path) -> None:
    (folder / "gserver.conf.py").write_text(HOOK_CONFIG)
    with start(folder) as server:
        helper = psutil.Process(int((folder / "helper").read_text()))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        goes_on = is_alive(helper)
        helper.kill()

    assert goes_on


# OrphanProcesses without a server


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made


def stubborn() -> subprocess.Popen[bytes]:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def turn(selector: selectors.BaseSelector) -> None:
    for key, _ in selector.select(0):
        key.data()


def test_one_that_ends_at_the_first_signal_is_forgotten(selector: selectors.BaseSelector) -> None:
    orphans = OrphanProcesses(selector)
    process = subprocess.Popen(["sleep", "1000"])
    orphans.watch([os.pidfd_open(process.pid)], 0.0, signal.SIGTERM)
    assert orphans.wakes_at == TERM_S
    assert process.wait() == -signal.SIGTERM
    turn(selector)

    assert (len(orphans), orphans.wakes_at) == (0, None)


def test_one_that_does_not_is_killed_when_its_time_is_over(selector: selectors.BaseSelector) -> None:
    orphans = OrphanProcesses(selector)
    process = stubborn()
    orphans.watch([os.pidfd_open(process.pid)], 0.0, signal.SIGTERM)
    orphans.kill_overdue(TERM_S / 2)
    assert process.poll() is None
    orphans.kill_overdue(TERM_S)

    assert process.wait() == -signal.SIGKILL
    assert orphans.wakes_at == TERM_S + KILLED_S
    turn(selector)
    assert len(orphans) == 0


def test_one_that_cannot_be_ended_is_not_waited_for_for_ever(selector: selectors.BaseSelector) -> None:
    orphans = OrphanProcesses(selector)
    process = subprocess.Popen(["sleep", "1000"])
    orphans.watch([os.pidfd_open(process.pid)], 0.0)
    orphans.kill_overdue(TERM_S)
    orphans.kill_overdue(TERM_S + KILLED_S)

    assert len(orphans) == 0
    process.wait()


def test_a_sweep_takes_what_has_come_since_and_nothing_twice(selector: selectors.BaseSelector) -> None:
    before = subprocess.Popen(["sleep", "1000"])
    orphans = OrphanProcesses(selector)
    with orphans.exempting():
        hooked = subprocess.Popen(["sleep", "1000"])
    spared = subprocess.Popen(["sleep", "1000"])
    orphans.exempt(spared.pid)
    session = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    own = subprocess.Popen(["sleep", "1000"])
    taken = subprocess.Popen(["sleep", "1000"])

    assert orphans.sweep(0.0, lambda pid: pid == own.pid)
    assert len(orphans) == 2
    assert taken.wait() == -signal.SIGTERM
    orphans.kill_overdue(TERM_S)
    assert own.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while len(orphans):
        turn(selector)
        assert time.monotonic() < deadline
    assert not orphans.sweep(0.0, lambda pid: False)
    assert [each.poll() for each in (before, hooked, spared, session)] == [None] * 4
    for each in (before, hooked, spared, session):
        each.kill()
        each.wait()


def test_reported_foreign_processes_are_closed_and_left_alone(selector: selectors.BaseSelector) -> None:
    orphans = OrphanProcesses(selector)
    init = os.pidfd_open(1)
    reading, writing = os.pipe()
    process = subprocess.Popen(["sleep", "1000"])
    orphans.watch_reported([init, reading, writing, os.pidfd_open(process.pid)], 0.0)

    assert len(orphans) == 1
    for descriptor in (init, reading, writing):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    orphans.close()
    process.kill()
    process.wait()
