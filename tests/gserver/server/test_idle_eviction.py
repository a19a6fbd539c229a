"""A full server that sheds: which connections are shed, which never are, and for which clients none is."""

from __future__ import annotations

import errno
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver import stream
from gserver.codecs import Lines
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason
from gserver.limits.access_list import parse_networks
from gserver.limits.connection_limits import Limits
from gserver.server.reserve_descriptor import ReserveDescriptor
from gserver.server.tcp_server import TcpServer
from tests.helpers.limited import admitted, assert_turned_away, bare_echo, echo_stream, telling_echo
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Serving, closed_reasons
from tests.helpers.waiting import wait_until

FULL, SHED = CloseReason.FULL, CloseReason.SHED


def shedding(served: Any, serving: Serving, count: int, **options: Any) -> TcpServer:
    return serving.start(served, limits=Limits(max_connections=count, full_action="shed"), **options)


@pytest.mark.parametrize("served", [telling_echo(), echo_stream], ids=["service", "stream"])
def test_the_longest_idle_connection_is_shed(serving: Serving, greenlets: str, served: Any) -> None:
    server = shedding(served, serving, 3, greenlets=greenlets)
    first, second, third = admitted(serving, server, 3)
    first.ask(b"again")
    newcomers = admitted(serving, server, 1)
    assert_turned_away(second)
    newcomers += admitted(serving, server, 1)
    assert_turned_away(third)

    assert closed_reasons(server) == {SHED: 2}
    assert [peer.ask(b"still") for peer in (first, *newcomers)] == [b"still"] * 3


def test_on_close_is_called_for_the_connection_that_was_shed(serving: Serving, greenlets: str) -> None:
    calls: list[CloseReason] = []
    service = make_echo_lines(on_close=lambda conn, reason: calls.append(reason))
    server = shedding(service, serving, 1, greenlets=greenlets)
    admitted(serving, server, 1)
    admitted(serving, server, 1)

    assert calls == [SHED]


def test_a_connection_with_a_running_handler_is_never_shed(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    service = gate.service(on_error=lambda fault, conn: str(fault).encode())
    server = shedding(service, serving, 2, greenlets=greenlets)
    busy, idle = serving.meet(server), serving.meet(server)
    busy.send(b"wait\n")
    wait_until(lambda: gate.waiting == 1)
    idle.ask(b"x")  # the busy one has been silent for longer
    newcomer = serving.connect(server)
    assert_turned_away(idle)
    newcomer.send(b"wait\n")
    wait_until(lambda: gate.waiting == 2)

    assert_turned_away(serving.connect(server), b"the server is full: it holds 2 connections\n")
    gate.opened.set()
    assert busy.read_line() == newcomer.read_line() == b"did wait"
    assert closed_reasons(server) == {SHED: 1, FULL: 1}


def test_a_stream_that_does_not_wait_for_input_is_never_shed(serving: Serving) -> None:
    opened, working = Event(), Event()

    @stream(codec=Lines)
    def served(conn: StreamConnection) -> None:
        for line in conn:
            working.set()
            opened.wait()
            conn.send(line)

    server = shedding(served, serving, 1)
    busy = serving.meet(server)
    busy.send(b"work\n")
    working.wait()

    assert_turned_away(serving.connect(server))
    opened.set()
    assert busy.read_line() == b"work"
    wait_until(lambda: next(iter(server.connections)).is_listening)
    gevent.sleep(0.06)  # after a scan without an idle connection, the next scan comes later
    admitted(serving, server, 1)
    assert closed_reasons(server) == {FULL: 1, SHED: 1}


def test_a_connection_with_unsent_replies_is_not_idle(serving: Serving, greenlets: str) -> None:
    service = make_lines(lambda line, conn: line * 60_000, on_error=lambda fault, conn: str(fault).encode())
    server = shedding(service, serving, 1, greenlets=greenlets, narrow=True)
    slow = serving.connect(server, narrow=True)
    slow.send(b"x\n")
    wait_until(lambda: any(conn.outbox is not None and conn.is_listening for conn in server.connections))

    assert_turned_away(serving.connect(server), b"the server is full: it holds 1 connections\n")
    assert len(slow.read_exactly(60_001)) == 60_001


def test_a_connection_whose_on_open_runs_is_not_idle(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    service = telling_echo(on_open=lambda conn: gate.block())
    server = shedding(service, serving, 1, greenlets=greenlets)
    first = serving.connect(server)
    wait_until(lambda: gate.waiting == 1)

    assert_turned_away(serving.connect(server), b"the server is full: it holds 1 connections\n")
    gate.opened.set()
    assert first.ask(b"hello") == b"hello"


@pytest.mark.parametrize(
    ("limits", "host"),
    [
        ({"deny": parse_networks(["127.0.0.2"])}, "127.0.0.2"),
        ({"max_connections_per_ip": 2}, "127.0.0.1"),
        ({"max_accept_rate": 2.0}, "127.0.0.1"),
    ],
    ids=["denied", "too many", "too fast"],
)
def test_no_connection_is_shed_for_a_client_that_is_denied_anyway(
    serving: Serving, greenlets: str, limits: dict[str, Any], host: str
) -> None:
    limited = Limits(max_connections=2, full_action="shed", **limits)
    server = serving.start(telling_echo(), greenlets=greenlets, limits=limited)
    peers = admitted(serving, server, 2)
    serving.connect(server, host=host).read_to_end()

    assert [peer.ask(b"still") for peer in peers] == [b"still"] * 2
    assert SHED not in closed_reasons(server)


def test_a_bare_handler_is_never_shed(serving: Serving) -> None:
    server = shedding(bare_echo, serving, 1)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    assert peer.read_line() == b"hello"

    assert_turned_away(serving.connect(server))
    assert peer.ask(b"still") == b"still"


def test_every_connection_of_a_burst_that_sheds_is_counted(serving: Serving, greenlets: str) -> None:
    calls: list[CloseReason] = []
    service = telling_echo(on_close=lambda conn, reason: calls.append(reason))
    server = shedding(service, serving, 10, greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(200)]
    wait_until(lambda: server.counters.accepted == 200 and server.counters.open <= 10)

    assert sum(peer.is_served for peer in peers) == server.counters.open == 10
    reasons = closed_reasons(server)
    assert sum(reasons.values()) == 190
    assert set(reasons) <= {SHED, FULL}
    assert calls == [SHED] * reasons.get(SHED, 0)


def test_without_a_descriptor_the_longest_idle_connection_is_shed(
    serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(full_action="shed"))
    (first,) = admitted(serving, server, 1)
    accept, failures = server._accept, [OSError(errno.EMFILE, "Too many open files")]

    def failing_once() -> Any:
        if failures:
            raise failures.pop()
        return accept()

    monkeypatch.setattr(server, "_accept", failing_once)
    assert isinstance(server._spare, ReserveDescriptor)
    admitted(serving, server, 1)

    assert_turned_away(first)
    assert closed_reasons(server) == {SHED: 1}
