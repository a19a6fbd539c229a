"""Limits behind a proxy: they are of whom it names, and not of the proxy."""

from __future__ import annotations

import socket as plain
import struct
from typing import Any

import pytest

from gserver import Service, stream
from gserver.admission import AccessList, parse_networks
from gserver.connection import Connection
from gserver.entrance import EntranceRules
from gserver.errors import CloseReason
from gserver.framing import Lines
from gserver.limits import Limits
from gserver.server import TcpServer
from gserver.streams import StreamConnection
from gserver.tls import Tls
from tests.helpers.services import make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until

V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5678 443\r\n"
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = ("192.0.2.7", 5678)


def v2(command: int = 1, source: str = "192.0.2.7", port: int = 5678, tlvs: bytes = b"") -> bytes:
    """A header of version 2, for TCP over IPv4."""
    addresses = plain.inet_aton(source) + plain.inet_aton("192.0.2.1") + struct.pack("!HH", port, 443)
    rest = addresses + tlvs
    return V2_SIGNATURE + bytes((0x20 | command, 0x11)) + struct.pack("!H", len(rest)) + rest


def v1(source: str, port: int = 5678) -> bytes:
    return f"PROXY TCP4 {source} 192.0.2.1 {port} 443\r\n".encode()


V2 = v2()
BOTH = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])


def proxied(mode: Any = "auto", proxies: str = "127.0.0.1", tls: Tls | None = None) -> EntranceRules:
    return EntranceRules(mode, AccessList(parse_networks([proxies]), ()), tls)


def who(line: bytes, conn: Connection) -> bytes:
    peer: Any = conn.peer
    return f"{peer[0]} {peer[1]} {conn.proxy.version}".encode()


@stream(codec=Lines)
def who_stream(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(who(line, conn))


SERVED = pytest.mark.parametrize("served", [make_lines(who), who_stream], ids=["service", "stream"])


class Told:
    """What a service was told of its connections."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.closed: list[Any] = []

    def service(self) -> Service:
        return make_echo_lines(
            on_open=lambda conn: self.opened.append(conn.peer),
            on_close=lambda conn, reason: self.closed.append((conn.peer, reason)),
            on_error=lambda fault, conn: str(fault).encode(),
        )


def through_proxy(serving: Serving, server: TcpServer, source: str) -> Peer:
    peer = serving.connect(server)
    peer.send(v1(source))
    return peer


def assert_told(peer: Peer, said: bytes) -> None:
    """And closed."""
    assert peer.read_to_end() == said


def is_served(peer: Peer) -> bool:
    try:
        return peer.ask(b"hello") == b"hello"
    except (AssertionError, OSError):
        return False


def test_an_address_is_the_clients_and_not_the_proxys(serving: Serving, greenlets: str) -> None:
    told = Told()
    server = serving.start(
        told.service(), greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections_per_ip=2)
    )
    first = [through_proxy(serving, server, "192.0.2.7") for _ in range(2)]
    assert [is_served(peer) for peer in first] == [True, True]
    assert_told(through_proxy(serving, server, "192.0.2.7"), b"more than 2 connections from one address\n")
    assert is_served(through_proxy(serving, server, "192.0.2.8"))
    first[0].close()
    wait_until(lambda: server.ledger.open == 2)

    assert is_served(through_proxy(serving, server, "192.0.2.7"))
    assert server.ledger.closed[CloseReason.ADDRESS_LIMIT] == 1
    assert len(told.opened) == 4


def test_access_is_the_clients_and_not_the_proxys(serving: Serving, greenlets: str) -> None:
    told = Told()
    limits = Limits(allow=parse_networks(["192.0.2.0/24"]), deny=parse_networks(["192.0.2.66"]))
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied(), limits=limits)

    assert is_served(through_proxy(serving, server, "192.0.2.7"))
    assert not is_served(through_proxy(serving, server, "192.0.2.66"))
    assert not is_served(through_proxy(serving, server, "198.51.100.1"))
    assert closed_reasons(server) == {CloseReason.DENIED: 2}
    assert told.opened == [CLIENT]


def test_headers_that_never_come_count_as_connections(serving: Serving, greenlets: str) -> None:
    service = make_echo_lines(on_error=lambda fault, conn: fault.close_reason.value.encode())
    server = serving.start(service, greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections=2))
    silent = [serving.meet(server) for _ in range(2)]
    assert_told(serving.connect(server), b"full\n")
    silent[0].close()
    wait_until(lambda: server.ledger.open == 1)

    assert is_served(through_proxy(serving, server, "192.0.2.7"))


@BOTH
def test_who_is_refused_is_told_although_it_has_sent_a_header_and_more(
    serving: Serving, greenlets: str, header: bytes
) -> None:
    told = Told()
    server = serving.start(
        told.service(), greenlets=greenlets, entrance=proxied(), limits=Limits(max_connections_per_ip=1)
    )
    first = serving.connect(server)
    first.send(header)
    assert is_served(first)
    for more in (b"", b"hello\n", b"x" * 100_000):
        peer = serving.connect(server)
        peer.send(header + more)
        assert_told(peer, b"more than 1 connections from one address\n")

    assert len(told.opened) == 1
    assert closed_reasons(server) == {CloseReason.ADDRESS_LIMIT: 3}


def test_who_is_still_at_its_header_is_never_shed(serving: Serving, greenlets: str) -> None:
    limits = Limits(max_connections=2, full_action="shed")
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied(), limits=limits)
    at_its_header = serving.meet(server)
    idle = through_proxy(serving, server, "192.0.2.7")
    assert is_served(idle)
    newcomer = through_proxy(serving, server, "192.0.2.8")

    assert is_served(newcomer)
    assert idle.read_to_end() == b""
    at_its_header.send(V1)
    assert is_served(at_its_header)
    assert closed_reasons(server) == {CloseReason.SHED: 1}
