"""Throttled log lines: the first event is logged at once, later ones once in a period with their count."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from gserver import Service
from gserver.codecs import Lines, Raw
from gserver.config.tls_options import TlsConfig
from gserver.connection.connection import Connection
from gserver.connection.log_throttling import HANDSHAKE, NO_SPARE, PERIOD_S, SHED, TURNED_AWAY, Notices
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded
from gserver.limits.access_list import parse_networks
from gserver.limits.connection_limits import Limits
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import TcpServer
from gserver.tls.contexts import Tls
from tests.helpers.limited import bare_echo, echo_stream, telling_echo
from tests.helpers.proxied import V1, proxied
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

PEER = ("192.0.2.1", 5)
FULL = LimitExceeded("the server is full: it holds 5 connections", CloseReason.FULL, "worker_connections")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notices(clock: Clock, caplog: pytest.LogCaptureFixture) -> Notices:
    caplog.set_level(logging.INFO, "gserver.server")
    return Notices(clock)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def full(count: int, port: int = 5) -> str:
    return (
        "WARNING the server is full: it holds 5 connections (worker_connections): "
        f"{count} turned away, the last 192.0.2.1:{port}"
    )


def test_the_first_event_is_logged_at_once(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    notices.limit(TURNED_AWAY, PEER, FULL)

    assert lines_of(caplog) == [full(1)]


def test_later_events_are_counted_until_the_period_is_over(
    notices: Notices, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    for port in range(1000):
        notices.limit(TURNED_AWAY, ("192.0.2.1", port), FULL)
        clock.now += PERIOD_S / 1001
    clock.now += 1
    notices.limit(TURNED_AWAY, ("192.0.2.1", 7), FULL)

    assert lines_of(caplog) == [full(1, 0), full(1000, 7)]


def test_a_count_is_logged_when_no_more_event_comes(
    notices: Notices, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    for _ in range(5):
        notices.limit(TURNED_AWAY, PEER, FULL)
    notices.log_due()
    assert lines_of(caplog) == [full(1)]
    clock.now += PERIOD_S
    notices.log_due()
    assert lines_of(caplog)[1:] == [full(4)]
    clock.now += PERIOD_S
    notices.log_due()
    notices.log_all()

    assert len(caplog.records) == 2


def test_at_the_end_every_count_is_logged(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        notices.limit(TURNED_AWAY, PEER, FULL)
    notices.log_all()
    notices.log_all()

    assert lines_of(caplog) == [full(1), full(4)]


def test_each_kind_has_its_own_count(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    notices.limit(TURNED_AWAY, PEER, FULL)
    notices.limit(SHED, PEER, FULL)
    notices.limit(TURNED_AWAY, PEER, LimitExceeded("no access for 192.0.2.1:5", CloseReason.DENIED, "allow, deny"))
    notices.note(logging.INFO, HANDSHAKE, PEER, "no TLS")

    assert lines_of(caplog)[1:] == [
        full(1).replace("turned away", "idle closed to make room"),
        "WARNING no access for 192.0.2.1:5 (allow, deny): 1 turned away, the last 192.0.2.1:5",
        "INFO handshake failed: 1, the last with 192.0.2.1:5: no TLS",
    ]


def test_events_with_different_reasons_are_of_one_kind(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a client that fails in a new way each time would fill the log."""
    for number in range(100):
        notices.note(logging.INFO, HANDSHAKE, PEER, f"no TLS: the first bytes are {number}")
    notices.log_all()

    assert len(caplog.records) == 2
    assert lines_of(caplog)[1].endswith("99, the last with 192.0.2.1:5: no TLS: the first bytes are 99")


def test_a_connection_is_named_by_its_address_and_its_id_and_is_not_kept(
    notices: Notices, caplog: pytest.LogCaptureFixture
) -> None:
    class Sock:
        pass

    conn = Connection(Sock(), ("192.0.2.1", 5), Raw(), Sock())  # type: ignore[arg-type]
    references = sys.getrefcount(conn)
    notices.limit(TURNED_AWAY, conn, FULL)
    notices.note(logging.INFO, HANDSHAKE, conn, "no TLS")
    notices.note(logging.ERROR, NO_SPARE, "", "Too many open files")

    assert lines_of(caplog) == [
        full(1) + f" ({conn.id})",
        f"INFO handshake failed: 1, the last with 192.0.2.1:5 ({conn.id}): no TLS",
        "ERROR cannot accept: Too many open files; clients wait in the queue",
    ]
    fields = [(getattr(record, "connection", None), getattr(record, "peer", None)) for record in caplog.records]
    assert fields == [(conn.id, "192.0.2.1:5"), (conn.id, "192.0.2.1:5"), (None, None)]
    assert sys.getrefcount(conn) == references


# On servers


def refusals(serving: Serving, server: TcpServer, count: int = 3) -> None:
    for _ in range(count):
        serving.connect(server).read_to_end()


