"""gserver.offload in a real worker: nothing of a pool outlives its worker, and no reply is lost to a reload."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, children_of, is_running, run_gserver, wait_for

APP = """
import os, time
from gserver import Lines, Service, offload
import work

def on_message(line, conn):
    how, _, argument = line.decode().partition(" ")
    try:
        return str(FUNCTIONS[how](argument)).encode()
    except Exception as error:
        return f"{type(error).__name__}: {error}".encode()

FUNCTIONS = {
    "worker": lambda argument: os.getpid(),
    "pid": lambda argument: offload.process(work.pid),
    "die": lambda argument: offload.process(work.die),
    "wait": lambda argument: offload.process(work.wait_for, argument),
    "brief": lambda argument: offload.process(work.wait_for, argument, timeout=0.2),
    "thread": lambda argument: offload.thread(work.wait_for, argument),
    "patched": lambda argument: offload.process(work.is_patched),
    "threads": lambda argument: offload.process(work.threads),
    "print": lambda argument: offload.process(work.say, argument),
    "files": lambda argument: offload.process(work.files),
}

app = Service(on_message, Lines)
"""
WORK = """
import os, signal, socket, subprocess, threading, time

def pid(): return os.getpid()
def say(text): print(text, flush=True)
def die(): os.kill(os.getpid(), signal.SIGKILL)
def is_patched(): return "gevent" in repr(socket.socket.__mro__)

def wait_for(name):
    open(name + ".begun", "w").write(str(os.getpid()))
    end = time.monotonic() + 60
    while not os.path.exists(name) and time.monotonic() < end:
        time.sleep(0.01)
    return "done"

def threads():
    barrier = threading.Barrier(4)
    others = [threading.Thread(target=barrier.wait) for _ in range(3)]
    for other in others: other.start()
    barrier.wait(30)
    return subprocess.run(["echo", "ran"], capture_output=True, text=True).stdout.strip()

def files():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            continue
    return sum(each.startswith("socket:") for each in found)
