"""Limits on real sockets: admission, the answers to refused clients, and that the counters balance."""

from __future__ import annotations

import json
import socket as plain
from pathlib import Path
from typing import Any

import pytest
from gevent import socket

from gserver import JsonService
from gserver.connection.connection import Connection
from gserver.errors import CloseReason, LimitExceeded
from gserver.limits.access_list import parse_networks
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from tests.helpers.limited import admitted, assert_turned_away, bare_echo, echo_stream, telling_echo
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import assert_never, wait_until

FULL, SHED = CloseReason.FULL, CloseReason.SHED


SERVED = pytest.mark.parametrize("served", [telling_echo(), echo_stream, bare_echo], ids=["service", "stream", "bare"])


# Numbers of connections


@SERVED
@pytest.mark.parametrize("limit", ["worker_connections", "max_connections"])
def test_a_full_server_admits_no_connection_until_another_closes(serving: Serving, served: Any, limit: str) -> None:
    server = serving.start(served, limits=Limits(**{limit: 3, "full_action": "close"}))  # type: ignore[arg-type]
    peers = admitted(serving, server, 3)
    for _ in range(4):
        assert_turned_away(serving.connect(server))
    peers.pop().close()
    wait_until(lambda: server.counters.open == 2)
    peers += admitted(serving, server, 1)

    assert_turned_away(serving.connect(server))
    assert server.counters.closed[FULL] == 5
    assert [peer.ask(b"still") for peer in peers] == [b"still"] * 3


@SERVED
def test_of_a_burst_exactly_as_many_are_served_as_the_limit_allows(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_connections=10, full_action="close"))
    peers = [serving.connect(server) for _ in range(30)]
    wait_until(lambda: server.counters.accepted == 30)
    served_now = 0
    for peer in peers:
        try:
            served_now += peer.ask(b"hello") == b"hello"
        except (AssertionError, OSError):
            pass

    assert served_now == server.counters.open == 10
    assert closed_reasons(server) == {FULL: 20}


@SERVED
def test_an_address_has_at_most_so_many_connections(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_connections_per_ip=2, ip_action="close"))
    peers = admitted(serving, server, 2)
    assert_turned_away(serving.connect(server))
    admitted(serving, server, 2, host="127.0.0.2")
    peers.pop().close()
    wait_until(lambda: server.counters.open == 3)
    admitted(serving, server, 1)

    assert_turned_away(serving.connect(server))
    assert server.counters.closed[CloseReason.ADDRESS_LIMIT] == 2


def test_a_network_has_at_most_so_many_connections(serving: Serving) -> None:
    server = serving.start(telling_echo(), limits=Limits(max_connections_per_network=2))
    admitted(serving, server, 1, host="127.0.0.1")
    admitted(serving, server, 1, host="127.0.0.2")

    refused = serving.connect(server, host="127.0.0.3")
    assert refused.read_to_end() == b"more than 2 connections from one network\n"
    admitted(serving, server, 2, host="127.0.1.1")
    assert closed_reasons(server) == {CloseReason.ADDRESS_LIMIT: 1}


@SERVED
def test_the_accept_rate_admits_so_many_in_a_second(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_accept_rate=4, accept_rate_action="close"))
    peers = [serving.connect(server) for _ in range(12)]
    wait_until(lambda: server.counters.accepted == 12)

    assert server.counters.open in (4, 5)  # a moment passes, and a quarter of a second is one more
    assert set(closed_reasons(server)) == {CloseReason.ACCEPT_RATE}
    assert sum(peer.is_served for peer in peers) == server.counters.open
    wait_until(lambda: serving.connect(server).is_served)


# Access lists


@SERVED
def test_only_allowed_clients_are_admitted_and_never_denied_ones(serving: Serving, served: Any) -> None:
    limits = Limits(allow=parse_networks(["127.0.0.0/30"]), deny=parse_networks(["127.0.0.2"]))
    server = serving.start(served, limits=limits)
    admitted(serving, server, 1, host="127.0.0.1")
    admitted(serving, server, 1, host="127.0.0.3")

    assert_turned_away(serving.connect(server, host="127.0.0.2"))
    assert_turned_away(serving.connect(server, host="127.0.0.4"))
    assert closed_reasons(server) == {CloseReason.DENIED: 2}


def test_an_ipv4_client_on_an_ipv6_socket_is_checked_as_ipv4(serving: Serving) -> None:
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(plain.IPPROTO_IPV6, plain.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    limits = Limits(deny=parse_networks(["127.0.0.2"]), max_connections_per_ip=1)
    server = serving.start(telling_echo(), listener, limits=limits)
    target = ("127.0.0.1", listener.getsockname()[1])
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.1")
    peers = [Peer(target, host=host) for host in hosts]

    assert peers[0].is_served
    assert_turned_away(peers[1])
    assert_turned_away(peers[2], b"more than 1 connections from one address\n")
    for peer in peers:
        peer.close()
    wait_until(lambda: server.counters.open == 0)


def test_peers_of_a_unix_socket_have_no_address_limit(serving: Serving, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    limits = Limits(max_connections_per_ip=1, allow=parse_networks(["10.0.0.0/8"]), max_connections=3)
    serving.start(telling_echo(), listener, limits=limits)
    peers = [Peer(str(tmp_path / "socket")) for _ in range(4)]

    assert [peer.ask(b"hello") for peer in peers[:3]] == [b"hello"] * 3
    assert_turned_away(peers[3], b"the server is full: it holds 3 connections\n")
    for peer in peers:
        peer.close()


# Answers


def test_a_refused_client_gets_the_answer_of_on_error(serving: Serving, greenlets: str) -> None:
    server = serving.start(JsonService(), greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)
    said = serving.connect(server).read_to_end()

    assert json.loads(said) == {"status": "ERROR", "message": "the server is full: it holds 1 connections"}
    assert said.endswith(b"\n")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"worker_connections": 1}, b"the server is full: it holds 1 connections\n"),
        ({"max_connections_per_ip": 1}, b"more than 1 connections from one address\n"),
        ({"max_accept_rate": 1.0}, b"more than 1 connections a second\n"),
        ({"worker_connections": 1, "full_action": "close"}, b""),
        ({"max_connections_per_ip": 1, "ip_action": "close"}, b""),
        ({"max_accept_rate": 1.0, "accept_rate_action": "close"}, b""),
    ],
)
def test_each_limit_is_answered_as_its_action_demands(
    serving: Serving, greenlets: str, limits: dict[str, Any], said: bytes
) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(**limits))
    serving.meet(server)

    assert serving.connect(server).read_to_end() == said


