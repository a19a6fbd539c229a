"""WorkerServer: taking turns with other workers, hooks, and the access log."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import greenlet

from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.codecs import Lines
from gserver.config.settings import Settings
from gserver.connection.connection import format_address
from gserver.counters import ACCEPTED, OPEN, Counters
from gserver.errors import CloseReason, ConfigError, HandlerTimeout
from gserver.service import Service
from gserver.worker import accept_balance as gate
from gserver.worker.accept_balance import LONGEST_PAUSE_S
from gserver.worker.worker_server import WorkerServer
from tests.helpers.proxied import CLIENT, v2
from tests.helpers.serving import Peer
from tests.helpers.waiting import assert_never, wait_until

SERVICE = Service(lambda line, conn: line, Lines)


@contextlib.contextmanager
def serving(scoreboard: Scoreboard | None = None, slot: Slot | None = None, **values: Any) -> Iterator[WorkerServer]:
    counters = Counters(slot.cells if slot is not None else None)
    settings = Settings.checked(values)
    server = WorkerServer(("127.0.0.1", 0), SERVICE, settings, counters, scoreboard, "the worker")
    server.start()
    try:
        yield server
    finally:
        server.drain(1.0)
        counters.check()


def make_two_workers() -> tuple[Scoreboard, Slot, Slot]:
    """A scoreboard with two workers that serve."""
    scoreboard = Scoreboard(2)
    slots = []
    for pid in (1, 2):
        slot = scoreboard.free_slot()
        slot.reserve(pid)
        slot.assign(pid)
        slot.is_serving = True
        slots.append(slot)
    return scoreboard, slots[0], slots[1]


def test_hooks_are_called_for_every_connection() -> None:
    calls: list[Any] = []
    hooks = {
        "connection_open": lambda worker, conn: calls.append((worker, conn.messages)),
        "connection_close": lambda worker, conn, reason: calls.append((worker, conn.messages, reason.value)),
    }
    with serving(**hooks) as server:
        peer = Peer(server.address)
        peer.ask(b"1")
        peer.close()
        wait_until(lambda: len(calls) == 2)

    assert calls == [("the worker", 0), ("the worker", 1, "peer_eof")]


def test_hooks_that_raise_disturb_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*arguments: Any) -> None:
        raise ValueError("no")

    def open_fails(worker: Any, conn: Any) -> None:
        fails()

    def close_fails(worker: Any, conn: Any, reason: Any) -> None:
        fails()

    with serving(connection_open=open_fails, connection_close=close_fails) as server:
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"
        peer.close()
        wait_until(lambda: server.counters.open == 0)

    assert "hook connection_open failed" in caplog.text
    assert "hook connection_close failed" in caplog.text


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The lines that are written to the access log meanwhile."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("gserver.access"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def test_the_access_log_has_a_line_for_each_connection() -> None:
    form = "%(r)s %(M)s %(I)s %(O)s"
    with listening() as lines, serving(accesslog="-", access_log_format=form) as server:
        peer = Peer(server.address)
        peer.ask(b"12")
        peer.close()
        wait_until(lambda: bool(lines))

    assert lines == ["peer_eof 1 3 3"]


def test_a_full_worker_answers_at_once_and_accepts_again_after_a_close() -> None:
    with serving(worker_connections=1) as server:
        first, second = Peer(server.address), Peer(server.address)
        assert first.ask(b"1") == b"1"
        assert second.read_to_end() == b""
        first.close()
        wait_until(lambda: server.counters.open == 0)

        third = Peer(server.address)
        assert third.ask(b"3") == b"3"
        for peer in (second, third):
            peer.close()
        wait_until(lambda: server.counters.open == 0)
        assert server.counters.closed == {CloseReason.PEER_EOF: 2, CloseReason.FULL: 1}


def test_a_full_worker_leaves_it_to_one_that_is_not_and_then_refuses() -> None:
    scoreboard, own, _ = make_two_workers()
    with serving(scoreboard, own, worker_connections=1) as server:
        first = Peer(server.address)
        assert first.ask(b"1") == b"1"
        second = Peer(server.address)
        gevent.sleep(LONGEST_PAUSE_S / 2)
        assert server.counters.accepted == 1  # the other one, which holds none, may still come for it

        assert second.read_to_end() == b""
        for peer in (first, second):
            peer.close()


def test_a_worker_that_holds_the_fewest_accepts_at_once() -> None:
    scoreboard, own, other = make_two_workers()
    other.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"
        peer.close()


def test_one_that_is_ahead_leaves_a_connection_to_the_others_but_not_for_ever() -> None:
    scoreboard, own, _ = make_two_workers()
    own.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        began = time.monotonic()
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"

        assert time.monotonic() - began >= LONGEST_PAUSE_S * 0.9
        peer.close()
        wait_until(lambda: own.cells[OPEN] == 100)
        own.cells[OPEN] = 0


def test_a_worker_that_does_not_serve_delays_no_other() -> None:
    scoreboard, own, other = make_two_workers()
    other.is_serving = False
    own.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        assert server._pause() == 0.0
        own.cells[OPEN] = 0


# Hooks, further


def ask_and_leave(server: WorkerServer) -> None:
    """One connection, from beginning to end."""
    closed = server.counters.closed.total()
    peer = Peer(server.address)
    try:
        assert peer.ask(b"1") == b"1"
    finally:
        peer.close()
    wait_until(lambda: server.counters.closed.total() > closed)


@pytest.mark.parametrize("hook", ["connection_open", "connection_close", None])
def test_only_the_hook_that_is_set_is_called(hook: str | None) -> None:
    calls: list[Any] = []
    open_ = {"connection_open": lambda worker, conn: calls.append(conn)}
    close = {"connection_close": lambda worker, conn, reason: calls.append(conn)}
    with serving(**(open_ if hook == "connection_open" else close if hook else {})) as server:
        ask_and_leave(server)

    assert len(calls) == (1 if hook else 0)


def test_a_connection_that_is_open_at_the_end_is_reported_as_drained() -> None:
    calls: list[Any] = []
    with serving(connection_close=lambda worker, conn, reason: calls.append(reason)) as server:
        peer = Peer(server.address)
        peer.ask(b"1")

    assert calls == [CloseReason.DRAINED]
    peer.close()


def test_a_connection_that_the_drain_ends_is_in_the_access_log_as_drained(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("INFO", "gserver.access"),
        serving(accesslog="-", access_log_format="%(h)s %(r)s %(M)s") as server,
    ):
        peer = Peer(server.address)
        peer.ask(b"1")
    peer.close()

    assert [record.getMessage().partition(" ")[2] for record in caplog.records] == ["drained 1"]


def test_health_checks_are_not_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("INFO", "gserver.access"),
        serving(accesslog="-", access_log_format="%(h)s %(r)s", proxy_protocol="v2") as server,
    ):
        Peer(server.address).close()
        for header in (v2(command=0), v2()):
            peer = Peer(server.address)
            peer.send(header)
            assert peer.ask(b"1") == b"1"
            peer.close()
        wait_until(lambda: server.counters.accepted == 3 and server.counters.open == 0)

        assert server.counters.closed == {CloseReason.HEALTH_CHECK: 2, CloseReason.PEER_EOF: 1}
    assert [record.getMessage() for record in caplog.records] == [f"{format_address(CLIENT)} peer_eof"]


def test_all_hooks_get_the_same_connection() -> None:
    opened: list[Any] = []
    closed: list[Any] = []
    hooks = {
        "connection_open": lambda worker, conn: opened.append(conn),
        "connection_close": lambda worker, conn, reason: closed.append((conn, reason is conn.close_reason)),
    }
    with serving(**hooks) as server:
        ask_and_leave(server)
        ask_and_leave(server)

    assert closed == [(conn, True) for conn in opened]
    assert opened[0] is not opened[1]


def test_an_opening_hook_may_close_the_connection() -> None:
    calls: list[Any] = []
    hooks = {
        "connection_open": lambda worker, conn: conn.close(),
        "connection_close": lambda worker, conn, reason: calls.append(reason),
    }
    with serving(**hooks) as server:
        peer = Peer(server.address)
        assert peer.read_to_end() == b""
        peer.close()

    assert calls == [CloseReason.FINISHED]


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), gevent.Timeout(1), RecursionError(), SystemExit(1), KeyboardInterrupt(), gevent.GreenletExit()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("hook", ["connection_open", "connection_close"])
def test_whatever_a_hook_raises_the_connection_is_served_and_leaves(hook: str, error: BaseException) -> None:
    def open_fails(worker: Any, conn: Any) -> None:
        raise error

    def close_fails(worker: Any, conn: Any, reason: Any) -> None:
        raise error

    with serving(**{hook: open_fails if hook == "connection_open" else close_fails}) as server:
        ask_and_leave(server)
        ask_and_leave(server)
        wait_until(lambda: not server.connections)


@pytest.mark.parametrize("hook", ["connection_open", "connection_close"])
def test_a_hook_that_blocks_does_not_stop_the_server(hook: str) -> None:
    """Hooks may run in the hub, where nothing can wait: gevent raises."""

    def open_blocks(worker: Any, conn: Any) -> None:
        gevent.sleep(0.001)

    def close_blocks(worker: Any, conn: Any, reason: Any) -> None:
        gevent.sleep(0.001)

    with serving(**{hook: open_blocks if hook == "connection_open" else close_blocks}) as server:
        ask_and_leave(server)
        ask_and_leave(server)
        wait_until(lambda: not server.connections)


# The access log, further


@pytest.mark.parametrize("values", [{}, {"accesslog": None}], ids=repr)
def test_without_a_place_or_a_form_nothing_is_written(values: dict[str, Any]) -> None:
    with listening() as lines, serving(**values) as server:
        ask_and_leave(server)

    assert lines == []


def test_each_connection_has_its_own_line_and_the_last_ones_too() -> None:
    with listening() as lines:
        with serving(accesslog="-", access_log_format="%(r)s %(M)s") as server:
            for _ in range(3):
                ask_and_leave(server)
            peer = Peer(server.address)
            peer.ask(b"1")
            assert lines == ["peer_eof 1"] * 3
        peer.close()

    assert lines == ["peer_eof 1"] * 3 + ["drained 1"]


def test_a_percent_sign_of_the_peer_is_no_form() -> None:
    """What stands in the line is not filled in once more."""
    with listening() as lines, serving(accesslog="-", access_log_format="%%s %%(h)s %(r)s") as server:
        ask_and_leave(server)

    assert lines == ["%s %(h)s peer_eof"]


@pytest.mark.parametrize("form", ["%(h)d", "%s %s", "100%", "%(h", "%(M)c%(r)c"])
def test_a_form_that_cannot_be_filled_in_is_refused_or_disturbs_nothing(form: str) -> None:
    try:
        Settings.checked({"access_log_format": form})
    except ConfigError:
        return
    with serving(accesslog="-", access_log_format=form) as server:
        ask_and_leave(server)
        wait_until(lambda: not server.connections)


# Taking turns, further


@pytest.fixture
def endless_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves a connection to others does so for longer than any test waits."""
    monkeypatch.setattr(gate, "SECONDS_PER_CONNECTION", 1000.0)
    monkeypatch.setattr(gate, "LONGEST_PAUSE_S", 1000.0)


