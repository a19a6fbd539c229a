"""Limits behind a proxy: they apply to the client that the header names, and not to the proxy."""

from __future__ import annotations

from typing import Any

import gevent

from gserver.connection.connection import Connection
from gserver.errors import CloseReason
from gserver.limits.access_list import parse_networks
from gserver.limits.connection_limits import Limits
from gserver.server.tcp_server import TcpServer
from tests.helpers.limited import assert_turned_away
from tests.helpers.proxied import BOTH, CLIENT, V1, Told, proxied, v1
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until


def through_proxy(serving: Serving, server: TcpServer, source: str) -> Peer:
    peer = serving.connect(server)
    peer.send(v1(source))
    return peer


def test_address_limits_are_of_the_client_and_not_of_the_proxy(serving: Serving, greenlets: str) -> None:
    told = Told()
    server = serving.start(
        told.service(), greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections_per_ip=2)
    )
    first = [through_proxy(serving, server, "192.0.2.7") for _ in range(2)]
    assert [peer.is_served for peer in first] == [True, True]
    assert_turned_away(through_proxy(serving, server, "192.0.2.7"), b"more than 2 connections from one address\n")
    assert through_proxy(serving, server, "192.0.2.8").is_served
    first[0].close()
    wait_until(lambda: server.counters.open == 2)

    assert through_proxy(serving, server, "192.0.2.7").is_served
    assert server.counters.closed[CloseReason.ADDRESS_LIMIT] == 1
    assert len(told.opened) == 4


def test_access_lists_are_for_the_client_and_not_for_the_proxy(serving: Serving, greenlets: str) -> None:
    told = Told()
    limits = Limits(allow=parse_networks(["192.0.2.0/24"]), deny=parse_networks(["192.0.2.66"]))
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied(), limits=limits)

    assert through_proxy(serving, server, "192.0.2.7").is_served
    assert not through_proxy(serving, server, "192.0.2.66").is_served
    assert not through_proxy(serving, server, "198.51.100.1").is_served
    assert closed_reasons(server) == {CloseReason.DENIED: 2}
    assert told.opened == [CLIENT]


def test_connections_without_a_header_yet_are_counted(serving: Serving, greenlets: str) -> None:
    service = make_echo_lines(on_error=lambda fault, conn: fault.close_reason.value.encode())
    server = serving.start(service, greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections=2))
    silent = [serving.meet(server) for _ in range(2)]
    assert_turned_away(serving.connect(server), b"full\n")
    silent[0].close()
    wait_until(lambda: server.counters.open == 1)

    assert through_proxy(serving, server, "192.0.2.7").is_served


@BOTH
def test_a_refused_client_is_answered_although_it_has_sent_a_header_and_more(
    serving: Serving, greenlets: str, header: bytes
) -> None:
    told = Told()
    server = serving.start(
        told.service(), greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections_per_ip=1)
    )
    first = serving.connect(server)
    first.send(header)
    assert first.is_served
    for more in (b"", b"hello\n", b"x" * 100_000):
        peer = serving.connect(server)
        peer.send(header + more)
        assert_turned_away(peer, b"more than 1 connections from one address\n")

    assert len(told.opened) == 1
    assert closed_reasons(server) == {CloseReason.ADDRESS_LIMIT: 3}


def test_input_behind_the_header_of_a_refused_client_is_not_served(serving: Serving, greenlets: str) -> None:
    """Also while on_error blocks before it answers."""
    faults: list[Any] = []

    def on_error(fault: Any, conn: Connection) -> bytes:
        faults.append(fault)
        gevent.sleep(0.05)
        return b"too many"

    server = serving.start(
        make_echo_lines(on_error=on_error),
        greenlets=greenlets,
        entrance=proxied(),
        limits=Limits(max_connections_per_ip=1),
    )
    first, second = (serving.connect(server) for _ in range(2))
    first.send(V1)
    assert first.is_served
    second.send(V1 + b"hello\n")

    assert_turned_away(second, b"too many\n")
    assert len(faults) == 1
    first.close()
    wait_until(lambda: server.counters.open == 0)
    third = serving.connect(server)
    third.send(V1)
    assert third.is_served


def test_a_connection_without_its_header_yet_is_never_shed(serving: Serving, greenlets: str) -> None:
    limits = Limits(max_connections=2, full_action="shed")
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied(), limits=limits)
    at_its_header = serving.meet(server)
    idle = through_proxy(serving, server, "192.0.2.7")
    assert idle.is_served
    newcomer = through_proxy(serving, server, "192.0.2.8")

    assert newcomer.is_served
    assert idle.read_to_end() == b""
    at_its_header.send(V1)
    assert at_its_header.is_served
    assert closed_reasons(server) == {CloseReason.SHED: 1}
