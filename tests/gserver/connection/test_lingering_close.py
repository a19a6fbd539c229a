"""Lingering close: the peer can read the whole last reply, and no socket lingers for ever."""

from __future__ import annotations

import contextlib
import functools
import gc
import socket as plain
import threading
import time
from typing import Any

import gevent
import pytest

from gserver.connection import lingering_close as linger
from gserver.connection.lingering_close import LingeringClose
from gserver.errors import CloseReason
from gserver.handlers import json
from tests.helpers.serving import Serving, assert_closed
from tests.helpers.waiting import assert_never, wait_until

REPLY = b'"message":"line of at least '


class PushyClient(threading.Thread):
    """A client in a thread of its own, which keeps sending while the server answers that its line is too long."""

    def __init__(self, address: Any) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.reply = b""
        self.error: OSError | None = None

    def run(self) -> None:
        with plain.create_connection(self.address, timeout=60) as sock:
            sender = threading.Thread(target=self.send, args=(sock,), daemon=True)
            sender.start()
            try:
                while data := sock.recv(65536):
                    time.sleep(0.005)  # reads slowly, so that a reset would overtake the reply
                    self.reply += data
            except OSError as error:
                self.error = error
            sender.join()

    def send(self, sock: plain.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(60):
                sock.sendall(b"x" * 32768)


def test_the_last_reply_is_readable_although_the_client_still_sends(serving: Serving, greenlets: str) -> None:
    """Twenty of twenty clients read the whole error, and none gets a reset before."""
    server = serving.start(json(), greenlets=greenlets)
    clients = [PushyClient(server.address) for _ in range(20)]
    for client in clients:
        client.start()
    wait_until(lambda: not any(client.is_alive() for client in clients), 15)

    assert [client.error for client in clients] == [None] * 20
    assert [client.reply.count(REPLY) for client in clients] == [1] * 20
    assert_closed(server, CloseReason.PROTOCOL_ERROR, 20)


@contextlib.contextmanager
def make_linger(timeout_s: float, emptied: list[bool]) -> Any:
    lingering = LingeringClose(timeout_s, lambda: emptied.append(True))
    try:
        yield lingering
    finally:
        lingering.close()


def make_pair() -> tuple[Any, plain.socket]:
    """Both ends of a connection: a C socket like the server's, and a non-blocking one for the test."""
    ours, theirs = plain.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def is_closed(sock: Any) -> bool:
    return bool(sock.fileno() == -1)


def test_the_peer_sees_the_end_at_once_and_the_socket_lingers_until_the_peer_closes() -> None:
    emptied: list[bool] = []
    ours, theirs = make_pair()
    with make_linger(5, emptied) as lingering, theirs:
        lingering.take(ours)
        assert theirs.recv(10) == b""
        theirs.send(b"still talking")
        assert_never(lambda: is_closed(ours), 0.03)
        assert len(lingering) == 1
        theirs.close()
        wait_until(lambda: is_closed(ours))

    assert emptied == [True]
    assert len(lingering) == 0


def test_a_peer_that_does_not_close_is_closed_after_the_timeout() -> None:
    """The time counts from the close, not from the loop's last reading of the clock before a busy handler."""
    emptied: list[bool] = []
    ours, theirs = make_pair()
    with make_linger(0.05, emptied) as lingering, theirs:
        gevent.sleep(0.001)
        time.sleep(0.06)
        started = time.monotonic()
        lingering.take(ours)
        wait_until(lambda: is_closed(ours))
        assert time.monotonic() - started >= 0.04

    assert emptied == [True]


def test_each_socket_has_its_own_deadline() -> None:
    emptied: list[bool] = []
    pairs = [make_pair() for _ in range(3)]
    stayed_s: list[float] = []
    taken: list[float] = []
    with make_linger(0.1, emptied) as lingering:
        for ours, _ in pairs:
            taken.append(time.monotonic())
            lingering.take(ours)
            gevent.sleep(0.03)
        for (ours, theirs), since in zip(pairs, taken, strict=True):
            wait_until(functools.partial(is_closed, ours))
            stayed_s.append(time.monotonic() - since)
            theirs.close()

    assert min(stayed_s) >= 0.09
    assert emptied == [True]


def test_a_long_iteration_of_the_loop_does_not_shorten_the_timeout() -> None:
    """The loop's own clock is that of the start of the iteration."""
    ours, theirs = make_pair()
    trigger, triggering = plain.socketpair()
    times: list[float] = []
    with make_linger(0.3, []) as lingering, trigger, triggering, theirs:

        def stall_and_take() -> None:
            watcher.stop()
            stalled_until = time.monotonic() + 0.5
            while time.monotonic() < stalled_until:
                pass
            times.append(time.monotonic())
            lingering.take(ours)

        watcher = gevent.get_hub().loop.io(trigger.fileno(), 1)
        watcher.start(stall_and_take)
        triggering.send(b"x")
        wait_until(lambda: bool(times) and is_closed(ours))
        times.append(time.monotonic())
        watcher.close()

    assert times[1] - times[0] >= 0.29


def test_a_peer_that_sends_without_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "MAX_DISCARDED_BYTES", 200_000)
    ours, theirs = make_pair()
    sent = 0
    with make_linger(5, []) as lingering, theirs:
        lingering.take(ours)
        while not is_closed(ours) and sent < 10_000_000:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                sent += theirs.send(b"x" * 10_000)
            gevent.sleep(0)

    assert 200_000 < sent < 1_000_000


def test_a_socket_that_is_reset_is_closed() -> None:
    emptied: list[bool] = []
    with make_linger(5, emptied) as lingering, plain.create_server(("127.0.0.1", 0)) as listener:
        theirs = plain.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        lingering.take(ours)
        theirs.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        wait_until(lambda: is_closed(ours))

    assert emptied == [True]


def test_a_socket_that_is_broken_already_is_closed_at_once() -> None:
    with make_linger(5, []) as lingering:
        sock = plain.socket()
        lingering.take(sock)

        assert is_closed(sock)
        assert len(lingering) == 0


def test_close_closes_everything() -> None:
    pairs = [make_pair() for _ in range(3)]
    with make_linger(60, []) as lingering:
        for ours, _ in pairs:
            lingering.take(ours)
        lingering.close()
        assert all(is_closed(ours) for ours, _ in pairs)
    for _, theirs in pairs:
        theirs.close()


def test_lingering_holds_no_greenlet(serving: Serving) -> None:
    server = serving.start(json(), linger_s=5.0)
    peers = [serving.connect(server) for _ in range(20)]
    for peer in peers:
        peer.send(b"x" * 70_000)
    wait_until(lambda: server.counters.closed[CloseReason.PROTOCOL_ERROR] == 20)
    gc.collect()

    assert sum(isinstance(each, gevent.Greenlet) and not each.dead for each in gc.get_objects()) == 0
    assert all(REPLY in peer.read_to_end() for peer in peers)


def test_the_server_chooses_the_linger_timeout(serving: Serving) -> None:
    server = serving.start(json(), linger_s=0.03)
    peer = serving.connect(server)
    peer.send(b"x" * 70_000)
    assert REPLY in peer.read_to_end()

    wait_until(lambda: not server._linger, 1)