@contextlib.contextmanager
def holding(slot: Slot, count: int) -> Iterator[None]:
    """A worker seems to hold so many connections more."""
    slot.cells[OPEN] += count
    slot.cells[ACCEPTED] += count
    try:
        yield
    finally:
        slot.cells[OPEN] -= count
        slot.cells[ACCEPTED] -= count


@pytest.mark.parametrize(
    ("own_count", "other_count"), [(0, 0), (0, 1), (1, 0), (50, 50), (50, 49), (5, 1000), (64, 61)]
)
@pytest.mark.usefixtures("endless_pauses")
def test_one_that_is_not_ahead_never_pauses(own_count: int, other_count: int) -> None:
    scoreboard, own, other = make_two_workers()
    with holding(own, own_count), holding(other, other_count), serving(scoreboard, own) as server:
        ask_and_leave(server)


@pytest.mark.usefixtures("endless_pauses")
def test_one_that_is_alone_never_pauses() -> None:
    scoreboard, own, other = make_two_workers()
    other.release()
    with holding(own, 100), serving(scoreboard, own) as server:
        ask_and_leave(server)


@pytest.mark.usefixtures("endless_pauses")
def test_without_a_scoreboard_no_worker_pauses() -> None:
    _, own, _ = make_two_workers()
    with holding(own, 100), serving(None, own) as server:
        ask_and_leave(server)


