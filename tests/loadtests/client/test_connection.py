"""A connection of a swarm, on a socket pair whose other end the test holds."""

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
from loadtests.client.connection import PeerFinished, TlsWire, Wire, WireClosed
from tests.helpers.waiting import wait_until

PATIENCE_S = 60.0


@dataclass
class Pair:
    """A wire, and the server's end of it."""

    wire: Wire
    server: cooperative.socket

    def asks(self, data: bytes) -> gevent.Greenlet[..., Any]:
        """Somebody who asks, and waits for the reply; its exception is its value."""

        def ask() -> Any:
            try:
                return self.wire.request(data, time.monotonic_ns())
            except Exception as error:
                return error

        greenlet = gevent.spawn(ask)
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
        wire = Wire(_socket.socket(fileno=ours.detach()), Lines(), timeout_s)
        pairs.append(Pair(wire, cooperative.socket(fileno=theirs.detach())))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.wire.close()
        pair.server.close()
    assert Wire.open == 0


@pytest.fixture
def pair(connect: Callable[..., Pair]) -> Pair:
    return connect()


def value(greenlet: gevent.Greenlet[..., Any]) -> Any:
    return greenlet.get(timeout=PATIENCE_S)


def test_a_reply_comes_to_who_asked_however_it_is_cut(pair: Pair) -> None:
    asked = pair.asks(b"one\n")
    assert pair.server.recv(100) == b"one\n"
    for byte in (b"r", b"eply", b"\n"):
        assert not asked.ready()
        pair.server.sendall(byte)
        gevent.sleep(0.002)

    assert value(asked) == b"reply"
    assert 0 < pair.wire.first_sent_ns < pair.wire.first_byte_ns < pair.wire.received_ns


def test_replies_belong_to_questions_in_order(pair: Pair) -> None:
    asked = [pair.asks(b"%d\n" % number) for number in range(5)]
    pair.server.sendall(b"a\nb\nc")
    assert [value(each) for each in asked[:2]] == [b"a", b"b"]
    pair.server.sendall(b"\nd\ne\n")

    assert [value(each) for each in asked[2:]] == [b"c", b"d", b"e"]


def test_what_is_asked_while_replies_are_handed_out_is_sent_together(pair: Pair) -> None:
    def ask_on() -> None:
        for number in range(3):
            pair.wire.request(b"%d " % number, time.monotonic_ns())

    tasks = [gevent.spawn(ask_on) for _ in range(4)]
    gevent.sleep(0)
    for number in range(3):
        assert pair.server.recv(100) == 4 * (b"%d " % number)
        pair.server.sendall(4 * b"reply\n")
    gevent.joinall(tasks, timeout=PATIENCE_S, raise_error=True)

    assert all(task.successful() for task in tasks)


def test_a_reply_that_nobody_asked_for_is_the_next_ones(pair: Pair) -> None:
    first = pair.asks(b"one\n")
    pair.server.sendall(b"a\nb\n")

    assert value(first) == b"a"
    assert value(pair.asks(b"two\n")) == b"b"


def test_a_server_that_talks_unasked_is_not_read_from_for_ever(pair: Pair) -> None:
    """The kernel's buffers fill up, and then it cannot go on."""
    pair.server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        pair.server.sendall(1000 * (b"x" * 65535 + b"\n"))

    assert value(pair.asks(b"now\n")) == b"x" * 65535


def test_what_the_kernel_does_not_take_is_sent_when_it_does(pair: Pair) -> None:
    message = bytes(range(256)) * 40_000 + b"\n"
    asked = pair.asks(message)
    received = b""
    while len(received) < len(message):
        received += pair.server.recv(1 << 20)
    assert received == message
    pair.server.sendall(b"thanks\n")

    assert value(asked) == b"thanks"


def test_an_end_is_told_to_all_who_wait_and_to_who_asks_later(pair: Pair) -> None:
    asked = [pair.asks(b"one\n"), pair.asks(b"two\n")]
    pair.server.shutdown(socket.SHUT_WR)

    assert all(isinstance(value(each), PeerFinished) for each in asked)
    assert isinstance(value(pair.asks(b"three\n")), PeerFinished)


@pytest.mark.parametrize(
    ("data", "kind"), [(b"half a reply", IncompleteMessage), (b"x" * 100_000, FrameTooLarge)], ids=["half", "too large"]
)
def test_a_broken_reply_is_an_error_of_the_protocol(pair: Pair, data: bytes, kind: type[Exception]) -> None:
    asked = pair.asks(b"one\n")
    pair.server.sendall(data)
    pair.server.shutdown(socket.SHUT_WR)

    assert isinstance(value(asked), kind)


def test_good_replies_before_a_broken_one_are_handed_out(pair: Pair) -> None:
    asked = [pair.asks(b"one\n"), pair.asks(b"two\n")]
    pair.server.sendall(b"good\n" + b"x" * 100_000)

    assert value(asked[0]) == b"good"
    assert isinstance(value(asked[1]), FrameTooLarge)


def test_a_reset_is_a_reset(pair: Pair) -> None:
    asked = pair.asks(b"one\n")
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.server.close()

    assert isinstance(value(asked), ConnectionResetError)


def test_the_oldest_question_has_its_time_and_no_more(connect: Callable[..., Pair]) -> None:
    """A question that was answered meanwhile does not prolong it, and does not end it either."""
    pair = connect(timeout_s=0.5)
    first = pair.asks(b"one\n")
    gevent.sleep(0.3)
    pair.server.sendall(b"reply\n")
    assert value(first) == b"reply"
    begin = time.monotonic()
    second = pair.asks(b"two\n")

    assert isinstance(value(second), TimeoutError)
    assert time.monotonic() - begin >= 0.5


def test_who_gives_up_ends_the_connection_for_the_others(pair: Pair) -> None:
    """Nobody could tell any more which reply is whose."""
    first, second = pair.asks(b"one\n"), pair.asks(b"two\n")
    first.kill()

    assert isinstance(value(second), WireClosed)
    assert isinstance(value(pair.asks(b"three\n")), WireClosed)


def test_a_close_is_told_to_who_waits(pair: Pair) -> None:
    asked = pair.asks(b"one\n")
    assert Wire.open == 1
    pair.wire.close()
    pair.wire.close()

    assert isinstance(value(asked), WireClosed)
    assert Wire.open == 0


def test_a_close_in_good_order_waits_for_the_servers(pair: Pair) -> None:
    closing = gevent.spawn(pair.wire.finish, PATIENCE_S)
    gevent.sleep(0)
    assert pair.server.recv(100) == b""
    assert not closing.ready()
    pair.server.sendall(b"a last word\n")
    pair.server.close()

    closing.get(timeout=PATIENCE_S)


def test_a_server_that_does_not_close_is_waited_for_only_so_long(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match=r"not closed within 0.03 s"):
        pair.wire.finish(0.03)


def test_an_idle_connection_that_the_server_closes_is_over(pair: Pair) -> None:
    assert pair.wire.is_quiet
    pair.server.close()
    wait_until(lambda: pair.wire.error is not None)

    assert not pair.wire.is_quiet


def test_a_name_that_tls_refuses_leaves_no_watcher_on_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(_socket.socket(fileno=ours.dup().detach())) as sock:
        before = gevent.get_hub().loop.activecnt
        # The rest of the message depends on the version of Python: "... cannot be an empty string", "... requires ...".
        with pytest.raises(ValueError, match="server_hostname"):
            TlsWire(sock, Lines(), PATIENCE_S, ssl.create_default_context(), "")

        assert gevent.get_hub().loop.activecnt == before
