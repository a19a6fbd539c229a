"""A process that an application forks from a worker keeps nothing of it; in a patched worker and in one that is not."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from gserver.arbiter.scoreboard import Scoreboard
from gserver.client import Client
from gserver.codecs import JsonLines, Lines
from gserver.errors import ConnectionClosed
from gserver.worker.fork_cleanup import make_inert
from tests.helpers.processes import GserverProcess, wait_for

#: Each line names a way to start a child; the reply is what that child has inherited.
APP = """
import json, multiprocessing, os, signal, subprocess, sys, threading, time
from gserver import JsonService

def describe():
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    links = [os.readlink(file) for file in files if os.path.lexists(file)]
    return {
        "sockets": sum(link.startswith("socket:") for link in links),
        "signals": [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGUSR2)],
    }

def forked():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, json.dumps(describe()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.set_blocking(reading, False)
    return json.loads(os.read(reading, 1000))

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(forked()))
    thread.start()
    thread.join()
    return found[0]

def multiprocessed():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(describe()))
    process.start()
    found = ours.recv()
    process.join()
    return found

def executed():
    code = "import json, os; print(json.dumps(sum(os.readlink(f'/proc/self/fd/{n}').startswith('socket:') "
    code += "for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}'))))"
    return {"sockets": int(subprocess.check_output([sys.executable, "-c", code])), "signals": [True, True]}

def stays():
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(0.01)
    return {"pid": pid}

app = JsonService()
for way in (forked, in_thread, multiprocessed, executed, stays):
    app.on(way.__name__)(lambda message, conn, way=way: way())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


PATCHED = pytest.mark.parametrize("patch", [(), ("--no-patch",)], ids=["patched", "not patched"])


@PATCHED
@pytest.mark.parametrize("way", ["forked", "in_thread", "multiprocessed", "executed"])
def test_no_child_has_a_socket_of_the_worker_or_its_signals(folder: Path, patch: tuple[str, ...], way: str) -> None:
    with (
        GserverProcess(folder, "app:app", "-b", "unix:socket", *patch) as server,
        Client(server.address, JsonLines()) as other,
        Client(server.address, JsonLines()) as client,
    ):
        other.call({"type": "?"})
        said = client.call({"type": way})
        again = other.call({"type": "?"})  # the parent's event loop is as it was
        third = Client(server.address, JsonLines())
        third.call({"type": "?"})
        third.close()

    assert said == {"sockets": 0, "signals": [True, True]}
    assert again["status"] == "ERROR"


@PATCHED
def test_a_client_sees_the_end_of_a_worker_whose_child_lives_on(folder: Path, patch: tuple[str, ...]) -> None:
    with GserverProcess(folder, "app:app", *patch) as server, Client(server.address, JsonLines()) as client:
        (worker,) = server.serving_pids()
        child = client.call({"type": "stays"})["pid"]
        os.kill(worker, signal.SIGKILL)

        with pytest.raises(ConnectionClosed):
            client.call({"type": "?"})
        server.wait_for_log("Worker ready", 2)
        assert os.path.exists(f"/proc/{child}")  # until the server stops


def test_a_child_with_a_running_event_loop_neither_serves_nor_counts(folder: Path) -> None:
    """time.sleep() is gevent's in the child too: its copy of the loop, and of all timers, turns."""
    with (
        GserverProcess(folder, "app:app", "--stats-socket", "stats", "--first-byte-timeout", "1") as server,
        Client(server.address, JsonLines()) as client,
    ):
        child = client.call({"type": "stays"})["pid"]
        idle = socket.create_connection(server.address)
        assert idle.recv(1) == b""  # the worker closes it, once
        idle.close()
        wait_for(lambda: stats(folder)["totals"]["open"] <= 1, "the books are closed")
        os.kill(server.serving_pids()[0], signal.SIGSTOP)
        before = stats(folder)["totals"]
        with socket.create_connection(server.address) as waits:
            waits.settimeout(0.5)
            waits.sendall(b"{}\n")
            with pytest.raises(TimeoutError):  # no process accepts
                waits.recv(1)
            assert stats(folder)["totals"] == before
        os.kill(server.serving_pids()[0], signal.SIGCONT)
        os.kill(child, signal.SIGTERM)
        wait_for(lambda: not is_working(child), "TERM ends the child")


def is_working(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stats(folder: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "stats"))
        with sock.makefile() as file:
            return json.load(file)


MOLD_APP = """
import os, time
from gserver import Lines, Service
if os.fork() == 0:  # as a library may that starts a helper when it is imported
    while True:
        time.sleep(1)
app = Service(lambda line, conn: line, Lines)
"""


def test_processes_forked_by_the_preload_import_end_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MOLD_APP)
    with GserverProcess(tmp_path, "app:app", "--preload") as server:
        with Client(server.address, Lines()) as client:
            assert client.call(b"x") == b"x"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_an_inert_descriptor_keeps_its_number_and_leads_nowhere() -> None:
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    before = os.listdir("/proc/self/fd")
    make_inert([ours.fileno(), listener.fileno(), -1])

    assert len(os.listdir("/proc/self/fd")) == len(before) + 1  # the other end of a pipe
    assert theirs.recv(1) == b""
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        ours.send(b"x")
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        listener.accept()
    ends = {os.readlink(f"/proc/self/fd/{name}"): name for name in os.listdir("/proc/self/fd") if name not in before}
    for sock in (ours, theirs, listener):
        sock.close()
    os.close(int(next(iter(ends.values()))))


def test_without_descriptors_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", pipe)
    ours, theirs = socket.socketpair()
    make_inert([ours.fileno()])

    assert theirs.recv(1) == b""
    ours.detach()
    theirs.close()


def test_what_a_copy_of_a_worker_counts_is_its_own() -> None:
    scoreboard = Scoreboard(2)
    slot = scoreboard.free_slot()
    slot.reserve(1)
    slot.cells[0] = 5
    pid = os.fork()
    if pid == 0:
        scoreboard.become_private()
        status = slot.cells[0]
        slot.cells[0] = 99
        slot.deadline = 5.0
        os._exit(status)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 5
    assert slot.cells[0] == 5
    assert slot.deadline is None
