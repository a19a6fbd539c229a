"""Workers that hang, are recycled or receive signals, with the real executable."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from gserver.arbiter.supervision import JUMP_GRACE_S, JUMP_S
from gserver.arbiter.worker_processes import EXIT_CANNOT_START
from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, is_alive, run_gserver, wait_for
from tests.helpers.swarm import LINE_APP, Swarm

# The line "spin" blocks the event loop for ever, "sleep" blocks in C so that no signal handler runs in between, and
# "wait" waits in gevent; the reply to all other lines is the pid.
STUCK_APP = """
import os, time, ctypes
import gevent
from gserver import Lines, Service

def answer(line, conn):
    if line == b"spin":
        while True: pass  # on one line, because the line in the traceback depends on Python's version
    if line == b"sleep":
        while True:
            ctypes.CDLL(None).usleep(1_000_000)
    if line == b"wait":
        gevent.sleep(3600)
    return b"%d" % os.getpid()

app = Service(answer, Lines)
"""


@pytest.fixture
def stuck_app(tmp_path: Path) -> str:
    (tmp_path / "stuck.py").write_text(STUCK_APP)
    return "stuck:app"


def test_a_spinning_worker_logs_its_stack_and_connection_and_is_replaced(tmp_path: Path, stuck_app: str) -> None:
    with (
        GserverProcess(tmp_path, stuck_app, "--timeout", "2") as server,
        Client(server.address, Lines()) as waits,
        Client(server.address, Lines()) as spins,
    ):
        (worker,) = server.workers()
        waits.call(b"?")
        waits.send(b"wait")
        wait_for(lambda: server.unread_bytes() == 0, "the first message is in its handler")
        host, port = spins.local_address
        spins.send(b"spin")
        server.wait_for_log("Worker exited with signal SIGABRT")
        server.wait_for_log("Worker ready", 2)

        with Client(server.address, Lines()) as other:
            assert int(other.call(b"?")) != worker.pid
    assert f"Worker missed its heartbeat deadline (pid: {worker.pid})" in server.log
    assert re.search(rf"Running greenlet for <Connection {worker.pid}-\d+ {host}:{port} open>", server.log)
    assert "while True:" in server.log
    assert re.search(rf"Waiting greenlet for <Connection {worker.pid}-\d+ [\d.:]+ open>", server.log)
    assert "gevent.sleep(3600)" in server.log


def test_a_worker_that_hangs_in_c_logs_its_stack_too(tmp_path: Path, stuck_app: str) -> None:
    with (
        GserverProcess(tmp_path, stuck_app, "--timeout", "2") as server,
        Client(server.address, Lines()) as client,
    ):
        client.send(b"sleep")
        server.wait_for_log("Worker ready", 2)

    assert re.search(r'File ".*stuck\.py", line \d+ in answer', server.log)


def test_usr2_to_a_worker_only_dumps_its_stacks(tmp_path: Path, stuck_app: str) -> None:
    with GserverProcess(tmp_path, stuck_app) as server, Client(server.address, Lines()) as client:
        pid = int(client.call(b"?"))
        os.kill(pid, signal.SIGUSR2)
        server.wait_for_log("idle greenlets")

        assert int(client.call(b"?")) == pid
        assert f"Stacks of the worker, requested by USR2 (pid: {pid})" in server.log
        assert not re.search(r"CRITICAL|ERROR|not heard of", server.log)


def test_a_preload_process_that_hangs_at_its_import_logs_its_stack(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import time\ndef hangs():\n    time.sleep(3600)\nhangs()\n")
    ended = run_gserver("app:app", "-b", "127.0.0.1:0", "--ready-timeout", "4", "--preload", cwd=tmp_path)

    assert ended.returncode == EXIT_CANNOT_START
    assert "Worker did not become ready in time" in ended.stderr
    assert re.search(r'File ".*app\.py", line 3,? in hangs', ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_ends_after_a_signal_is_no_error(tmp_path: Path, number: int) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app") as server:
        os.kill(server.serving_pids()[0], number)
        server.wait_for_log("Worker ready", 2)
        server.wait_for_log("Worker exited with status 0")
        assert not re.search(r"CRITICAL|before they serve", server.log)


def test_an_aborted_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text("def worker_abort(worker):\n    while True:\n        pass\n")
    (tmp_path / "stuck.py").write_text(STUCK_APP)
    with GserverProcess(tmp_path, "stuck:app", "--timeout", "1") as server, Client(server.address, Lines()) as client:
        client.send(b"spin")
        server.wait_for_log("Worker exited with signal SIGKILL")


def test_after_a_pause_of_all_processes_no_worker_is_killed(tmp_path: Path) -> None:
    """Like a paused virtual machine: arbiter and workers are suspended, and resume long after all deadlines."""
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "--timeout", "2", workers=2) as server:
        tree = server.tree()
        for one in tree:
            one.suspend()
        stopped_at = time.monotonic()
        wait_for(lambda: time.monotonic() > stopped_at + 2 + JUMP_S + 0.5, "all deadlines are over")
        for one in tree:
            one.resume()
        resumed_at = time.monotonic()
        wait_for(lambda: time.monotonic() > resumed_at + JUMP_GRACE_S + 0.5, "the arbiter has looked again")

        assert server.tree() == tree
        assert "not heard of" not in server.log


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--max-requests", "50", "--max-requests-jitter", "10"), r"it has handled \d+ messages"),
        (("--worker-max-age", "1", "--worker-max-age-jitter", "0.5"), r"it is \d+ s old"),
        (("--worker-max-rss", "1M"), r"it uses \d+ MiB of memory"),
    ],
    ids=["messages", "age", "memory"],
)
def test_recycled_workers_are_replaced_without_a_lost_exchange(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", *arguments, "--drain-spread", "0.2", workers=2) as server:
        before = {worker.pid for worker in server.workers()}
        with Swarm(server.address, long=8, short=2) as swarm:
            server.wait_for_log(f"Worker is to be recycled: {reason}", 2)
            wait_for(lambda: not before & {each.pid for each in server.workers() if is_alive(each)}, "both are gone")
        assert swarm.tally.faults == []
        server.wait_for_log("Worker exited with status 0")  # the arbiter may not have reaped it yet


def test_ttin_and_ttou_change_the_number_of_workers_without_a_lost_exchange(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "--drain-spread", "0.2", workers=1) as server:
        with Swarm(server.address, long=8, short=2) as swarm:
            server.signal(signal.SIGTTIN)
            wait_for(lambda: len(server.serving_pids()) == 2, "there are two workers")
            server.signal(signal.SIGTTOU)
            wait_for(lambda: len(server.workers()) == 1, "there is one worker")
            server.signal(signal.SIGTTOU)  # never below one
            verified = swarm.tally.verified
            wait_for(lambda: swarm.tally.verified > verified + 100, "exchanges go on")
        assert swarm.tally.faults == []
        assert len(server.workers()) == 1


def test_winch_drains_all_workers_and_hup_brings_them_back(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", workers=2) as server:
        server.signal(signal.SIGWINCH)
        wait_for(lambda: server.workers() == [], "no worker is left")
        with Client(server.address, Lines()) as client:
            server.signal(signal.SIGHUP)

            assert int(client.recv()) in {worker.pid for worker in server.workers()}


def test_term_to_a_worker_drains_it_and_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "--drain-spread", "0.2", workers=2) as server:
        with Swarm(server.address, long=8, short=2) as swarm:
            server.workers()[0].terminate()
            server.wait_for_log("Worker ready", 3)
            server.wait_for_log("Worker exited with status 0")
        assert swarm.tally.faults == []
        assert "ERROR" not in server.log


def test_bursts_of_long_connections_are_spread_evenly_and_a_new_worker_catches_up(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "--drain-spread", "0", workers=4) as server:
        held = [client for _ in range(8) for client in burst(server, 50)]
        assert spread(held) <= 1.15
        victim = held[0][1]
        server.kill_worker(victim)
        held = [each for each in held if each[1] != victim]
        held += [client for _ in range(4) for client in burst(server, 50)]

        assert len({pid for _, pid in held}) == 4
        assert spread(held) <= 1.15
        for client, _ in held:
            client.close()


def burst(server: GserverProcess, size: int) -> list[tuple[Client, int]]:
    clients = [Client(server.address, Lines()) for _ in range(size)]
    return [(client, int(client.recv())) for client in clients]


def spread(held: list[tuple[Client, int]]) -> float:
    """Return the largest number of connections of a worker divided by the smallest."""
    counts = [sum(pid == each for _, each in held) for pid in {pid for _, pid in held}]
    return max(counts) / min(counts)
