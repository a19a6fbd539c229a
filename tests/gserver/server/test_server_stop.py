"""Ways to stop a TcpServer other than drain(): stop(), `with`, serve_forever(); and all close reasons at once."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason
from gserver.limits.access_list import AccessList
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, stream
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Serving, assert_closed
from tests.helpers.waiting import is_soon, wait_until


def test_stop_closes_idle_connections_and_does_not_wait_long(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, linger_s=90.0)
    peer = serving.connect(server)
    assert peer.ask(b"hello") == b"hello"
    started = time.monotonic()
    server.stop(0)

    assert time.monotonic() - started < 60
    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.DRAINED)


def test_stop_lets_handlers_finish_within_its_timeout(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, linger_s=0.05)
    quick, slow = serving.connect(server), serving.connect(server)
    for peer in (quick, slow):
        peer.send(b"wait\n")
    wait_until(lambda: gate.waiting == 2)
    gevent.spawn_later(0.02, gate.opened.set)
    server.stop(60)

    assert quick.read_to_end() == slow.read_to_end() == b"did wait\n"
    assert_closed(server, CloseReason.DRAINED, 2)


def test_stop_kills_what_takes_longer(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    serving.connect(server).send(b"wait\n")
    wait_until(lambda: gate.waiting)
    server.stop(0.02)

    assert gate.waiting == 0
    assert_closed(server, CloseReason.KILLED)


def test_a_server_is_a_context_manager(serving: Serving, greenlets: str) -> None:
    with serving.start(make_echo_lines(), greenlets=greenlets) as server:
        peer = serving.connect(server)
        assert peer.ask(b"hello") == b"hello"
        peer.close()

    assert server.closed
    assert server.counters.open == 0


def test_serve_forever_serves_until_it_is_stopped(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    forever = gevent.spawn(server.serve_forever)
    assert serving.connect(server).ask(b"hello") == b"hello"
    server.stop(0.05)
    forever.join(60)

    assert forever.successful()


def test_a_drain_under_serve_forever_keeps_its_own_timeout(serving: Serving, greenlets: str) -> None:
    """gevent's serve_forever() stops the server once it is closed, and must not cut short the drain that closed it."""
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    server.stop_timeout = 0.05
    forever = gevent.spawn(server.serve_forever)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    drain = gevent.spawn(server.drain, 60)
    gevent.spawn_later(0.3, gate.opened.set)

    assert peer.read_to_end() == b"did wait\n"
    peer.close()
    assert drain.get() == 0
    forever.join(60)
    assert forever.ready()


def test_a_server_that_never_started_can_be_stopped() -> None:
    server = TcpServer(("127.0.0.1", 0), make_echo_lines())
    server.stop(0)

    assert server.counters.accepted == 0


def test_a_connection_that_cannot_be_made_does_not_stop_a_drain(serving: Serving, greenlets: str) -> None:
    """The codec of a connection in the accept queue cannot be made; the others are drained even so."""
    made: list[Lines] = []

    def make_codec() -> Lines:
        if made:
            raise ValueError("one is enough")
        made.append(Lines())
        return made[0]

    server = serving.start(Service(lambda line, conn: line, make_codec), greenlets=greenlets)
    peer = serving.connect(server)
    assert peer.ask(b"hello") == b"hello"
    server.stop_accepting()
    serving.connect(server)
    drain = gevent.spawn(server.drain, 60)

    assert peer.read_to_end() == b""
    peer.close()
    assert drain.get() == 0
    assert server.closed


