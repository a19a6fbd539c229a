"""@stream handlers: reading, each close reason, drain, close and kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver.codecs import JsonLines, LengthPrefixed, Lines, Malformed
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConnectionClosed, IncompleteMessage
from gserver.fault_isolation import Killed
from gserver.server.tcp_server import TcpServer
from gserver.service import StreamService, stream
from tests.helpers.serving import Peer, Serving, assert_closed
from tests.helpers.waiting import wait_until

Handler = Callable[[StreamConnection], None]


class Visits:
    """Runs a handler, and keeps its connections and exceptions."""

    def __init__(self, handler: Handler, codec: Any = Lines) -> None:
        self.conns: list[StreamConnection] = []
        self.raised: list[BaseException] = []
        self.ended = Event()
        self._handler = handler
        self.service: StreamService = stream(codec=codec)(self._handle)

    def _handle(self, conn: StreamConnection) -> None:
        self.conns.append(conn)
        try:
            self._handler(conn)
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.ended.set()


def visit(serving: Serving, handler: Handler, codec: Any = Lines) -> tuple[Visits, TcpServer, Peer]:
    visits = Visits(handler, codec)
    server = serving.start(visits.service)
    peer = serving.connect(server)
    wait_until(lambda: visits.conns)
    return visits, server, peer


def echo_lines(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(line)


def read_exactly_forever(conn: StreamConnection) -> None:
    while True:
        conn.read_exactly(4)


# Reading


def test_messages_are_iterated(serving: Serving) -> None:
    _, server, peer = visit(serving, echo_lines)
    peer.send(b"1\n2\nhalf")
    peer.send(b" and half\n")
    peer.finish()

    assert peer.read_to_end() == b"1\n2\nhalf and half\n"
    assert_closed(server, CloseReason.PEER_EOF)


@pytest.mark.parametrize("codec", [Lines, LengthPrefixed, JsonLines])
def test_no_message_is_lost_or_repeated_when_a_loop_is_left(serving: Serving, codec: Any) -> None:
    """A greeting first, then a loop, and another loop after a break: messages that arrived together stay in order."""
    seen: list[Any] = []

    def greet_then_read(conn: StreamConnection) -> None:
        seen.append(next(iter(conn)))
        for message in conn:
            seen.append(message)
            if len(seen) == 3:
                break
        seen.extend(conn)

    _, _, peer = visit(serving, greet_then_read, codec)
    messages: list[Any] = [10, 11, 12, 13, 14] if codec is JsonLines else [b"10", b"11", b"12", b"13", b"14"]
    peer.send(b"".join(codec().encode(message) for message in messages))
    peer.finish()

    assert peer.read_to_end() == b""
    assert seen == messages


def test_bytes_are_read_as_they_come(serving: Serving) -> None:
    seen: list[bytes] = []

    def read(conn: StreamConnection) -> None:
        while data := conn.recv():
            seen.append(data)
            conn.write(b"more?")

    _, _, peer = visit(serving, read)
    for part in (b"one", b"two"):
        peer.send(part)
        assert peer.read() == b"more?"
    peer.finish()

    assert peer.read_to_end() == b""
    assert seen == [b"one", b"two"]


def test_recv_returns_at_most_max_bytes_and_loses_nothing(serving: Serving) -> None:
    seen: list[bytes] = []

    def read(conn: StreamConnection) -> None:
        while data := conn.recv(3):
            seen.append(data)

    _, _, peer = visit(serving, read)
    peer.send(b"0123456789")
    peer.finish()
    peer.read_to_end()

    assert max(map(len, seen)) <= 3
    assert b"".join(seen) == b"0123456789"


def test_recv_of_no_bytes_is_not_the_end(serving: Serving) -> None:
    seen: list[bytes] = []
    _, _, peer = visit(serving, lambda conn: seen.extend([conn.recv(0), conn.recv()]))
    peer.send(b"hello")

    assert peer.read_to_end() == b""
    assert seen == [b"", b"hello"]


def test_after_the_end_recv_returns_no_bytes_each_time(serving: Serving) -> None:
    seen: list[bytes] = []
    _, _, peer = visit(serving, lambda conn: seen.extend(conn.recv() for _ in range(3)))
    peer.finish()

    assert peer.read_to_end() == b""
    assert seen == [b"", b"", b""]


def test_read_exactly_returns_exactly_so_many_bytes(serving: Serving) -> None:
    def read(conn: StreamConnection) -> None:
        assert conn.read_exactly(0) == b""
        while size := conn.read_exactly(1)[0]:
            conn.write(conn.read_exactly(size)[::-1])

    _, server, peer = visit(serving, read)
    for byte in b"\x03abc\x01x\x05hello\x00":
        peer.send(bytes([byte]))

    assert peer.read_to_end() == b"cbaxolleh"
    assert_closed(server, CloseReason.FINISHED)


def test_read_exactly_returns_more_than_one_receive(serving: Serving) -> None:
    sizes: list[int] = []
    _, _, peer = visit(serving, lambda conn: sizes.append(len(conn.read_exactly(1_000_000))))
    peer.send(b"x" * 1_000_000)

    assert peer.read_to_end() == b""
    assert sizes == [1_000_000]


def test_the_end_inside_read_exactly_is_an_incomplete_message(serving: Serving) -> None:
    visits, server, peer = visit(serving, read_exactly_forever)
    peer.send(b"ab")
    peer.finish()

    assert peer.read_to_end() == b""
    assert [type(error) for error in visits.raised] == [IncompleteMessage]
    assert str(visits.raised[0]) == "the peer stopped 2 bytes into 4"
    assert_closed(server, CloseReason.EOF_IN_MESSAGE)


def test_the_end_between_two_read_exactly_is_a_graceful_one(serving: Serving) -> None:
    _, server, peer = visit(serving, read_exactly_forever)
    peer.send(b"abcd")
    peer.finish()

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.PEER_EOF)


def test_a_malformed_message_is_passed_to_the_handler(serving: Serving) -> None:
    def read(conn: StreamConnection) -> None:
        for message in conn:
            conn.send(isinstance(message, Malformed))

    _, _, peer = visit(serving, read, JsonLines)
    peer.send(b"1\nnonsense\n2\n")
    peer.finish()

    assert peer.read_to_end() == b"false\ntrue\nfalse\n"


# Ending


def test_the_connection_is_closed_as_finished_when_the_handler_returns(serving: Serving) -> None:
    _, server, peer = visit(serving, lambda conn: conn.send(b"bye"))
    peer.send(b"unread")

    assert peer.read_to_end() == b"bye\n"
    assert_closed(server, CloseReason.FINISHED)


def test_eof_inside_a_message_has_its_own_reason(serving: Serving) -> None:
    _, server, peer = visit(serving, echo_lines)
    peer.send(b"1\nhalf")
    peer.finish()

    assert peer.read_to_end() == b"1\n"
    assert_closed(server, CloseReason.EOF_IN_MESSAGE)


def test_broken_framing_closes_after_the_good_messages(serving: Serving) -> None:
    _, server, peer = visit(serving, echo_lines, lambda: Lines(5))
    peer.send(b"1\n123456\n2\n")

    assert peer.read_to_end() == b"1\n"
    assert_closed(server, CloseReason.PROTOCOL_ERROR)


@pytest.mark.parametrize("error", [RuntimeError("failed"), gevent.Timeout(1)])
def test_a_handler_that_fails_is_logged_once_and_closed(
    serving: Serving, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(conn: StreamConnection) -> None:
        conn.recv()
        raise error

    _, server, peer = visit(serving, fail)
    peer.send(b"x")

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_reset_ends_the_reader(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    visits, server, peer = visit(serving, echo_lines)
    peer.reset()
    wait_until(visits.ended.is_set)

    assert [type(error) for error in visits.raised] == [ConnectionClosed]
    assert_closed(server, CloseReason.PEER_RESET)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("end", [StreamConnection.close, lambda conn: conn.abort(CloseReason.KILLED)])
def test_a_close_on_this_side_wakes_the_reader(serving: Serving, end: Handler) -> None:
    """A connection that another greenlet closes does not leave its reader waiting for ever."""
    visits, _, _ = visit(serving, echo_lines)
    gevent.sleep(0)
    end(visits.conns[0])
    wait_until(visits.ended.is_set)


def test_a_failed_send_wakes_the_reader(serving: Serving) -> None:
    """A greenlet that fails to send ends the connection for the reader too."""
    visits, server, peer = visit(serving, echo_lines)
    peer.reset()
    visits.conns[0].push(b"x")
    visits.conns[0].push(b"x")
    wait_until(visits.ended.is_set)

    assert_closed(server, CloseReason.PEER_RESET)


def test_a_closed_connection_does_not_receive_what_the_peer_still_sends(serving: Serving) -> None:
    raised: list[str] = []

    def close_then_read(conn: StreamConnection) -> None:
        conn.close()
        try:
            conn.recv()
        except ConnectionClosed as error:
            raised.append(str(error))

    _, _, peer = visit(serving, close_then_read)

    assert peer.read_to_end() == b""
    wait_until(lambda: raised)


# Drain and kill


@pytest.mark.parametrize("handler", [echo_lines, read_exactly_forever, lambda conn: conn.recv()])
def test_a_drain_ends_an_idle_reader(serving: Serving, handler: Handler) -> None:
    visits, server, peer = visit(serving, handler)
    drain = gevent.spawn(server.drain, 2)

    assert peer.read_to_end() == b""
    peer.close()
    assert drain.get() == 0
    assert visits.ended.is_set()
    assert_closed(server, CloseReason.DRAINED)


def test_a_drain_lets_the_handler_read_what_was_received(serving: Serving) -> None:
    gate = Event()

    def wait_then_echo(conn: StreamConnection) -> None:
        gate.wait()
        echo_lines(conn)

    _, server, peer = visit(serving, wait_then_echo)
    peer.send(b"1\n2\n")
    drain = gevent.spawn(server.drain, 2)
    wait_until(lambda: server.closed)
    gate.set()

    assert peer.read_to_end() == b"1\n2\n"
    peer.close()
    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED)


def test_a_handler_sees_that_the_server_drains(serving: Serving) -> None:
    def tick(conn: StreamConnection) -> None:
        while not conn.is_draining:
            gevent.sleep(0.002)
        conn.send(b"goodbye")

    _, server, peer = visit(serving, tick)
    drain = gevent.spawn(server.drain, 2)

    assert peer.read_to_end() == b"goodbye\n"
    peer.close()
    assert drain.get() == 0


def test_a_handler_that_does_not_end_is_killed(serving: Serving) -> None:
    visits, server, peer = visit(serving, lambda conn: gevent.sleep(60))

    assert server.drain(0.05) == 1
    assert [type(error) for error in visits.raised] == [Killed]
    assert_closed(server, CloseReason.KILLED)
    assert peer.is_reset() or peer.read() == b""


def test_a_drain_ends_although_a_handler_does_not_end_when_killed(serving: Serving) -> None:
    done = Event()

    def stubborn(conn: StreamConnection) -> None:
        while not done.is_set():
            try:
                done.wait()
            except gevent.GreenletExit:
                continue

    _, server, _ = visit(serving, stubborn)

    assert server.drain(0.05) == 1
    assert_closed(server, CloseReason.KILLED)
    done.set()


def test_a_peer_that_never_stops_sending_does_not_hold_up_a_drain(serving: Serving) -> None:
    def swallow(conn: StreamConnection) -> None:
        while conn.recv():
            gevent.sleep(0)

    _, server, peer = visit(serving, swallow)

    def flood() -> None:
        try:
            while True:
                peer.sock.send(b"x" * 10_000)
                gevent.sleep(0)
        except OSError:
            pass

    flooding = gevent.spawn(flood)
    gevent.sleep(0.01)

    assert server.drain(3) == 0
    assert_closed(server, CloseReason.DRAINED)
    flooding.kill()


def test_bytes_that_are_unsent_when_the_drain_begins_are_sent(serving: Serving) -> None:
    visits = Visits(lambda conn: conn.send(b"x" * 3_000_000) if conn.recv() else None)
    server = serving.start(visits.service, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"go")
    wait_until(lambda: visits.conns and visits.conns[0].outbox is not None)
    drain = gevent.spawn(server.drain, 5)
    wait_until(lambda: server.closed)

    assert peer.read_to_end() == b"x" * 3_000_000 + b"\n"
    peer.close()
    assert drain.get() == 0