def test_the_answer_arrives_although_the_client_is_sending(serving: Serving, greenlets: str) -> None:
    """A socket that is closed with unread input makes the kernel send a reset, which would lose the reply."""
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), linger_s=1.0)
    serving.meet(server)
    for _ in range(20):
        peer = serving.connect(server)
        peer.send(b"x" * 100_000 + b"\n")
        assert peer.read_to_end() == b"the server is full: it holds 1 connections\n"


@pytest.mark.parametrize("on_error", [None, lambda fault, conn: None])
def test_without_an_answer_of_on_error_the_connection_is_closed(
    serving: Serving, greenlets: str, on_error: Any
) -> None:
    hooks = {} if on_error is None else {"on_error": on_error}
    server = serving.start(make_echo_lines(**hooks), greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)

    assert_turned_away(serving.connect(server))
    assert closed_reasons(server) == {FULL: 1}


def test_an_on_error_that_fails_does_not_prevent_the_refusal(serving: Serving, greenlets: str) -> None:
    def on_error(fault: Any, conn: Connection) -> bytes:
        raise RuntimeError("on purpose")

    server = serving.start(make_echo_lines(on_error=on_error), greenlets=greenlets, limits=Limits(max_connections=1))
    peer = serving.meet(server)

    assert_turned_away(serving.connect(server))
    assert peer.ask(b"hello") == b"hello"
    assert closed_reasons(server) == {FULL: 1}


def test_on_error_is_given_the_limit_and_the_connection(serving: Serving, greenlets: str) -> None:
    calls: list[Any] = []
    service = make_echo_lines(on_error=lambda fault, conn: calls.append((type(fault), fault.close_reason, conn.peer)))
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)
    refused = serving.connect(server)
    address = refused.sock.getsockname()
    refused.read_to_end()

    assert calls == [(LimitExceeded, FULL, address)]


@pytest.mark.parametrize("full_action", ["refuse", "close"])
def test_a_refused_connection_never_reaches_the_service(serving: Serving, greenlets: str, full_action: Any) -> None:
    calls: list[Any] = []
    service = telling_echo(on_open=calls.append, on_close=lambda conn, reason: calls.append(reason))
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_connections=1, full_action=full_action))
    serving.meet(server)
    wait_until(lambda: len(calls) == 1)
    for _ in range(3):
        refused = serving.connect(server)
        refused.send(b"hello\n")
        refused.is_reset()

    assert len(calls) == 1
    assert closed_reasons(server) == {FULL: 3}
    assert len(server.connections) == 1


def test_a_flood_of_clients_that_never_read_leaves_nothing_behind(serving: Serving, greenlets: str) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), linger_s=0.1)
    first = serving.meet(server)
    for _ in range(100):
        serving.connect(server)
    wait_until(lambda: server.counters.accepted == 101 and server.counters.open == 1)

    assert closed_reasons(server) == {FULL: 100}
    assert first.ask(b"hello") == b"hello"


# Connections that are not affected


def test_a_refused_client_does_not_come_under_the_deadlines(serving: Serving, greenlets: str) -> None:
    """It is counted as closed at once, although its socket lingers."""
    deadlines = Deadlines(first_byte_s=0.05, idle_s=0.05)
    server = serving.start(
        telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), deadlines=deadlines, linger_s=0.3
    )
    first = serving.meet(server)
    serving.connect(server)
    assert first.read_to_end() == b""
    wait_until(lambda: server.counters.open == 0)

    assert closed_reasons(server) == {FULL: 1, CloseReason.FIRST_BYTE_TIMEOUT: 1}


def test_a_limit_that_was_not_reached_has_no_effect(serving: Serving, greenlets: str) -> None:
    limits = Limits(
        worker_connections=10,
        max_connections=10,
        max_connections_per_ip=10,
        max_connections_per_network=10,
        max_accept_rate=1000,
        allow=parse_networks(["127.0.0.0/8"]),
    )
    server = serving.start(telling_echo(), greenlets=greenlets, limits=limits)
    for _ in range(5):
        for peer in admitted(serving, server, 10):
            peer.close()
        wait_until(lambda: server.counters.open == 0)

    assert closed_reasons(server) == {CloseReason.PEER_EOF: 50}
    assert_never(lambda: server.counters.open, 0.02)