"""


def start(
    folder: Path, *arguments: str, workers: int = 1, processes: int = 2, log: Path | None = None
) -> GserverProcess:
    (folder / "app.py").write_text(APP)
    (folder / "work.py").write_text(WORK)
    options = ("--offload-processes", str(processes), "--reload-settle", "0", "--stats-socket", "stats")
    return GserverProcess(folder, *options, *arguments, "app:app", workers=workers, log=log)


def connect(server: GserverProcess) -> Client:
    return Client(server.address, Lines())


def ask(server: GserverProcess, line: bytes) -> str:
    with connect(server) as client:
        return client.call(line).decode()


def begin(server: GserverProcess, folder: Path, line: str) -> socket.socket:
    """Send a line such as "wait NAME"; return the connection when the function runs."""
    begun = folder / (line.partition(" ")[2] + ".begun")
    sock = server.connect()
    sock.sendall(line.encode() + b"\n")
    wait_for(lambda: begun.exists() and bool(begun.read_text()), "the function runs")
    return sock


def pool_of(worker: int) -> set[int]:
    return children_of(worker)


def stats(server: GserverProcess, folder: Path) -> dict[str, dict[str, int]]:
    found = json.loads(run_gserver("--stats", str(folder / "stats"), cwd=folder).stdout)
    return dict(found["totals"]["offload"])


@pytest.mark.parametrize("more", [(), ("--preload",), ("--no-patch",)], ids=["plain", "preload", "unpatched"])
def test_functions_run_in_fresh_interpreters_that_exist_before_the_worker_is_ready(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    with start(tmp_path, *more) as server:
        (worker,) = server.serving_pids()
        pool = pool_of(worker)

        assert len(pool) == 2
        assert int(ask(server, b"pid")) in pool
        assert ask(server, b"patched") == "False"
        assert ask(server, b"threads") == "ran"
        assert ask(server, b"files") == "1"  # no listener, no connection, no channel


def test_after_a_log_rotation_each_process_is_replaced_once_it_has_made_a_call(tmp_path: Path) -> None:
    """With capture_output, its standard output is the error log that was open at its start."""
    log = tmp_path / "errors"
    with (
        start(tmp_path, "--capture-output", "--error-logfile", str(log), processes=1, log=log) as server,
        connect(server) as client,
    ):
        (worker,) = server.serving_pids()
        before = pool_of(worker)
        client.call(b"print first")
        log.rename(tmp_path / "errors.1")
        server.signal(signal.SIGUSR1)
        wait_for(log.exists, "the log is opened again")

        client.call(b"print second")
        wait_for(lambda: not before & pool_of(worker), "the process is replaced")
        client.call(b"print third")
        assert "third" in log.read_text()
        assert "third" not in (tmp_path / "errors.1").read_text()


def test_a_killed_process_fails_one_call_and_is_replaced(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        (worker,) = server.serving_pids()
        with begin(server, tmp_path, "wait one") as sock:
            killed = int((tmp_path / "one.begun").read_text())
            os.kill(killed, signal.SIGKILL)
            reply = sock.recv(1000).decode()

        assert reply.startswith(f"Died: the process (pid: {killed}) that ran wait_for was killed by SIGKILL")
        wait_for(lambda: len(pool_of(worker) - {killed}) == 2, "the process is replaced")
        assert int(ask(server, b"pid")) in pool_of(worker)
        assert stats(server, tmp_path)["process"] == {"calls": 2, "refused": 0, "timeouts": 0, "died": 1}


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    with (
        start(tmp_path, "--offload-queue", "0", processes=1) as server,
        begin(server, tmp_path, "wait one") as sock,
    ):
        assert ask(server, b"pid").startswith("Full: no process is free")
        (tmp_path / "one").touch()
        assert sock.recv(100) == b"done\n"


def test_a_timeout_kills_the_process(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        assert ask(server, b"brief one") == ("Timeout: wait_for did not return within 0.2 s, and its process is killed")
        killed = int((tmp_path / "one.begun").read_text())
        wait_for(lambda: not is_running(killed), "the process is killed")


def test_the_handler_timeout_kills_the_process(tmp_path: Path) -> None:
    with start(tmp_path, "--handler-timeout", "0.5") as server, begin(server, tmp_path, "wait one") as sock:
        killed = int((tmp_path / "one.begun").read_text())
        wait_for(lambda: not is_running(killed), "the process is killed")

        assert sock.recv(100) == b""
        assert int(ask(server, b"pid")) != killed


@pytest.mark.parametrize("how", ["wait", "thread"])
def test_a_reload_waits_for_calls_that_run(tmp_path: Path, how: str) -> None:
    with start(tmp_path) as server:
        (worker,) = server.serving_pids()
        pool = pool_of(worker)
        with begin(server, tmp_path, f"{how} one") as sock:
            (tmp_path / "work.py").write_text(WORK + "\n# changed\n")
            server.signal(signal.SIGHUP)
            server.wait_for_log("Worker ready", 2)
            wait_for(lambda: ask(server, b"worker") != str(worker), "the new worker serves")
            (tmp_path / "one").touch()

            assert sock.recv(100) == b"done\n"
        wait_for(lambda: not any(map(is_running, pool)), "the old pool has ended")


def test_a_stop_kills_calls_that_run_longer_than_the_graceful_timeout(tmp_path: Path) -> None:
    with start(tmp_path, "--graceful-timeout", "0.5") as server:
        with begin(server, tmp_path, "wait one"):
            process = psutil.Process(int((tmp_path / "one.begun").read_text()))
            server.signal(signal.SIGTERM)
            assert server.wait() == 0

        assert not is_running(process.pid)


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_no_process_is_left_behind_by_a_worker_that_is_killed(tmp_path: Path, more: tuple[str, ...]) -> None:
    with start(tmp_path, *more) as server:
        (worker,) = server.serving_pids()
        pool = pool_of(worker)
        with begin(server, tmp_path, "wait one"):  # one process is busy, the other one idle
            server.kill_worker(worker)

            wait_for(lambda: not any(map(is_running, pool)), "the pool has ended")


def test_no_process_is_left_behind_if_the_arbiter_is_killed(tmp_path: Path) -> None:
    server = start(tmp_path)
    with server:
        (worker,) = server.serving_pids()
        pool = pool_of(worker)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, [worker, *pool])), "all have ended")


def test_a_quick_stop_ends_the_pool(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        (worker,) = server.serving_pids()
        pool = pool_of(worker)
        with begin(server, tmp_path, "wait one"):
            server.signal(signal.SIGQUIT)
            server.wait()

        assert not any(map(is_running, pool))


def test_a_daemons_pool_does_not_hold_the_output_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "work.py").write_text(WORK)
    options = ("--offload-processes", "1", "-b", "unix:sock", "--pid", "pid", "--log-file", "log")
    done = run_gserver("-D", *options, "app:app", cwd=tmp_path)  # reads the output until its end

    assert done.returncode == 0, done.stderr
    arbiter = psutil.Process(int((tmp_path / "pid").read_text()))
    tree = [arbiter, *arbiter.children(recursive=True)]
    assert len(tree) == 3
    arbiter.terminate()
    wait_for(lambda: not any(is_running(each.pid) for each in tree), "it has stopped")


def test_a_configuration_is_checked_with_its_pool(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "app.py").write_text(
        APP + "app.ready = lambda: print(offload.process(work.threads), offload.thread(work.is_patched), flush=True)\n"
    )
    checked = run_gserver("--check-config", "--offload-processes", "1", "app:app", cwd=tmp_path)

    assert checked.returncode == 0, checked.stderr
    assert "ran True" in checked.stdout
