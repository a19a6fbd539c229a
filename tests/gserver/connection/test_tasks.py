"""conn.spawn(): tasks of a connection, which its close, its drain and its deadlines include."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConnectionClosed, HandlerTimeout
from gserver.limits.deadlines import Deadlines
from gserver.service import Service, stream
from tests.helpers.serving import Serving, assert_closed, closed_reasons
from tests.helpers.waiting import wait_until

TIMEOUT_S = 0.1
name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


class Gates:
    """A service whose handler starts a task for each line, which answers when its gate is opened."""

    def __init__(self) -> None:
        self.opened: dict[bytes, Event] = {}
        self.closed: list[CloseReason] = []
        self.service = Service(self.handle, codec=Lines, on_close=lambda conn, reason: self.closed.append(reason))

    def handle(self, line: bytes, conn: Connection) -> None:
        self.opened[line] = Event()
        conn.spawn(self.answer, line, conn)

    def answer(self, line: bytes, conn: Connection) -> None:
        self.opened[line].wait()
        conn.send(line.upper())

    def has(self, *lines: bytes) -> bool:
        return all(line in self.opened for line in lines)


@pytest.fixture
def gates() -> Gates:
    return Gates()


def test_replies_come_in_the_order_in_which_tasks_send_them(serving: Serving, gates: Gates, greenlets: Any) -> None:
    peer = serving.connect(serving.start(gates.service, greenlets=greenlets))
    peer.send(b"a\nb\n")
    wait_until(lambda: gates.has(b"a", b"b"))
    gates.opened[b"b"].set()
    assert peer.read_line() == b"B"
    gates.opened[b"a"].set()
    assert peer.read_line() == b"A"


def test_the_end_of_the_peer_waits_for_the_tasks(serving: Serving, gates: Gates, greenlets: Any) -> None:
    server = serving.start(gates.service, greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"a\nb\n")
    peer.finish()
    wait_until(lambda: gates.has(b"a", b"b"))
    gates.opened[b"b"].set()
    assert peer.read_line() == b"B"
    assert gates.closed == []
    gates.opened[b"a"].set()
    assert peer.read_to_end() == b"A\n"
    assert_closed(server, CloseReason.PEER_EOF)
    wait_until(lambda: gates.closed == [CloseReason.PEER_EOF])


def test_a_drain_waits_for_the_tasks(serving: Serving, gates: Gates, greenlets: Any) -> None:
    server = serving.start(gates.service, greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: gates.has(b"a"))
    drain = gevent.spawn(server.drain, 30)
    wait_until(lambda: server.closed)
    gevent.sleep(0.02)
    assert not drain.ready()
    gates.opened[b"a"].set()
    assert peer.read_to_end() == b"A\n"
    assert drain.get() == 0
    assert closed_reasons(server) == {CloseReason.DRAINED: 1}


def test_on_drain_is_called_after_the_tasks(serving: Serving, gates: Gates) -> None:
    gates.service.on_drain = lambda conn: conn.send(b"bye")
    server = serving.start(gates.service)
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: gates.has(b"a"))
    drain = gevent.spawn(server.drain, 30)
    wait_until(lambda: server.closed)
    gates.opened[b"a"].set()
    assert peer.read_to_end() == b"A\nbye\n"
    assert drain.get() == 0


def test_a_task_that_does_not_end_is_killed_at_the_end_of_a_drain(
    serving: Serving, gates: Gates, greenlets: Any
) -> None:
    server = serving.start(gates.service, greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: gates.has(b"a"))

    assert server.drain(0.05) == 1
    assert closed_reasons(server) == {CloseReason.KILLED: 1}
    assert server.connections == []
    wait_until(lambda: gates.closed == [CloseReason.KILLED])


def test_a_task_has_the_handlers_deadline(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    raised: list[BaseException] = []

    def forever(conn: Connection) -> None:
        try:
            gevent.sleep(1000)
        except HandlerTimeout as error:
            raised.append(error)
            raise

    def handle(line: bytes, conn: Connection) -> None:
        conn.spawn(forever, conn)

    service = Service(handle, codec=Lines, on_error=lambda fault, conn: b"too slow")
    server = serving.start(service, deadlines=Deadlines(handler_s=TIMEOUT_S))
    peer = serving.connect(server)
    peer.send(b"a\n")
    with caplog.at_level(logging.CRITICAL):
        assert peer.read_to_end() == b"too slow\n"
    assert [str(error) for error in raised] == [f"no answer within {TIMEOUT_S:g} s"]
    assert_closed(server, CloseReason.HANDLER_TIMEOUT)


def test_a_task_that_ignores_its_deadline_is_killed(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def stubborn(conn: Connection) -> None:
        try:
            gevent.sleep(1000)
        except HandlerTimeout:
            gevent.sleep(1000)

    server = serving.start(
        Service(lambda line, conn: conn.spawn(stubborn, conn) and None, codec=Lines),
        deadlines=Deadlines(handler_s=TIMEOUT_S),
    )
    peer = serving.connect(server)
    peer.send(b"a\n")
    with caplog.at_level(logging.CRITICAL):
        assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_TIMEOUT)
    wait_until(lambda: not server.connections)


@pytest.mark.parametrize("answers", [True, False])
def test_an_exception_of_a_task_goes_to_on_error(
    serving: Serving, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    def fail() -> None:
        raise RuntimeError("no such key")

    def handle(line: bytes, conn: Connection) -> bytes | None:
        if line == b"ping":
            return b"pong"
        conn.spawn(fail)
        return None

    service = Service(handle, codec=Lines, on_error=lambda fault, conn: b"error" if answers else None)
    server = serving.start(service)
    peer = serving.connect(server)
    peer.send(b"a\n")
    if answers:
        assert peer.read_line() == b"error"
        assert peer.ask(b"ping") == b"pong"
    else:
        assert peer.read_to_end() == b""
        assert_closed(server, CloseReason.HANDLER_ERROR)
    assert server.counters.errors == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "task failed for 127.0.0.1:" in record.getMessage()


def test_after_the_peer_has_gone_a_task_gets_connection_closed(serving: Serving, gates: Gates) -> None:
    caught: list[str] = []

    def answer(line: bytes, conn: Connection) -> None:
        gates.opened[line].wait()
        try:
            conn.send(b"late")
        except ConnectionClosed as error:
            caught.append(str(error))
            raise

    gates.answer = answer  # type: ignore[method-assign]
    server = serving.start(gates.service)
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: gates.has(b"a"))
    peer.reset()
    assert_closed(server, CloseReason.PEER_RESET)
    assert len(server.connections) == 1
    gates.opened[b"a"].set()
    wait_until(lambda: not server.connections)
    assert len(caught) == 1
    assert server.counters.errors == 0
    wait_until(lambda: gates.closed == [CloseReason.PEER_RESET])


def test_a_connection_with_a_task_is_not_idle(serving: Serving, gates: Gates) -> None:
    server = serving.start(gates.service, deadlines=Deadlines(idle_s=TIMEOUT_S, read_idle_s=TIMEOUT_S))
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: gates.has(b"a"))
    gevent.sleep(TIMEOUT_S * 3)
    gates.opened[b"a"].set()
    assert peer.read_to_end() == b"A\n"
    wait_until(lambda: sum(closed_reasons(server).values()) == 1)
    assert set(closed_reasons(server)) <= {CloseReason.IDLE_TIMEOUT, CloseReason.READ_IDLE_TIMEOUT}


def test_a_closed_connection_starts_no_task(serving: Serving) -> None:
    seen: list[Connection] = []
    server = serving.start(Service(lambda line, conn: seen.append(conn), codec=Lines))
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: bool(seen))
    peer.close()
    assert_closed(server, CloseReason.PEER_EOF)
    with pytest.raises(ConnectionClosed):
        seen[0].spawn(print)


def test_a_task_has_the_context_of_its_handler(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> None:
        name.set(line.decode())
        conn.spawn(lambda: conn.send(name.get().encode()))

    server = serving.start(Service(handle, codec=Lines))
    peers = [serving.connect(server) for _ in range(3)]
    for number, peer in enumerate(peers):
        assert peer.ask(b"peer %d" % number) == b"peer %d" % number
    assert name.get() == "nobody"


def test_a_task_that_the_application_kills_ends_nothing_else(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(line: bytes, conn: Connection) -> bytes:
        task = conn.spawn(gevent.sleep, 1000)
        if line == b"late":
            gevent.sleep(0.001)
        task.kill()
        return line

    server = serving.start(Service(handle, codec=Lines))
    peer = serving.connect(server)

    assert peer.ask(b"soon") == b"soon"
    assert peer.ask(b"late") == b"late"
    wait_until(lambda: server.connections[0].tasks is None)
    assert server.counters.errors == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_an_operators_close_waits_for_a_task_or_kills_it(serving: Serving, gates: Gates) -> None:
    server = serving.start(gates.service)
    patient, hasty = serving.connect(server), serving.connect(server)
    patient.send(b"a\n")
    hasty.send(b"b\n")
    wait_until(lambda: gates.has(b"a", b"b"))
    (first, second) = sorted(server.connections, key=lambda conn: conn.number)
    server.close_connection(first)
    server.close_connection(second, at_once=True)
    gates.opened[b"a"].set()
    assert sorted([patient.read_to_end(), hasty.read_to_end()]) in ([b"", b"A\n"], [b"", b"B\n"])
    assert_closed(server, CloseReason.ADMINISTRATIVE, 2)
    wait_until(lambda: not server.connections)


def test_the_close_of_a_stream_waits_for_its_tasks(serving: Serving) -> None:
    gate = Event()

    @stream(codec=Lines)
    def service(conn: StreamConnection) -> None:
        for line in conn:
            conn.spawn(answer, line, conn)
            if line == b"last":
                return

    def answer(line: bytes, conn: Connection) -> None:
        gate.wait()
        conn.send(line.upper())

    server = serving.start(service)
    peer = serving.connect(server)
    peer.send(b"a\nlast\n")
    wait_until(lambda: bool(server.connections) and server.connections[0].close_reason is not None)
    assert closed_reasons(server) == {}
    gate.set()
    assert peer.read_to_end() == b"A\nLAST\n"
    assert_closed(server, CloseReason.FINISHED)
    wait_until(lambda: not server.connections)


def test_the_tasks_of_a_stream_are_killed_at_the_end_of_a_drain(serving: Serving) -> None:
    @stream(codec=Lines)
    def service(conn: StreamConnection) -> None:
        for _ in conn:
            conn.spawn(gevent.sleep, 1000)
            return

    server = serving.start(service)
    peer = serving.connect(server)
    peer.send(b"a\n")
    wait_until(lambda: bool(server.connections) and server.connections[0].tasks is not None)

    assert server.drain(0.05) == 1
    assert sum(closed_reasons(server).values()) == 1
    assert server.connections == []
