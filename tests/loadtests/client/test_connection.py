"""A client connection, on a socket pair; the test holds the server's end."""

from __future__ import annotations

import _socket
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent
import pytest
from gevent import socket as cooperative

from gserver.codecs import Lines
from gserver.errors import FrameTooLarge, IncompleteMessage
from loadtests.client.connection import ClientConnection, ClosedByPeer, ClosedLocally
from loadtests.client.tls_connection import TlsClientConnection
from tests.helpers.waiting import wait_until

PATIENCE_S = 60.0


@dataclass
class Pair:
    """A connection, and the server's end of it."""

    connection: ClientConnection
    server: cooperative.socket

    def request(self, data: bytes) -> gevent.Greenlet[..., Any]:
        """A greenlet that makes a request; its value is the reply or the exception."""

        def request() -> Any:
            try:
                return self.connection.request(data, time.monotonic_ns())
            except Exception as error:
                return error

        greenlet = gevent.spawn(request)
        gevent.sleep(0)
        return greenlet


@pytest.fixture
def connect() -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(timeout_s: float = PATIENCE_S) -> Pair:
        listener = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        listener.close()
        ours.setblocking(False)
        connection = ClientConnection(_socket.socket(fileno=ours.detach()), Lines(), timeout_s)
        pairs.append(Pair(connection, cooperative.socket(fileno=theirs.detach())))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.connection.close()
        pair.server.close()
    assert ClientConnection.open == 0


@pytest.fixture
def pair(connect: Callable[..., Pair]) -> Pair:
    return connect()


def value(greenlet: gevent.Greenlet[..., Any]) -> Any:
    return greenlet.get(timeout=PATIENCE_S)


def test_a_reply_in_pieces_reaches_the_greenlet_that_waits(pair: Pair) -> None:
    request = pair.request(b"one\n")
    assert pair.server.recv(100) == b"one\n"
    for byte in (b"r", b"eply", b"\n"):
        assert not request.ready()
        pair.server.sendall(byte)
        gevent.sleep(0.002)

    assert value(request) == b"reply"
    assert 0 < pair.connection.first_sent_ns < pair.connection.first_byte_ns < pair.connection.received_ns


def test_replies_belong_to_requests_in_order(pair: Pair) -> None:
    requests = [pair.request(b"%d\n" % number) for number in range(5)]
    pair.server.sendall(b"a\nb\nc")
    assert [value(each) for each in requests[:2]] == [b"a", b"b"]
    pair.server.sendall(b"\nd\ne\n")

    assert [value(each) for each in requests[2:]] == [b"c", b"d", b"e"]


def test_requests_made_while_replies_are_delivered_are_sent_together(pair: Pair) -> None:
    def make_requests() -> None:
        for number in range(3):
            pair.connection.request(b"%d " % number, time.monotonic_ns())

    tasks = [gevent.spawn(make_requests) for _ in range(4)]
    gevent.sleep(0)
    for number in range(3):
        assert pair.server.recv(100) == 4 * (b"%d " % number)
        pair.server.sendall(4 * b"reply\n")
    gevent.joinall(tasks, timeout=PATIENCE_S, raise_error=True)

    assert all(task.successful() for task in tasks)


def test_a_reply_without_a_request_belongs_to_the_next_request(pair: Pair) -> None:
    first = pair.request(b"one\n")
    pair.server.sendall(b"a\nb\n")

    assert value(first) == b"a"
    assert value(pair.request(b"two\n")) == b"b"


def test_replies_without_requests_are_not_read_without_limit(pair: Pair) -> None:
    """Back-pressure: the kernel's buffers fill up, and the server cannot send more."""
    pair.server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        pair.server.sendall(1000 * (b"x" * 65535 + b"\n"))

    assert value(pair.request(b"now\n")) == b"x" * 65535


def test_what_the_kernel_does_not_take_is_sent_later(pair: Pair) -> None:
    message = bytes(range(256)) * 40_000 + b"\n"
    request = pair.request(message)
    received = b""
    while len(received) < len(message):
        received += pair.server.recv(1 << 20)
    assert received == message
    pair.server.sendall(b"thanks\n")

    assert value(request) == b"thanks"