def test_on_close_comes_after_the_last_message_though_the_connection_broke_before(
    serving: Serving, greenlets: str
) -> None:
    """A failed send of another greenlet ends the connection while a handler runs; on_close waits for the handler."""
    calls: list[str] = []
    conns: list[Connection] = []
    gate = Gate()

    def on_message(line: bytes, conn: Connection) -> None:
        gate.block()
        calls.append("handled")

    service = make_lines(on_message, on_open=conns.append, on_close=lambda conn, reason: calls.append("closed"))
    server = serving.start(service, greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    wait_until(lambda: gate.waiting)
    peer.reset()
    conns[0].push(b"x")
    conns[0].push(b"x")
    assert_closed(server, CloseReason.PEER_RESET)
    is_soon(lambda: calls, 0.02)  # without waiting, on_close would be called now
    gate.opened.set()
    wait_until(lambda: len(calls) == 2)

    assert calls == ["handled", "closed"]


def test_a_drain_waits_for_a_handler_whose_connection_has_ended(serving: Serving, greenlets: str) -> None:
    """The peer is gone while the handler still runs: a server that stops lets it finish."""
    gate = Gate()
    done: list[bytes] = []
    conns: list[Connection] = []

    def on_message(line: bytes, conn: Connection) -> None:
        gate.block()
        done.append(line)

    server = serving.start(make_lines(on_message, on_open=conns.append), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    wait_until(lambda: gate.waiting)
    conns[0].abort(CloseReason.PEER_RESET)
    gevent.spawn_later(0.03, gate.opened.set)
    server.drain(60)
    finished = list(done)
    wait_until(lambda: done)

    assert finished == [b"hello"]


def test_every_ordinary_close_reason_is_reached_and_counted(serving: Serving, greenlets: str) -> None:
    gate = Gate()

    def on_message(line: bytes, conn: object) -> bytes:
        if line == b"fail":
            raise RuntimeError("the handler failed")
        return gate.on_message(line, conn)  # type: ignore[arg-type]

    service = make_echo_lines()
    service.on_message = on_message
    server = serving.start(service, greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(7)]
    eof, reset, half, long, fail, wait, idle = peers
    eof.finish()
    reset.send(b"hello\n")
    reset.read_line()
    reset.reset()
    half.send(b"half")
    half.finish()
    long.send(b"x" * 70_000)
    fail.send(b"fail\n")
    wait.send(b"wait\n")
    wait_until(lambda: gate.waiting == 1 and server.counters.open == 2)
    idle.ask(b"hello")
    refused = serving.connect(server)
    refused.ask(b"hello")
    next(conn for conn in server._connections if conn.peer == refused.sock.getsockname()).close()
    server.drain(0.5)

    ordinary = "peer_eof peer_reset eof_in_message protocol_error handler_error finished drained killed"
    assert server.counters.closed == dict.fromkeys(map(CloseReason, ordinary.split()), 1)
    server.counters.check()


# Connections without a first answer


def drain_later(server: TcpServer, **options: float) -> gevent.Greenlet[..., int]:
    """A drain that has begun."""
    draining: gevent.Greenlet[..., int] = gevent.spawn(server.drain, 20, **options)
    wait_until(lambda: server.closed)
    return draining


@stream(codec=Lines)
def echo_stream(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(line)


@pytest.mark.parametrize("service", [make_echo_lines(), echo_stream], ids=["service", "stream"])
def test_a_drain_answers_the_first_message_of_a_new_connection(serving: Serving, greenlets: str, service: Any) -> None:
    server = serving.start(service, greenlets=greenlets, linger_s=0.05)
    answered, fresh = serving.meet(server), serving.meet(server)
    assert answered.ask(b"hello") == b"hello"
    draining = drain_later(server)

    assert answered.read_to_end() == b""
    assert fresh.ask(b"hello") == b"hello"
    assert fresh.read_to_end() == b""
    assert draining.get() == 0
    assert_closed(server, CloseReason.DRAINED, 2)


def test_a_drain_lets_a_handshake_and_a_first_message_complete(serving: Serving, greenlets: str) -> None:
    entrance = EntranceRules(proxy="v1", proxies=AccessList((), ()))
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=entrance, linger_s=0.05)
    peer = serving.connect(server)
    wait_until(lambda: server.counters.accepted)
    drain_later(server)
    peer.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
    gevent.sleep(0.05)

    assert peer.ask(b"hello") == b"hello"
    assert peer.read_to_end() == b""


def test_a_drain_lets_the_first_message_complete(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, linger_s=0.05)
    peer = serving.meet(server)
    peer.send(b"hel")
    drain_later(server)
    gevent.sleep(0.05)
    peer.send(b"lo\n")

    assert peer.read_to_end() == b"hello\n"


def test_a_drain_waits_for_a_first_message_no_longer_than_its_timeout(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, linger_s=0.05)
    peer = serving.meet(server)
    began = time.monotonic()

    assert server.drain(20, first_answer_s=0.2) == 0
    assert 0.1 < time.monotonic() - began < 5
    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.DRAINED)


def test_a_drain_does_not_wait_for_a_connection_that_has_been_silent_for_long(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, linger_s=0.05)
    peer = serving.meet(server)
    for conn in server.connections:
        conn.opened_at -= 60
    began = time.monotonic()

    assert server.drain(20) == 0
    assert time.monotonic() - began < 4
    assert peer.read_to_end() == b""


def test_the_handler_of_a_first_message_has_the_time_of_every_handler(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, linger_s=0.05)
    peer = serving.meet(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    draining = drain_later(server, first_answer_s=0.05)
    gevent.sleep(0.1)
    gate.opened.set()

    assert peer.read_to_end() == b"did wait\n"
    assert draining.get() == 0
