"""A bare handle(socket, address), as gevent's StreamServer takes it: the same, but counted and drained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.pool import Pool
from gevent.socket import socket as GeventSocket

from gserver.errors import CloseReason
from tests.helpers.services import Gate
from tests.helpers.serving import Serving, assert_closed
from tests.helpers.waiting import wait_until

Handler = Callable[[Any, Any], None]


def echo_chunks(sock: Any, address: Any) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def make_waiting(gate: Gate) -> Handler:
    def wait(sock: Any, address: Any) -> None:
        gate.block()
        sock.sendall(b"done")

    return wait


def test_a_bare_handler_runs_unchanged(serving: Serving) -> None:
    server = serving.start(echo_chunks)
    peer = serving.connect(server)
    peer.send(b"hello")
    assert peer.read_exactly(5) == b"hello"
    peer.finish()

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.FINISHED)


def test_a_bare_handler_gets_gevents_socket_and_the_address(serving: Serving) -> None:
    got: list[Any] = []
    server = serving.start(lambda sock, address: got.extend([type(sock), address]))
    peer = serving.connect(server)
    assert peer.read_to_end() == b""

    assert got == [GeventSocket, peer.sock.getsockname()]


@pytest.mark.parametrize("spawn", ["default", "raw", 5, "pool"])
def test_all_ways_to_spawn_are_gevents(serving: Serving, spawn: Any) -> None:
    how = {"raw": gevent.spawn_raw, "pool": Pool(5)}.get(spawn, spawn)
    server = serving.start(echo_chunks, spawn=how)
    peers = [serving.connect(server) for _ in range(5)]
    for peer in peers:
        peer.send(b"hello")
        assert peer.read_exactly(5) == b"hello"
        peer.close()

    assert_closed(server, CloseReason.FINISHED, 5)


def test_a_bare_handler_that_fails_is_counted(serving: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(sock: Any, address: Any) -> None:
        raise RuntimeError("the handler failed")

    server = serving.start(fail)

    assert serving.connect(server).read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)
    assert server.counters.errors == 1
    assert capfd.readouterr().err.count("RuntimeError: the handler failed") == 1


def test_a_handler_that_cannot_be_spawned_is_counted(serving: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    server = serving.start(echo_chunks)

    def refuse(*_: Any) -> None:
        raise RuntimeError("no greenlet")

    setattr(server, "_spawn", refuse)  # noqa: B010  # gevent's own, which is not in its stubs
    peer = serving.connect(server)

    assert peer.is_reset() or peer.read() == b""
    server.counters.check()
    assert server.counters.open == 0
    assert "no greenlet" in capfd.readouterr().err


def test_a_drain_waits_for_bare_handlers(serving: Serving) -> None:
    gate = Gate()
    server = serving.start(make_waiting(gate))
    peer = serving.connect(server)
    wait_until(lambda: gate.waiting)
    drain = gevent.spawn(server.drain, 2)
    gevent.spawn_later(0.02, gate.opened.set)

    assert peer.read_to_end() == b"done"
    assert drain.get() == 0
    assert_closed(server, CloseReason.FINISHED)


def test_a_drain_waits_for_bare_handlers_that_have_not_begun(serving: Serving) -> None:
    """Connections that the drain itself accepts have greenlets that have not run yet."""
    gate = Gate()
    server = serving.start(make_waiting(gate))
    server.stop_accepting()
    peers = [serving.connect(server) for _ in range(3)]
    gevent.spawn_later(0.02, gate.opened.set)

    assert server.drain(2) == 0
    assert [peer.read_to_end() for peer in peers] == [b"done"] * 3
    assert_closed(server, CloseReason.FINISHED, 3)


def test_bare_handlers_that_take_too_long_are_killed_and_counted(serving: Serving) -> None:
    gate = Gate()
    server = serving.start(make_waiting(gate))
    for _ in range(3):
        serving.connect(server)
    wait_until(lambda: gate.waiting == 3)

    assert server.drain(0.05) == 3
    assert gate.waiting == 0
    assert_closed(server, CloseReason.KILLED, 3)


def test_a_full_pool_does_not_hold_up_a_drain(serving: Serving) -> None:
    gate = Gate()
    server = serving.start(make_waiting(gate), spawn=1)
    for _ in range(3):
        serving.connect(server)
    wait_until(lambda: gate.waiting)
    with gevent.Timeout(2):
        assert server.drain(0.05) >= 1

    server.counters.check()
    assert server.counters.open == 0


def test_a_pool_that_is_killed_before_its_greenlets_run_is_counted(serving: Serving) -> None:
    pool = Pool(5)
    server = serving.start(echo_chunks, spawn=pool)
    server.max_accept = 5
    serving.meet(server)
    peer = serving.connect(server)
    server.stop_accepting()
    while accepted := server.do_read():
        server.do_handle(*accepted)
    pool.kill()
    server.drain(0.05)

    server.counters.check()
    assert server.counters.open == 0
    assert peer.is_reset() or peer.read() == b""


def test_stop_is_that_of_gevent(serving: Serving) -> None:
    """Without a pool, handlers run until they end."""
    gate = Gate()
    server = serving.start(make_waiting(gate))
    peer = serving.connect(server)
    wait_until(lambda: gate.waiting)
    server.stop(0)

    assert gate.waiting == 1
    gate.opened.set()
    assert peer.read_to_end() == b"done"