def test_the_end_of_a_connection_fails_pending_and_later_requests(pair: Pair) -> None:
    requests = [pair.request(b"one\n"), pair.request(b"two\n")]
    pair.server.shutdown(socket.SHUT_WR)

    assert all(isinstance(value(each), ClosedByPeer) for each in requests)
    assert isinstance(value(pair.request(b"three\n")), ClosedByPeer)


@pytest.mark.parametrize(
    ("data", "kind"), [(b"half a reply", IncompleteMessage), (b"x" * 100_000, FrameTooLarge)], ids=["half", "too large"]
)
def test_a_broken_reply_is_a_protocol_error(pair: Pair, data: bytes, kind: type[Exception]) -> None:
    request = pair.request(b"one\n")
    pair.server.sendall(data)
    pair.server.shutdown(socket.SHUT_WR)

    assert isinstance(value(request), kind)


def test_good_replies_before_a_broken_one_are_delivered(pair: Pair) -> None:
    requests = [pair.request(b"one\n"), pair.request(b"two\n")]
    pair.server.sendall(b"good\n" + b"x" * 100_000)

    assert value(requests[0]) == b"good"
    assert isinstance(value(requests[1]), FrameTooLarge)


def test_a_reset_is_reported_as_one(pair: Pair) -> None:
    request = pair.request(b"one\n")
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.server.close()

    assert isinstance(value(request), ConnectionResetError)


def test_the_timeout_is_that_of_the_oldest_request(connect: Callable[..., Pair]) -> None:
    """An earlier request that has its reply neither prolongs nor shortens it."""
    pair = connect(timeout_s=0.5)
    first = pair.request(b"one\n")
    gevent.sleep(0.3)
    pair.server.sendall(b"reply\n")
    assert value(first) == b"reply"
    begin = time.monotonic()
    second = pair.request(b"two\n")

    assert isinstance(value(second), TimeoutError)
    assert time.monotonic() - begin >= 0.5


def test_a_request_that_is_given_up_ends_the_connection(pair: Pair) -> None:
    """Its reply would be taken for that of the next request."""
    first, second = pair.request(b"one\n"), pair.request(b"two\n")
    first.kill()

    assert isinstance(value(second), ClosedLocally)
    assert isinstance(value(pair.request(b"three\n")), ClosedLocally)


def test_a_close_fails_pending_requests(pair: Pair) -> None:
    request = pair.request(b"one\n")
    assert ClientConnection.open == 1
    pair.connection.close()
    pair.connection.close()

    assert isinstance(value(request), ClosedLocally)
    assert ClientConnection.open == 0


def test_a_close_in_good_order_waits_for_the_server(pair: Pair) -> None:
    closing = gevent.spawn(pair.connection.finish, PATIENCE_S)
    gevent.sleep(0)
    assert pair.server.recv(100) == b""
    assert not closing.ready()
    pair.server.sendall(b"a last reply\n")
    pair.server.close()

    closing.get(timeout=PATIENCE_S)


def test_a_close_in_good_order_times_out(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match=r"not closed within 0.03 s"):
        pair.connection.finish(0.03)


def test_an_idle_connection_that_the_server_closes_is_over(pair: Pair) -> None:
    assert pair.connection.is_idle
    pair.server.close()
    wait_until(lambda: pair.connection.error is not None)

    assert not pair.connection.is_idle


def test_a_name_that_tls_refuses_leaves_no_watcher_on_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(_socket.socket(fileno=ours.dup().detach())) as sock:
        before = gevent.get_hub().loop.activecnt
        # The rest of the message depends on the version of Python: "... cannot be an empty string", "... requires ...".
        with pytest.raises(ValueError, match="server_hostname"):
            TlsClientConnection(sock, Lines(), PATIENCE_S, ssl.create_default_context(), "")

        assert gevent.get_hub().loop.activecnt == before