@pytest.mark.parametrize("served", [telling_echo(), echo_stream, bare_echo], ids=["service", "stream", "bare"])
@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"worker_connections": 1}, "the server is full: it holds 1 connections (worker_connections): "),
        ({"max_connections": 1}, "the server is full: it holds 1 connections (max_connections): "),
        ({"max_connections_per_ip": 1}, "more than 1 connections from one address (max_connections_per_ip): "),
        (
            {"max_connections_per_network": 1},
            "more than 1 connections from one network (max_connections_per_network): ",
        ),
        ({"max_accept_rate": 1}, "more than 1 connections a second (max_accept_rate): "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_limit_that_is_reached_is_a_warning_now_and_then(
    serving: Serving, caplog: pytest.LogCaptureFixture, served: Any, limits: dict[str, Any], says: str
) -> None:
    server = serving.start(served, limits=Limits(**limits))
    first = serving.meet(server)
    refusals(serving, server, 20)
    first.close()
    server.stop()

    lines = lines_of(caplog)
    assert lines[0].startswith(f"WARNING {says}1 turned away, the last 127.0.0.1:")
    assert len(lines) == (1 if served is bare_echo else 2)  # a bare server does not drain when it stops


def test_denied_clients_are_logged_as_a_warning(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    server = serving.start(telling_echo(), limits=Limits(deny=parse_networks(["127.0.0.1"])))
    refusals(serving, server)
    server.stop()

    first, rest = lines_of(caplog)
    assert first.startswith("WARNING no access for 127.0.0.1:")
    assert "(allow, deny): 1 turned away, the last 127.0.0.1:" in first
    assert "(allow, deny): 2 turned away, the last 127.0.0.1:" in rest


def test_shed_connections_are_logged_as_a_warning(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    server = serving.start(make_echo_lines(), limits=Limits(worker_connections=2, full_action="shed"))
    peers = [serving.meet(server) for _ in range(4)]

    assert "(worker_connections): 1 idle closed to make room, the last " in lines_of(caplog)[0]
    assert sum(peer.is_served for peer in peers) == 2


@pytest.mark.parametrize("served", [telling_echo(), echo_stream], ids=["service", "stream"])
@pytest.mark.parametrize(("action", "what"), [("throttle", "throttled"), ("refuse", "closed"), ("close", "closed")])
@pytest.mark.parametrize("limit", ["max_message_rate", "max_byte_rate"])
def test_connections_that_send_too_fast_are_logged_as_a_warning(
    serving: Serving, caplog: pytest.LogCaptureFixture, served: Any, action: Any, what: str, limit: str
) -> None:
    server = serving.start(served, limits=Limits(rate_action=action, **{limit: 20.0}))  # type: ignore[arg-type]
    peer = serving.meet(server)
    peer.send(b"hello\n" * 30)
    if limit == "max_message_rate":  # the messages of a stream count when it receives again
        peer.read_line()
        with contextlib.suppress(OSError):
            peer.send(b"hello\n")
    wait_until(lambda: lines_of(caplog))

    assert f" a second ({limit}): 1 {what}, the last 127.0.0.1:" in lines_of(caplog)[0]


def test_a_peer_that_does_not_read_a_broadcast_is_logged_as_a_warning(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    conns: list[Connection] = []
    service = Service(lambda line, conn: None, Lines, on_open=conns.append)
    server = serving.start(service, send_limit=1000)
    serving.connect(server)
    wait_until(lambda: conns)
    for _ in range(1000):
        with contextlib.suppress(ConnectionClosed):
            conns[0].send_nowait(b"x" * 60_000)

    assert "more than 1000 bytes wait to be sent (send_buffer_limit): 1 closed, the last " in lines_of(caplog)[0]


def test_a_client_that_is_no_trusted_proxy_is_logged_as_a_warning(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server = serving.start(telling_echo(), entrance=proxied(proxies="127.0.0.2"))
    refusals(serving, server, 1)

    assert "(proxy_allow_ips): 1 turned away, the last 127.0.0.1:" in lines_of(caplog)[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header of v1 or v2: the first bytes are b'GET / HTTP/1.1\\r\\n'"),
        (b"PROXY TCP4", "the peer ended within its PROXY header"),
        (V1 + b"GET / HTTP/1.1\r\n\r\n", "no TLS: the first bytes are b'GET / HT"),
        (V1 + b"\x16\x03\x01", "the peer ended within the TLS handshake"),
    ],
)
def test_a_handshake_that_fails_is_logged_with_its_reason(
    serving: Serving, caplog: pytest.LogCaptureFixture, certificate: tuple[Path, Path], data: bytes, why: str
) -> None:
    caplog.set_level(logging.INFO, "gserver.server")
    tls = Tls(TlsConfig(*map(str, certificate)))
    server = serving.start(telling_echo(), entrance=proxied(tls=tls))
    for _ in range(5):
        with serving.connect(server).sock as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1000)
    server.stop()
    first, rest = lines_of(caplog)

    assert first.startswith("INFO handshake failed: 1, the last with ")
    assert rest.startswith("INFO handshake failed: 4, the last with ")
    assert why in first
    assert why in rest


def test_a_peer_that_only_connects_to_tls_is_not_logged(
    serving: Serving, caplog: pytest.LogCaptureFixture, certificate: tuple[Path, Path]
) -> None:
    """The health checks of load balancers do that."""
    caplog.set_level(logging.INFO, "gserver.server")
    server = serving.start(telling_echo(), entrance=EntranceRules(tls=Tls(TlsConfig(*map(str, certificate)))))
    serving.connect(server).close()
    wait_until(lambda: server.counters.closed[CloseReason.PEER_EOF] == 1)

    assert lines_of(caplog) == []
