"""on_drain: called once for a connection that a drain or its age closes, before it is closed."""

from __future__ import annotations

import contextvars
import time
from typing import Any

import gevent
import pytest

from gserver import JsonService, stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConnectionClosed
from gserver.limits.access_list import AccessList
from gserver.limits.deadlines import Deadlines
from gserver.server.handshake import EntranceRules
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Serving, assert_closed
from tests.helpers.waiting import wait_until

SOON_S = 0.1


def say_bye(conn: Connection) -> None:
    conn.send(b"bye")


def test_a_drain_sends_a_last_message_after_the_last_reply(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(on_drain=say_bye), greenlets=greenlets, linger_s=0.05)
    quiet, busy = serving.meet(server), serving.meet(server)
    for peer in (quiet, busy):
        assert peer.ask(b"hello") == b"hello"
    busy.send(b"one\ntwo\n")
    assert server.drain(5.0) == 0

    assert quiet.read_to_end() == b"bye\n"
    assert busy.read_to_end() == b"one\ntwo\nbye\n"
    assert_closed(server, CloseReason.DRAINED, 2)


def test_it_comes_after_a_handler_that_runs_and_once(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    seen: list[tuple[bool, CloseReason]] = []

    def on_drain(conn: Connection) -> None:
        seen.append((conn.is_draining, conn.drain_reason))
        conn.send(b"bye")

    server = serving.start(gate.service(on_drain=on_drain), greenlets=greenlets, linger_s=0.05)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    draining = gevent.spawn(server.drain, 20)
    gevent.sleep(0.05)
    assert not seen

    gate.opened.set()
    assert peer.read_to_end() == b"did wait\nbye\n"
    assert draining.get() == 0
    assert seen == [(True, CloseReason.DRAINED)]


def test_it_comes_after_an_on_open_that_runs(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(
        make_echo_lines(on_open=lambda conn: gate.block(), on_drain=say_bye), greenlets=greenlets, linger_s=0.05
    )
    peer = serving.connect(server)
    wait_until(lambda: gate.waiting)
    draining = gevent.spawn(server.drain, 20, first_answer_s=0.0)
    gevent.sleep(0.05)
    gate.opened.set()

    assert peer.read_to_end() == b"bye\n"
    assert draining.get() == 0


def test_a_connection_that_has_reached_its_age_is_told_too(serving: Serving, greenlets: str) -> None:
    seen: list[CloseReason] = []

    def on_drain(conn: Connection) -> None:
        seen.append(conn.drain_reason)
        conn.send(b"bye")

    server = serving.start(
        make_echo_lines(on_drain=on_drain), greenlets=greenlets, deadlines=Deadlines(max_age_s=SOON_S)
    )

    assert serving.connect(server).read_to_end() == b"bye\n"
    assert seen == [CloseReason.AGED]
    assert_closed(server, CloseReason.AGED)


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), gevent.GreenletExit()], ids=repr)
def test_whatever_it_raises_the_connection_is_drained_and_the_others_are(
    serving: Serving, greenlets: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    first: list[Connection] = []

    def on_drain(conn: Connection) -> None:
        first.append(conn)
        if len(first) == 1:
            raise error
        conn.send(b"bye")

    server = serving.start(make_echo_lines(on_drain=on_drain), greenlets=greenlets, linger_s=0.05)
    peers = [serving.meet(server) for _ in range(3)]
    for peer in peers:
        peer.ask(b"hello")
    assert server.drain(5.0) == 0

    assert sorted(peer.read_to_end() for peer in peers) == [b"", b"bye\n", b"bye\n"]
    assert_closed(server, CloseReason.DRAINED, 3)
    assert server.counters.errors == 1
    assert caplog.text.count("on_drain failed for") == 1


def test_one_that_does_not_return_is_killed_at_the_end_of_the_drain(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(on_drain=lambda conn: gevent.sleep(60)), greenlets=greenlets, linger_s=0.05)
    serving.connect(server).ask(b"hello")
    began = time.monotonic()

    assert server.drain(0.2) == 1
    assert time.monotonic() - began < 5
    assert_closed(server, CloseReason.KILLED)


def test_one_that_follows_a_handler_is_killed_as_well(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    called: list[Connection] = []

    def on_drain(conn: Connection) -> None:
        called.append(conn)
        gevent.sleep(60)

    server = serving.start(gate.service(on_drain=on_drain), greenlets=greenlets, linger_s=0.05)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    draining = gevent.spawn(server.drain, 1.0)
    gevent.sleep(0.05)
    gate.opened.set()
    wait_until(lambda: bool(called))

    assert draining.get() == 1
    assert peer.read_to_end() == b"did wait\n"
    assert_closed(server, CloseReason.KILLED)


def test_it_has_the_time_of_a_handler(serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture) -> None:
    server = serving.start(
        make_echo_lines(on_drain=lambda conn: gevent.sleep(60)),
        greenlets=greenlets,
        linger_s=0.05,
        deadlines=Deadlines(handler_s=SOON_S),
    )
    serving.connect(server).ask(b"hello")

    assert server.drain(20.0) == 0
    assert_closed(server, CloseReason.HANDLER_TIMEOUT)
    assert "on_drain failed for" in caplog.text


def test_a_peer_that_does_not_read_delays_the_drain_no_longer_than_its_timeout(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[BaseException] = []

    def send_much(conn: Connection) -> None:
        try:
            for _ in range(100):
                conn.send(b"x" * 50_000)
        except BaseException as error:
            ends.append(error)
            raise

    server = serving.start(
        make_echo_lines(on_drain=send_much), greenlets=greenlets, narrow=True, deadlines=Deadlines(write_s=0.2)
    )
    serving.connect(server, narrow=True).ask(b"hello")

    assert server.drain(20.0) == 0
    assert_closed(server, CloseReason.WRITE_TIMEOUT)
    assert [type(end) for end in ends] == [ConnectionClosed]
    assert not caplog.records
    assert server.counters.errors == 0


def test_it_runs_in_the_context_of_its_connection(serving: Serving, greenlets: str) -> None:
    name: contextvars.ContextVar[bytes] = contextvars.ContextVar("name", default=b"nobody")

    def on_message(line: bytes, conn: Connection) -> bytes:
        name.set(line)
        return line

    service = make_lines(on_message, on_drain=lambda conn: conn.send(b"bye " + name.get()))
    server = serving.start(service, greenlets=greenlets, linger_s=0.05)
    peers = {line: serving.connect(server) for line in (b"one", b"two")}
    for line, peer in peers.items():
        peer.ask(line)
    server.drain(5.0)

    assert [peer.read_to_end() for peer in peers.values()] == [b"bye one\n", b"bye two\n"]
    assert name.get() == b"nobody"


def test_a_service_may_close_the_connection_itself(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(on_drain=lambda conn: conn.close()), greenlets=greenlets, linger_s=0.05)
    serving.connect(server).ask(b"hello")
    server.drain(5.0)

    assert_closed(server, CloseReason.FINISHED)


def test_it_is_not_called_for_peers_that_have_left_or_are_closed_for_another_reason(
    serving: Serving, greenlets: str
) -> None:
    called: list[Connection] = []
    server = serving.start(
        make_echo_lines(on_drain=called.append), greenlets=greenlets, linger_s=0.05, deadlines=Deadlines(idle_s=0.1)
    )
    left, idle, broken = (serving.connect(server) for _ in range(3))
    for peer in (left, idle, broken):
        peer.ask(b"hello")
    left.close()
    broken.send(b"x" * 70_000)
    assert idle.read_to_end() == b""
    wait_until(lambda: server.counters.open == 0)
    server.drain(5.0)

    assert called == []


def test_it_is_not_called_before_the_handshake_is_complete(serving: Serving, greenlets: str) -> None:
    called: list[Connection] = []
    entrance = EntranceRules(proxy="v1", proxies=AccessList((), ()))
    server = serving.start(make_echo_lines(on_drain=called.append), greenlets=greenlets, entrance=entrance)
    serving.meet(server)
    server.drain(5.0, first_answer_s=0.0)

    assert called == []
    assert_closed(server, CloseReason.DRAINED)


def test_on_close_follows_it(serving: Serving, greenlets: str) -> None:
    calls: list[str] = []
    service = make_echo_lines(
        on_drain=lambda conn: calls.append("drain"), on_close=lambda conn, reason: calls.append(reason.value)
    )
    server = serving.start(service, greenlets=greenlets, linger_s=0.05)
    serving.connect(server).ask(b"hello")
    server.drain(5.0)

    assert calls == ["drain", "drained"]


def test_a_json_service_has_it_too(serving: Serving) -> None:
    service = JsonService(on_drain=lambda conn: conn.send({"type": "GOING_AWAY"}))
    server = serving.start(service, linger_s=0.05)
    peer = serving.connect(server)
    assert b"Unknown type" in peer.ask(b'{"type": "x"}')
    server.drain(5.0)

    assert peer.read_to_end() == b'{"type":"GOING_AWAY"}\n'


def test_a_stream_that_reads_gets_the_end_and_one_that_does_not_sees_the_drain(serving: Serving) -> None:
    seen: list[Any] = []

    @stream(codec=Lines)
    def app(conn: StreamConnection) -> None:
        for line in conn:
            conn.send(line)
            if line == b"work":
                while not conn.is_draining:
                    gevent.sleep(0.01)
        seen.append((conn.is_draining, conn.drain_reason))
        conn.send(b"bye")

    server = serving.start(app, linger_s=0.05)
    peers = [serving.connect(server) for _ in range(2)]
    for peer, line in zip(peers, (b"hello", b"work"), strict=True):
        assert peer.ask(line) == line
    assert server.drain(5.0) == 0

    assert [peer.read_to_end() for peer in peers] == [b"bye\n", b"bye\n"]
    assert seen == [(True, CloseReason.DRAINED)] * 2
    assert_closed(server, CloseReason.DRAINED, 2)