@pytest.mark.usefixtures("endless_pauses")
def test_one_that_is_ahead_does_not_take_what_another_would() -> None:
    scoreboard, own, _ = make_two_workers()
    with holding(own, 100), serving(scoreboard, own) as server:
        peer = Peer(server.address)
        assert_never(lambda: server.counters.closed or server.connections)
        peer.close()


@pytest.mark.usefixtures("endless_pauses")
def test_what_one_leaves_the_other_takes() -> None:
    scoreboard, own, other = make_two_workers()
    with contextlib.ExitStack() as stack:
        stack.enter_context(holding(own, 100))
        ahead = stack.enter_context(serving(scoreboard, own))
        shared = socket.socket(fileno=os.dup(ahead.socket.fileno()))
        server = WorkerServer(shared, SERVICE, Settings(), Counters(other.cells), scoreboard, "the other")
        stack.callback(server.drain, 1.0)
        server.start()
        for _ in range(3):
            peer = Peer(ahead.address)
            assert peer.ask(b"1") == b"1"
            peer.close()
        wait_until(lambda: other.cells[OPEN] == 0)

        assert other.cells[ACCEPTED] == 3
        assert not ahead.connections


@pytest.mark.usefixtures("endless_pauses")
def test_a_server_may_be_stopped_while_it_pauses() -> None:
    scoreboard, own, _ = make_two_workers()
    with holding(own, 100):
        with serving(scoreboard, own) as server:
            peer = Peer(server.address)
            assert_never(lambda: server.connections, 0.02)
        peer.close()

        assert not server.started


