"""Taps: what an observer gets, that a connection behaves as before, and that nothing of a tap stays behind."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from gserver.codecs import Lines
from gserver.connection import tap as tap_module
from gserver.connection.connection import Connection, State
from gserver.connection.stream_connection import StreamConnection
from gserver.connection.tap import tap, untap
from gserver.errors import CloseReason, ConnectionClosed
from gserver.server.tcp_server import TcpServer
from gserver.service import stream
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, assert_closed
from tests.helpers.waiting import wait_until


class Log:
    """An observer that keeps what it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def receiving(self, conn: Connection) -> None:
        pass

    def received(self, conn: Connection, data: bytes) -> None:
        self.calls.append(("in", data))

    def sent(self, conn: Connection, data: bytes) -> None:
        assert type(data) is bytes
        self.calls.append(("out", data))

    def closed(self, conn: Connection, unsent_bytes: int) -> None:
        assert conn.state is State.CLOSED
        self.calls.append(("closed", conn.close_reason, unsent_bytes))


@pytest.fixture
def log() -> Log:
    return Log()


def only(server: TcpServer) -> Connection:
    wait_until(lambda: server.connections)
    (conn,) = server.connections
    return conn


def is_left() -> bool:
    return bool(tap_module._tapped)


@stream(codec=Lines)
def echo_messages(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(line)


@stream
def echo_bytes(conn: StreamConnection) -> None:
    while data := conn.recv():
        conn.write(bytearray(data))  # type: ignore[arg-type]  # it works


@pytest.mark.parametrize(
    "service", [make_echo_lines(), echo_messages, echo_bytes], ids=["service", "messages", "bytes"]
)
def test_both_directions_and_the_end_are_observed(serving: Serving, greenlets: Any, log: Log, service: Any) -> None:
    server = serving.start(service, greenlets=greenlets)
    peer = serving.connect(server)
    assert peer.is_served
    conn = only(server)
    kind = type(conn)
    tap(conn, log)
    assert isinstance(conn, kind)
    assert (repr(conn), conn.is_sealed) == (f"<{kind.__name__} {conn.id} {conn} open>", True)
    assert peer.ask(b"a") == b"a"
    peer.close()
    wait_until(lambda: len(log.calls) == 4)

    assert log.calls == [("in", b"a\n"), ("out", b"a\n"), ("in", b""), ("closed", CloseReason.PEER_EOF, 0)]
    assert type(conn) is kind
    assert not is_left()


def test_a_tap_can_begin_and_end_at_any_time(serving: Serving, greenlets: Any, log: Log) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    conn = only(server)
    tap(conn, log)
    gate.opened.set()
    assert peer.read_line() == b"did wait"
    gate.opened.clear()
    peer.send(b"wait 2\nx")
    wait_until(lambda: gate.waiting)
    untap(conn, log)
    untap(conn, log)
    assert (type(conn), conn.is_sealed, is_left()) == (Connection, False, False)
    gate.opened.set()

    assert peer.read_line() == b"did wait 2"
    assert peer.ask(b"y") == b"did xy"
    assert log.calls == [("out", b"did wait\n"), ("in", b"wait 2\nx")]


def test_an_observer_can_go_while_a_stream_function_waits(serving: Serving, log: Log) -> None:
    server = serving.start(echo_messages)
    peer = serving.connect(server)
    assert peer.is_served
    conn = only(server)
    tap(conn, log)
    assert peer.ask(b"a") == b"a"
    untap(conn, log)

    assert peer.ask(b"b") == b"b"
    assert log.calls == [("in", b"a\n"), ("out", b"a\n")]


def test_several_observers(serving: Serving, log: Log) -> None:
    server = serving.start(make_echo_lines())
    peer = serving.connect(server)
    assert peer.is_served
    conn, other = only(server), Log()
    tap(conn, log)
    tap(conn, other)
    assert peer.ask(b"a") == b"a"
    untap(conn, log)
    assert peer.ask(b"b") == b"b"
    untap(conn, other)
    assert peer.ask(b"c") == b"c"

    assert log.calls == [("in", b"a\n"), ("out", b"a\n")]
    assert other.calls == [*log.calls, ("in", b"b\n"), ("out", b"b\n")]


def test_bytes_that_are_never_sent_are_counted(serving: Serving, log: Log) -> None:
    server = serving.start(make_lines(lambda line, conn: bytes(1 << 20)), narrow=True)
    peer = serving.meet(server, narrow=True)
    conn = only(server)
    tap(conn, log)
    peer.send(b"a\n")
    wait_until(lambda: conn.outbox is not None)
    waiting = conn.outbox.size if conn.outbox is not None else 0
    server.close_connection(conn, at_once=True)

    assert log.calls[-1] == ("closed", CloseReason.ADMINISTRATIVE, waiting)
    assert log.calls[1] == ("out", bytes(1 << 20) + b"\n")
    assert_closed(server, CloseReason.ADMINISTRATIVE)


def test_a_slow_reader_gets_all_after_the_tap_has_ended(serving: Serving, log: Log) -> None:
    reply = bytes(range(65, 91)) * 40_000
    server = serving.start(make_lines(lambda line, conn: reply), narrow=True)
    peer = serving.meet(server, narrow=True)
    conn = only(server)
    peer.send(b"a\n")
    wait_until(lambda: conn.outbox is not None)
    tap(conn, log)
    assert len(peer.read_exactly(1000)) == 1000
    untap(conn, log)

    assert peer.read_exactly(len(reply) - 1000 + 1) == reply[1000:] + b"\n"
    assert log.calls == []


def test_what_cannot_be_sent_fails_as_before(serving: Serving, log: Log) -> None:
    failures: list[BaseException] = []

    def handle(line: bytes, conn: Connection) -> bytes:
        for wrong in ("text", 5, None):
            try:
                conn.write(wrong)  # type: ignore[arg-type]
            except TypeError as error:
                failures.append(error)
        return b"done"

    server = serving.start(make_lines(handle))
    peer = serving.connect(server)
    assert peer.ask(b"a") == b"done"
    tap(only(server), log)
    assert peer.ask(b"a") == b"done"

    assert [str(each) for each in failures[:3]] == [str(each) for each in failures[3:]]
    assert [call for call in log.calls if call[0] == "out"] == [("out", b"done\n")]


def test_a_kill_within_a_handler_is_observed(serving: Serving, log: Log) -> None:
    gate = Gate()
    server = serving.start(gate.service())
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    conn = only(server)
    tap(conn, log)
    server.close_connection(conn, at_once=True)
    wait_until(lambda: not server.connections)

    assert log.calls == [("closed", CloseReason.ADMINISTRATIVE, 0)]
    assert not is_left()


def test_sending_in_vain_is_observed_once(serving: Serving, log: Log) -> None:
    """The kernel reports a reset: the connection is closed while it sends."""
    server = serving.start(make_echo_lines())
    peer = serving.connect(server)
    assert peer.is_served
    conn = only(server)
    conn.pause()
    tap(conn, log)
    peer.reset()
    gevent.sleep(0.01)
    wait_until(lambda: is_refused(conn))

    assert log.calls[-1] == ("closed", CloseReason.PEER_RESET, 0)
    assert [call[0] for call in log.calls].count("closed") == 1


def is_refused(conn: Connection) -> bool:
    try:
        conn.send(b"news")
    except ConnectionClosed:
        return True
    return False


def test_a_peer_that_is_drained(serving: Serving, log: Log) -> None:
    server = serving.start(make_lines(lambda line, conn: line, on_drain=lambda conn: conn.send(b"bye")))
    peer: Peer = serving.connect(server)
    assert peer.is_served
    tap(only(server), log)
    server.drain(1)

    assert log.calls == [("out", b"bye\n"), ("closed", CloseReason.DRAINED, 0)]
