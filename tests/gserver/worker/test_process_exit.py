"""The exit of a worker: stop= of the service, hooks and atexit run once, in order, within a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, run_gserver, wait_for

#: Notes what happens in which process; {stop} and {exit} are the bodies of the service's stop() and of a function that
#: is given to atexit.
APP = """
import asyncio, atexit, os, sys, threading, time
import gevent
from gserver import JsonService, Lines, Service, stream

def note(what):
    with open("notes", "a") as file:
        file.write(f"{{what}} {{os.getpid()}}\\n")

def stop():
    note("stop")
    {stop}

def at_exit():
    note("atexit")
    {exit}

atexit.register(at_exit)
app = Service(lambda line, conn: b"%d" % os.getpid(), Lines, on_close=lambda conn, reason: note("close"), stop=stop)
json = JsonService(stop=stop)

@stream(codec=Lines, stop=stop)
def lines(conn):
    for line in conn:
        conn.send(line)
"""
CONFIG = """
def worker_exit(server, worker):
    with open("notes", "a") as file:
        file.write(f"exit {worker.pid}\\n")
"""
#: What the end may take, after the time of the drain, is made short.
SHORT = "from gserver.worker import worker\nworker.END_S = worker.STOP_S = 0.6\n"
ALL = ["stop", "exit", "atexit"]
QUICK = ("--drain-spread", "0", "--reload-settle", "0.1")


def write(folder: Path, stop: str = "pass", exit: str = "pass") -> None:
    (folder / "app.py").write_text(APP.format(stop=stop, exit=exit))
    (folder / "gserver.conf.py").write_text(CONFIG + (SHORT if "3600" in stop + exit or "wait" in exit else ""))


def notes(folder: Path, pid: int) -> list[str]:
    path = folder / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [what for what, its in map(str.split, lines) if its == str(pid)]


@pytest.mark.parametrize("arguments", [(), ("--preload",), ("--no-patch",)], ids=["plain", "preload", "no patch"])
def test_a_worker_ends_as_a_program_does_and_in_order(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write(tmp_path)
    with GserverProcess(tmp_path, "app:app", *QUICK, *arguments) as server:
        with Client(server.address, Lines()) as client:
            pid = int(client.call(b"?"))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert notes(tmp_path, pid) == ["close", *ALL]


@pytest.mark.parametrize("app", ["app:json", "app:lines"])
def test_every_kind_of_service_has_a_stop(tmp_path: Path, app: str) -> None:
    write(tmp_path)
    with GserverProcess(tmp_path, app, *QUICK) as server:
        (pid,) = server.serving_pids()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert notes(tmp_path, pid) == ALL


@pytest.mark.parametrize("why", ["reload", "recycling", "TERM to the worker", "interrupt", "the arbiter is killed"])
def test_whyever_it_ends_in_order(tmp_path: Path, why: str) -> None:
    write(tmp_path)
    worn = ("--max-requests", "1") if why == "recycling" else ()
    with GserverProcess(tmp_path, "app:app", *QUICK, *worn) as server:
        (worker,) = server.workers()
        if why == "reload":
            server.signal(signal.SIGHUP)
        elif why == "recycling":
            with Client(server.address, Lines()) as client:
                client.call(b"?")
        elif why == "TERM to the worker":
            worker.terminate()
        else:
            server.signal(signal.SIGINT if why == "interrupt" else signal.SIGKILL)
        wait_for(lambda: notes(tmp_path, worker.pid)[-3:] == ALL, "it ended in order")
        wait_for(lambda: not worker.is_running(), "it has ended")


def test_an_immediate_exit_runs_atexit_only(tmp_path: Path) -> None:
    write(tmp_path)
    with GserverProcess(tmp_path, "app:app", *QUICK) as server:
        (worker,) = server.workers()
        worker.send_signal(signal.SIGQUIT)
        server.wait_for_log("Worker exited with status 0")

    assert notes(tmp_path, worker.pid) == ["atexit"]


@pytest.mark.parametrize(
    "raised",
    ["1 / 0", "sys.exit(3)", "raise asyncio.CancelledError", "raise KeyboardInterrupt", "raise gevent.Timeout"],
)
def test_what_the_stop_raises_is_logged_and_the_rest_goes_on(tmp_path: Path, raised: str) -> None:
    write(tmp_path, stop=raised)
    with GserverProcess(tmp_path, "app:app", *QUICK) as server:
        (pid,) = server.serving_pids()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert "stop() of the service failed" in server.log
    assert raised in server.log
    assert f"Worker exited with status 0 (pid: {pid})" in server.log
    assert notes(tmp_path, pid) == ALL


@pytest.mark.parametrize("raised", ["1 / 0", "sys.exit(3)", "raise asyncio.CancelledError"])
def test_what_atexit_raises_does_not_change_the_end(tmp_path: Path, raised: str) -> None:
    write(tmp_path, exit=raised)
    with GserverProcess(tmp_path, "app:app", *QUICK) as server:
        (pid,) = server.serving_pids()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert f"Worker exited with status 0 (pid: {pid})" in server.log
    assert raised in server.log


def test_a_stop_that_does_not_return_is_given_up_after_the_graceful_timeout(tmp_path: Path) -> None:
    write(tmp_path, stop="time.sleep(3600)")
    with GserverProcess(tmp_path, "app:app", *QUICK, "--graceful-timeout", "0.5") as server:
        (pid,) = server.serving_pids()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert "stop() of the service did not return within 0.6 s and is killed" in server.log
    assert f"Worker exited with status 0 (pid: {pid})" in server.log
    assert notes(tmp_path, pid) == ALL


@pytest.mark.parametrize(
    ("stop", "exit", "arguments"),
    [
        ("time.sleep(3600)", "pass", ("--no-patch",)),
        ("pass", "time.sleep(3600)", ("--no-patch",)),
        ("pass", "time.sleep(3600)", ()),
    ],
    ids=["stop in the system", "atexit in the system", "atexit in the loop"],
)
def test_an_exit_that_hangs_is_bounded_and_logs_its_stack(
    tmp_path: Path, stop: str, exit: str, arguments: tuple[str, ...]
) -> None:
    write(tmp_path, stop, exit)
    with GserverProcess(tmp_path, "app:app", *QUICK, *arguments, "--graceful-timeout", "0.2") as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert "The process does not exit in time and is ended; its stack:" in server.log
    assert (stop if stop != "pass" else exit) in server.log
    assert "Sending KILL to worker" not in server.log


def test_an_end_that_hangs_is_bounded_without_an_arbiter_too(tmp_path: Path) -> None:
    write(tmp_path, exit="time.sleep(3600)")
    with GserverProcess(tmp_path, "app:app", *QUICK, "--graceful-timeout", "0.2") as server:
        (worker,) = server.workers()
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: not worker.is_running(), "it has ended")


def test_an_interrupt_does_not_wait_for_the_graceful_timeout(tmp_path: Path) -> None:
    write(tmp_path, exit="time.sleep(3600)")
    with GserverProcess(tmp_path, "app:app", *QUICK, "--graceful-timeout", "3600") as server:
        began = time.monotonic()
        server.signal(signal.SIGINT)

        assert server.wait() == 0
        assert time.monotonic() - began < 20


def test_a_worker_that_cannot_serve_runs_atexit_all_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "app.py").open("a") as file:
        file.write("def ready():\n    1 / 0\napp.ready = ready\n")
    run_gserver("app:app", "-b", "127.0.0.1:0", cwd=tmp_path)

    assert [line.split()[0] for line in (tmp_path / "notes").read_text().splitlines()] == ["atexit"]


def test_threads_that_do_not_end_hold_up_no_end(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "app.py").open("a") as file:
        file.write("app.ready = threading.Thread(target=time.sleep, args=(3600,)).start\n")
    with GserverProcess(tmp_path, "app:app", *QUICK) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert "does not exit in time" not in server.log


PRINTS = "\nprint('loaded')\n"
FULL = "import os\nos.dup2(int(os.environ['FULL_PIPE']), 1)\n"


def test_unread_output_delays_no_exit(tmp_path: Path) -> None:
    """What the application has printed is still buffered, and the pipe is full."""
    write(tmp_path)
    with (tmp_path / "app.py").open("a") as file:
        file.write(PRINTS)
    (tmp_path / "gserver.conf.py").write_text(FULL)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 65536)
    os.set_blocking(writing, True)
    environment = {"FULL_PIPE": str(writing), "PYTHONUNBUFFERED": ""}
    with GserverProcess(tmp_path, "app:app", *QUICK, environment=environment, pass_fds=[writing]) as server:
        (worker,) = server.workers()
        worker.terminate()
        server.wait_for_log(rf"Worker exited with status 1 \(pid: {worker.pid}\)")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    for descriptor in (reading, writing):
        os.close(descriptor)