def test_after_each_pause_one_is_accepted() -> None:
    """A waiting client is served in the end, however many connections the worker has."""
    scoreboard, own, _ = make_two_workers()
    with holding(own, 100), serving(scoreboard, own) as server:
        peers = [Peer(server.address) for _ in range(4)]
        for peer in peers:
            assert peer.ask(b"1") == b"1"
            peer.close()


# At the edges


def test_a_worker_that_was_ahead_still_serves_its_queue_when_it_drains() -> None:
    """Nobody else will: so drain() promises that none is reset."""
    scoreboard, own, _ = make_two_workers()
    with holding(own, 100), serving(scoreboard, own) as server:
        server.stop_accepting()
        with contextlib.closing(Peer(server.address)) as peer:
            peer.send(b"1\n")
            own.is_serving = False

            server.drain(1.0)

            assert not peer.is_reset()
            assert server.counters.messages == 1


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_worker_never_serves_more_than_it_may(most: int) -> None:
    with serving(worker_connections=most) as server:
        peers = [Peer(server.address) for _ in range(most + 3)]
        for peer in peers[:most]:
            assert peer.ask(b"1") == b"1"
        assert [peer.read_to_end() for peer in peers[most:]] == [b""] * 3
        peers.pop(0).close()
        wait_until(lambda: server.counters.open == most - 1)

        peers.append(Peer(server.address))
        assert peers[-1].ask(b"2") == b"2"
        for peer in peers:
            peer.close()
        wait_until(lambda: server.counters.open == 0)
        assert server.counters.closed[CloseReason.FULL] == 3


@pytest.mark.parametrize(
    "error", [gevent.GreenletExit, gevent.Timeout(1), HandlerTimeout("x")], ids=["kill", "timeout", "limit"]
)
def test_what_is_thrown_into_a_hook_that_waits_is_that_of_its_greenlet(error: Any) -> None:
    """A handler closes its connection, so the hook runs in the handler's greenlet, and another one interrupts it."""
    caught: list[BaseException] = []
    waiting = Event()

    def wait(worker: Any, conn: Any, reason: Any) -> None:
        waiting.set()
        gevent.sleep(60)

    def close(line: bytes, conn: Any) -> None:
        try:
            gevent.sleep(0)
            conn.abort(CloseReason.FINISHED)
        except BaseException as raised:
            caught.append(raised)

    settings = Settings.checked({"connection_close": wait})
    server = WorkerServer(("127.0.0.1", 0), Service(close, Lines), settings, Counters(), None, "the worker")
    server.start()
    peer = Peer(server.address)
    peer.send(b"x\n")
    wait_until(waiting.is_set)
    (conn,) = server.connections
    assert isinstance(conn.runner, gevent.Greenlet | greenlet)
    gevent.kill(conn.runner, error)
    wait_until(lambda: caught)
    peer.close()
    wait_until(lambda: not server.connections)
    server.drain(1.0)

    assert type(caught[0]) is (error if isinstance(error, type) else type(error))
