"""The stats socket: its document, its readers, and its path."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.arbiter.stats_socket import MAX_READERS, StatsSocket, document, read_stats
from gserver.arbiter.supervision import Supervision
from gserver.client import Client
from gserver.codecs import JsonLines
from gserver.counters import CELLS, MESSAGES, Counters, bus_cell, offload_cell
from gserver.errors import CloseReason, ConfigError
from gserver.process.unix_sockets import short_path
from tests.helpers.processes import GserverProcess, run_gserver, wait_for

SUM = {"type": "SUM", "a": 10, "b": 20}


class Arbiter:
    """A scoreboard, the records of workers and a loop, as in the arbiter."""

    def __init__(self, path: Path | None, workers: int = 1, counted: int = 0) -> None:
        """counted: what stands in each cell of each worker."""
        self.scoreboard = Scoreboard(1000)
        self.supervision = Supervision(workers)
        self.selector = selectors.DefaultSelector()
        self.stats = StatsSocket(None if path is None else str(path), self.selector)
        self.slots = [self.hire(100 + number, counted) for number in range(workers)]

    def hire(self, pid: int, counted: int) -> Slot:
        slot = self.scoreboard.free_slot()
        slot.reserve(age=pid - 99)
        slot.assign(pid)
        self.supervision.spawned(pid, 0.0, age=pid - 99)
        for cell in range(CELLS) if counted else ():
            slot.cells[cell] = counted
        return slot

    def open(self, suffix: str = "") -> None:
        self.stats.open(self.scoreboard, self.supervision, suffix)

    def turn(self, timeout_s: float = 0.0) -> int:
        """One turn of the loop; how many things there were to do."""
        ready = self.selector.select(timeout_s)
        for key, _ in ready:
            key.data()
        return len(ready)

    def close(self) -> None:
        self.stats.close()
        self.selector.close()


@pytest.fixture
def arbiter(tmp_path: Path) -> Iterator[Arbiter]:
    made = Arbiter(tmp_path / "stats", workers=2)
    made.open()
    yield made
    made.close()


def connect(path: Path) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    reader.settimeout(60)
    reader.connect(str(path))
    return reader


def read_to_end(reader: socket.socket) -> bytes:
    received = b""
    while data := reader.recv(1 << 16):
        received += data
    return received


def law_holds(counts: dict[str, Any]) -> bool:
    return bool(counts["accepted"] == counts["open"] + sum(counts["closed"].values()))


# The document


def test_every_worker_and_the_totals_are_in_the_document() -> None:
    arbiter = Arbiter(None, workers=2)
    for slot, opened in zip(arbiter.slots, (3, 2), strict=True):
        counters = Counters(slot.cells)
        for _ in range(opened):
            counters.opened()
        counters.ended(CloseReason.PEER_EOF)
        slot.cells[MESSAGES] += 10
    arbiter.slots[1].lag_s = 0.25
    for event in ("calls", "died"):
        arbiter.slots[1].cells[offload_cell("process", event)] += 1
    arbiter.slots[0].cells[bus_cell("published")] += 2
    arbiter.slots[1].cells[bus_cell("delivered")] += 5
    arbiter.supervision.became_ready(101, 0.0)
    reply = document(arbiter.scoreboard, arbiter.supervision)
    arbiter.close()

    one, other = reply["workers"]
    assert (one["pid"], one["age"], one["generation"], one["state"], one["lag_s"]) == (100, 1, 0, "booting", 0)
    assert (other["pid"], other["age"], other["state"], other["lag_s"]) == (101, 2, "ready", 0.25)
    assert one["closed"] == other["closed"] == {"peer_eof": 1}
    assert (one["accepted"], one["open"], one["messages"]) == (3, 2, 10)
    totals = {"accepted": 5, "open": 3, "messages": 20, "errors": 0, "received_bytes": 0, "sent_bytes": 0}
    offload = {
        "thread": {"calls": 0, "refused": 0, "timeouts": 0},
        "process": {"calls": 1, "refused": 0, "timeouts": 0, "died": 1},
    }
    bus = {"published": 2, "delivered": 5, "dropped": 0}
    assert reply["totals"] == {**totals, "closed": {"peer_eof": 2}, "offload": offload, "bus": bus}
    assert reply["pid"] == os.getpid()


def test_a_worker_that_stands_still_is_seen_while_it_does() -> None:
    """It cannot write how late it is, but its heartbeat grows old."""
    arbiter = Arbiter(None, workers=3)
    now = time.monotonic()
    arbiter.slots[1].heartbeat_at = now
    arbiter.slots[1].lag_s = 2.5
    arbiter.slots[1].lag_s = 0.0015
    arbiter.slots[2].heartbeat_at = now - 31.0
    booting, well, still = document(arbiter.scoreboard, arbiter.supervision)["workers"]
    arbiter.close()

    assert (booting["heartbeat_age_s"], booting["lag_s"], booting["lag_max_s"]) == (None, 0.0, 0.0)
    assert booting["lag_histogram"] == {}
    assert 0.0 <= well["heartbeat_age_s"] < 1.0
    assert (well["lag_s"], well["lag_max_s"], well["lag_histogram"]) == (0.0015, 2.5, {"0.002": 1, "4.096": 1})
    assert 31.0 <= still["heartbeat_age_s"] < 40.0
    assert still["lag_s"] == still["lag_max_s"] == pytest.approx(still["heartbeat_age_s"] - 1.0)


def test_ended_workers_are_in_the_totals_only() -> None:
    arbiter = Arbiter(None, workers=2)
    for slot in arbiter.slots:
        Counters(slot.cells).opened()
    arbiter.scoreboard.vacate(arbiter.slots[0])
    arbiter.supervision.exited(100, 0.0)
    reply = document(arbiter.scoreboard, arbiter.supervision)
    arbiter.close()

    assert [worker["pid"] for worker in reply["workers"]] == [101]
    assert (reply["totals"]["accepted"], reply["totals"]["open"]) == (2, 1)
    assert reply["totals"]["closed"] == {"worker_died": 1}


def test_the_counts_balance_in_every_document_while_a_worker_counts() -> None:
    arbiter = Arbiter(None)
    pid = os.fork()
    if pid == 0:
        counters = Counters(arbiter.slots[0].cells)
        while True:
            counters.opened()
            counters.ended(CloseReason.PEER_EOF)
    reply = [document(arbiter.scoreboard, arbiter.supervision) for _ in range(2000)]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    arbiter.scoreboard.vacate(arbiter.slots[0])
    arbiter.supervision.exited(100, 0.0)
    at_last = document(arbiter.scoreboard, arbiter.supervision)["totals"]
    arbiter.close()

    assert reply[-1]["totals"]["accepted"] > reply[0]["totals"]["accepted"]
    assert all(law_holds(each["totals"]) and law_holds(each["workers"][0]) for each in reply)
    assert all(each["totals"]["open"] >= 0 for each in reply)
    assert law_holds(at_last)
    assert at_last["open"] == 0


# Health


def serve(arbiter: Arbiter, *ages_s: float) -> None:
    """Every worker serves, and has sent its last heartbeat so long ago."""
    for slot, age_s in zip(arbiter.slots, ages_s, strict=True):
        arbiter.supervision.became_ready(slot.pid, 0.0)
        slot.heartbeat_at = time.monotonic() - age_s
    arbiter.supervision.decide(0.0, {})


def test_a_server_without_ready_workers_is_not_healthy() -> None:
    arbiter = Arbiter(None, workers=2)
    reply = document(arbiter.scoreboard, arbiter.supervision)
    arbiter.close()

    assert (reply["healthy"], reply["problem"]) == (False, "no worker serves")
    assert [(worker["heartbeat_age_s"], worker["stuck"]) for worker in reply["workers"]] == [(None, False)] * 2


@pytest.mark.parametrize(
    ("ages_s", "stuck", "healthy"),
    [
        ((0.0, 1.5), [False, False], True),
        ((4.5, 4.5), [False, False], True),
        ((60.0, 4.5), [True, False], True),
        ((60.0, 5.5), [True, True], False),
    ],
)
def test_a_server_is_healthy_while_one_worker_is_not_stuck(
    ages_s: tuple[float, float], stuck: list[bool], healthy: bool
) -> None:
    arbiter = Arbiter(None, workers=2)
    serve(arbiter, *ages_s)
    reply = document(arbiter.scoreboard, arbiter.supervision)
    arbiter.close()

    assert [worker["stuck"] for worker in reply["workers"]] == stuck
    for worker, age_s in zip(reply["workers"], ages_s, strict=True):
        assert age_s <= worker["heartbeat_age_s"] < age_s + 0.4
    assert reply["healthy"] is healthy
    problem = "every worker that serves is stuck: the last heartbeat is 5."
    assert reply["problem"] is None if healthy else reply["problem"].startswith(problem)


def test_a_server_without_workers_or_one_that_stops_is_not_healthy() -> None:
    dismissed, stopping = Arbiter(None, workers=0), Arbiter(None)
    serve(stopping, 0.0)
    stopping.supervision.stop(0.0, 30.0)
    reply = [document(each.scoreboard, each.supervision)["problem"] for each in (dismissed, stopping)]
    dismissed.close()
    stopping.close()

    assert reply == ["no worker serves", "the server is stopping"]


def test_the_command_fails_as_long_as_the_only_worker_is_stuck(tmp_path: Path) -> None:
    checks: list[subprocess.CompletedProcess[str]] = []

    def fails() -> bool:
        checks.append(run_gserver("--stats", "stats", cwd=tmp_path))
        return checks[-1].returncode != 0

    with GserverProcess(tmp_path, "json", "--stats-socket", "stats", "--timeout", "0") as server:
        assert not fails()
        (worker,) = server.workers()
        worker.suspend()
        wait_for(fails, "the check fails")
        failed = checks[-1]
        worker.resume()
        wait_for(lambda: not fails(), "the check succeeds again")
        server.signal(signal.SIGWINCH)
        server.wait_for_log("Worker exited")
        assert fails()

    assert (checks[0].returncode, checks[0].stderr) == (0, "")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert failed.stderr.startswith("gserver: every worker that serves is stuck: the last heartbeat is ")
    assert json.loads(failed.stdout)["workers"][0]["stuck"]
    assert (checks[-1].returncode, checks[-1].stderr) == (1, "gserver: no worker serves\n")
    assert json.loads(checks[-1].stdout)["workers"] == []


def test_a_server_with_too_few_workers_is_healthy_and_not_ready(tmp_path: Path) -> None:
    """It serves on: nothing would be better if it were restarted."""
    config = tmp_path / "conf.py"
    config.write_text("min_workers = 2\nworkers = 2\nstats_socket = 'stats'\n")
    with GserverProcess(tmp_path, "echo", "-c", str(config), workers=None) as server:
        wait_for(lambda: bool(read_stats(str(tmp_path / "stats"))["ready"]), "it is ready")
        server.signal(signal.SIGTTOU)
        server.wait_for_log("Worker exited with status 0")
        found = read_stats(str(tmp_path / "stats"))
        assert (found["healthy"], found["problem"]) == (True, None)
        assert (found["ready"], found["not_ready_because"]) == (False, "too few workers serve: 1, min_workers is 2")
        with server.connect() as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"

        config.write_text("min_workers = 1\nworkers = 1\nstats_socket = 'stats'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        assert read_stats(str(tmp_path / "stats"))["ready"]


# The socket


def test_each_client_gets_one_document_and_end_of_file(arbiter: Arbiter, tmp_path: Path) -> None:
    with connect(tmp_path / "stats") as reader:
        while arbiter.turn():
            pass
        reply = json.loads(read_to_end(reader))

    assert [worker["pid"] for worker in reply["workers"]] == [100, 101]


def test_only_its_user_may_read_it(arbiter: Arbiter, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "stats").stat().st_mode) == 0o600


def test_without_a_path_nothing_is_waited_for() -> None:
    arbiter = Arbiter(None)
    arbiter.open()

    assert not arbiter.selector.get_map()
    arbiter.close()


def test_a_reader_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    """A document of 900 workers is more than the kernel takes at once: what is left waits for its reader alone."""
    arbiter = Arbiter(tmp_path / "stats", workers=900, counted=10**9)
    arbiter.open()
    with connect(tmp_path / "stats") as deaf, connect(tmp_path / "stats") as reader:
        reader.setblocking(False)
        received = b""
        while not received.endswith(b"\n"):
            arbiter.turn(1.0)
            with contextlib.suppress(BlockingIOError):
                received += reader.recv(1 << 20)
        assert len(json.loads(received)["workers"]) == 900
        assert len(received) > 212_992
        assert arbiter.turn() == 0  # the deaf one takes no turns either
        assert deaf.recv(10)
    arbiter.close()


def test_readers_that_never_read_are_given_up_when_others_come(tmp_path: Path) -> None:
    arbiter = Arbiter(tmp_path / "stats", workers=900, counted=10**9)
    arbiter.open()
    readers = []
    for _ in range(MAX_READERS + 3):
        readers.append(connect(tmp_path / "stats"))
        arbiter.turn(1.0)

    assert len(arbiter.selector.get_map()) == 1 + MAX_READERS
    assert not read_to_end(readers[0]).endswith(b"\n")
    for reader in readers:
        reader.close()
    while arbiter.turn():
        pass
    assert len(arbiter.selector.get_map()) == 1
    arbiter.close()


def test_a_reader_that_has_gone_is_no_trouble(arbiter: Arbiter, tmp_path: Path) -> None:
    connect(tmp_path / "stats").close()
    while arbiter.turn():
        pass

    assert len(arbiter.selector.get_map()) == 1


# The path


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    arbiter = Arbiter(tmp_path / "stats")
    arbiter.open()
    arbiter.close()

    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "stats"))
    arbiter = Arbiter(tmp_path / "stats")
    arbiter.open()
    connect(tmp_path / "stats").close()
    arbiter.close()


@pytest.mark.parametrize("what", ["a file", "a server that lives"])
def test_what_is_not_a_dead_servers_stays_and_is_one_line(arbiter: Arbiter, tmp_path: Path, what: str) -> None:
    (tmp_path / "a file").write_text("keep me")
    path = tmp_path / ("a file" if what == "a file" else "stats")
    other = Arbiter(path)

    with pytest.raises(ConfigError, match=r"^stats socket '.*' cannot be made: Address already in use$"):
        other.open()
    other.close()
    assert path.exists()


def test_a_path_that_another_program_has_taken_is_left_to_it(tmp_path: Path) -> None:
    old, new = Arbiter(tmp_path / "stats"), Arbiter(tmp_path / "stats")
    old.open()
    (tmp_path / "stats").unlink()
    new.open()
    old.close()

    connect(tmp_path / "stats").close()
    new.close()


def test_a_new_arbiter_stands_beside_and_then_in_its_place(tmp_path: Path) -> None:
    old, new = Arbiter(tmp_path / "stats"), Arbiter(tmp_path / "stats")
    old.open()
    new.open(".2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stats", "stats.2"]
    old.close()
    new.stats.rename(str(tmp_path / "stats"))

    connect(tmp_path / "stats").close()
    new.close()
    assert list(tmp_path.iterdir()) == []


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    arbiter = Arbiter(folder / "stats")
    arbiter.open()
    with short_path(str(folder / "stats")) as address:
        connect(Path(address)).close()
    arbiter.close()
    assert list(folder.iterdir()) == []


# Reading


def test_a_path_without_a_socket_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^stats socket '.*/nowhere' cannot be read: No such file or directory$"):
        read_stats(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("answer", [b"", b"[1]", b'{"version": "0', b"\xff"])
def test_what_is_not_a_document_is_one_line(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "stats"))
        server.listen()
        pid = os.fork()
        if pid == 0:
            with server.accept()[0] as peer:
                peer.sendall(answer)
            os._exit(0)
        with pytest.raises(ConfigError, match=r"is not that of a gserver, or it ended meanwhile$"):
            read_stats(str(tmp_path / "stats"))
        os.waitpid(pid, 0)


def test_an_arbiter_that_is_stopped_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "stats"))
        server.listen()

        with pytest.raises(ConfigError, match=r"cannot be read: timed out$"):
            read_stats(str(tmp_path / "stats"), timeout_s=0.05)


# The real executable


def test_what_a_client_did_is_counted_and_survives_its_worker(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", "--stats-socket", "stats", workers=2) as server:
        path = str(tmp_path / "stats")
        with Client(server.address, JsonLines()) as client:
            client.call(SUM)
            during = read_stats(path)
        wait_for(lambda: read_stats(path)["totals"]["open"] == 0, "the connection has ended")
        wait_for(lambda: read_stats(path)["totals"]["received_bytes"] > 0, "its bytes are entered")
        after = read_stats(path)
        server.kill_worker(next(worker["pid"] for worker in after["workers"] if worker["accepted"]))

        assert (during["totals"]["accepted"], during["totals"]["open"], during["totals"]["messages"]) == (1, 1, 1)
        assert sum(worker["open"] for worker in during["workers"]) == 1
        assert after["totals"]["closed"] == {"peer_eof": 1}
        assert read_stats(path)["totals"] == after["totals"]
        assert {worker["pid"] for worker in read_stats(path)["workers"]} == {each.pid for each in server.workers()}
        assert all(law_holds(each) for each in [during["totals"], after["totals"], *after["workers"]])


def test_a_stall_is_in_the_document_while_it_lasts_and_a_second_after_it(tmp_path: Path) -> None:
    """However long it is, and not only until libev makes up for the beat that came late."""
    path = str(tmp_path / "stats")
    (tmp_path / "app.py").write_text(
        "import time\nfrom gevent.monkey import get_original\nfrom gserver import Lines, Service\n"
        "def wait(line, conn):\n    get_original('time', 'sleep')(float(line))\n    return line\n"
        "app = Service(wait, codec=Lines)\n"
    )
    with GserverProcess(tmp_path, "--stats-socket", path, "app:app") as server, server.connect() as client:

        def worker() -> dict[str, Any]:
            (found,) = read_stats(path)["workers"]
            return dict(found)

        client.sendall(b"0\n")
        assert client.recv(10) == b"0\n"
        assert worker()["lag_max_s"] < 2.2
        client.sendall(b"3.2\n")
        wait_for(lambda: worker()["heartbeat_age_s"] > 2.0, "the heartbeat grows old")
        assert worker()["lag_s"] > 1.0
        assert client.recv(10) == b"3.2\n"
        after: list[dict[str, Any]] = []
        wait_for(lambda: after.append(worker()) or after[-1]["lag_s"] < 1.0, "the second after it is over")
        assert any(found["lag_s"] >= 2.2 and found["heartbeat_age_s"] < 1.0 for found in after)
        assert worker()["lag_max_s"] >= 2.2
        assert worker()["lag_histogram"].get("4.096") == 1


def test_a_worker_inherits_nothing_of_it(tmp_path: Path) -> None:
    """Else a reader would not see the end of its document, nor anybody that of the server."""
    with GserverProcess(tmp_path, "json", "--stats-socket", "stats") as server:
        path = str(tmp_path / "stats")
        with connect(tmp_path / "stats") as reader:
            reply = json.loads(read_to_end(reader))
        server.signal(signal.SIGSTOP)
        with connect(tmp_path / "stats"):
            pass
        server.signal(signal.SIGKILL)
        server.wait()

        with pytest.raises(ConfigError, match="Connection refused"):
            read_stats(path)
        assert reply["pid"] == server.process.pid


def test_a_reload_leaves_it_where_it_is_and_an_upgrade_takes_it_over(tmp_path: Path) -> None:
    options = ("--stats-socket", "stats", "--pid", "gserver.pid", "--reload-settle", "0.1")
    with GserverProcess(tmp_path, "json", *options) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        assert {worker["generation"] for worker in read_stats(str(tmp_path / "stats"))["workers"]} >= {1}
        old = server.arbiter
        old.send_signal(signal.SIGUSR2)
        wait_for(lambda: (tmp_path / "stats.2").exists(), "the new arbiter has its socket")
        server.wait_for_log("Worker ready", 3)
        assert read_stats(str(tmp_path / "stats"))["pid"] == old.pid
        old.send_signal(signal.SIGTERM)
        wait_for(lambda: server.arbiter.pid != old.pid, "the new arbiter has the pid file")
        new = server.arbiter
        wait_for(lambda: not (tmp_path / "stats.2").exists(), "the new arbiter has the path")
        assert read_stats(str(tmp_path / "stats"))["pid"] == new.pid
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")
    assert not (tmp_path / "stats").exists()


def test_the_command_prints_the_document(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", "--stats-socket", "stats"):
        printed = run_gserver("--stats", "stats", cwd=tmp_path)

    assert json.loads(printed.stdout)["totals"]["accepted"] == 0
    refused = run_gserver("--stats", "stats", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "gserver: stats socket 'stats' cannot be read: No such file or directory\n"
