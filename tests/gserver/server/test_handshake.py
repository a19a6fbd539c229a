"""The PROXY header on real sockets: the client's address, headers in pieces, and refused connections."""

from __future__ import annotations

import ssl
import time
from typing import Any

import gevent
import pytest
from gevent import socket

from gserver import stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason
from gserver.limits.access_list import parse_networks
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.tls.contexts import Tls, TlsConfig
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.proxied import BOTH, CLIENT, V1, V2, V2_SIGNATURE, Told, proxied, v2
from tests.helpers.services import make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, assert_closed, closed_reasons
from tests.helpers.waiting import wait_until


def who(line: bytes, conn: Connection) -> bytes:
    peer: Any = conn.peer
    return f"{peer[0]} {peer[1]} {conn.proxy.version}".encode()


@stream(codec=Lines)
def who_stream(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(who(line, conn))


SERVED = pytest.mark.parametrize("served", [make_lines(who), who_stream], ids=["service", "stream"])


# The address of the client


@SERVED
@pytest.mark.parametrize(
    ("mode", "header"), [("v1", V1), ("v2", V2), ("auto", V1), ("auto", V2)], ids=["v1", "v2", "auto-v1", "auto-v2"]
)
def test_the_peer_is_the_client_that_the_header_names(
    serving: Serving, greenlets: str, served: Any, mode: str, header: bytes
) -> None:
    server = serving.start(served, greenlets=greenlets, entrance=proxied(mode))
    peer = serving.connect(server)
    peer.send(header)

    said = b"192.0.2.7 5678 %d" % (1 if header is V1 else 2)
    assert [peer.ask(b"who") for _ in range(3)] == [said] * 3


@SERVED
@BOTH
def test_messages_that_arrive_with_the_header_are_served(
    serving: Serving, greenlets: str, served: Any, header: bytes
) -> None:
    """No further byte arrives that would make the socket readable."""
    server = serving.start(served, greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(header + b"who\nwho\nw")

    said = b"192.0.2.7 5678 %d" % (1 if header is V1 else 2)
    assert [peer.read_line(), peer.read_line()] == [said] * 2
    peer.send(b"ho\n")
    assert peer.read_line() == said


@SERVED
@BOTH
def test_a_header_may_come_byte_by_byte(serving: Serving, greenlets: str, served: Any, header: bytes) -> None:
    server = serving.start(served, greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header + b"who\n":
        peer.send(bytes([byte]))
        gevent.sleep(0.0005)  # time for the server to receive it by itself

    assert peer.read_line().startswith(b"192.0.2.7 5678")


@BOTH
def test_a_header_may_be_cut_anywhere(serving: Serving, header: bytes) -> None:
    server = serving.start(make_lines(who), entrance=proxied())
    for cut in range(1, len(header)):
        peer = serving.meet(server)
        peer.send(header[:cut])
        wait_until(lambda cut=cut: any(conn.received_bytes == cut for conn in server.connections))  # type: ignore[misc]
        peer.send(header[cut:] + b"who\n")
        assert peer.read_line().startswith(b"192.0.2.7 5678")
        peer.close()


def test_a_second_header_is_passed_to_the_service(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(V1 + V1)

    assert peer.read_line() == V1[:-2]


def test_bytes_of_the_header_do_not_count_as_traffic(serving: Serving, greenlets: str) -> None:
    seen: list[tuple[int, int, int]] = []
    service = make_echo_lines(
        on_close=lambda conn, _: seen.append((conn.received_bytes, conn.sent_bytes, conn.messages))
    )
    server = serving.start(service, greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(V1)
    peer.ask(b"hello")
    peer.close()
    wait_until(lambda: bool(seen))

    assert seen == [(6, 6, 1)]


def test_on_open_and_on_close_get_the_address_of_the_client(serving: Serving, greenlets: str) -> None:
    told = Told()
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(V2)
    peer.ask(b"hello")
    peer.close()
    wait_until(lambda: bool(told.closed))

    assert told.opened == [CLIENT]
    assert told.closed == [(CLIENT, CloseReason.PEER_EOF)]


def test_the_service_sees_the_rest_of_the_header(serving: Serving, greenlets: str) -> None:
    seen: list[Any] = []
    service = make_echo_lines(on_open=lambda conn: seen.append(conn.proxy))
    server = serving.start(service, greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(v2(tlvs=b"\x02\0\x0bexample.com" + b"\x05\0\x02id") + b"x\n")
    peer.read_line()

    (header,) = seen
    assert (header.source, header.destination) == (CLIENT, ("192.0.2.1", 443))
    assert (header.authority, header.unique_id, header.alpn) == (b"example.com", b"id", None)


@pytest.mark.parametrize(
    "header", [v2(command=0), V2_SIGNATURE + b"\x21\0\0\0", b"PROXY UNKNOWN\r\n"], ids=["local", "unspec", "unknown"]
)
def test_with_a_header_without_an_address_the_peer_is_the_real_one(
    serving: Serving, greenlets: str, header: bytes
) -> None:
    server = serving.start(make_lines(who), greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(header + b"who\n")
    host, port = peer.sock.getsockname()

    assert peer.read_line() == b"%s %d %d" % (host.encode(), port, 1 if header[:1] == b"P" else 2)


def test_without_the_proxy_protocol_a_header_is_a_message(serving: Serving, greenlets: str) -> None:
    seen: list[Any] = []
    server = serving.start(
        make_echo_lines(on_open=lambda conn: seen.append((conn.peer, conn.proxy))), greenlets=greenlets
    )
    peer = serving.connect(server)
    peer.send(V1)

    assert peer.read_line() == V1[:-2]
    assert seen == [(peer.sock.getsockname(), None)]


# Refused connections


@BOTH
def test_a_client_that_is_no_trusted_proxy_is_denied(serving: Serving, greenlets: str, header: bytes) -> None:
    told = Told()
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied(proxies="127.0.0.2"))
    peer = serving.connect(server)
    try:
        peer.send(header + b"hello\n")
        assert peer.read_to_end() == b""
    except ConnectionError:  # closed before it was read
        pass

    assert_closed(server, CloseReason.DENIED)
    assert told.opened == told.closed == []


@pytest.mark.parametrize(
    ("mode", "data"),
    [
        ("auto", b"GET / HTTP/1.1\r\n\r\n"),
        ("auto", b"\x16\x03\x01\x02\x00"),
        ("auto", b"\0"),
        ("auto", b"PROXY TCP4 nonsense\r\n"),
        ("auto", b"PROXY TCP4 " + b"x" * 200),
        ("auto", V2_SIGNATURE + b"\x31\x11\0\x0c"),
        ("auto", V2_SIGNATURE + b"\x21\x11\xff\xff"),
        ("v1", V2),
        ("v2", V1),
    ],
)
def test_an_invalid_header_is_one_counted_close_without_an_answer(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, mode: str, data: bytes
) -> None:
    told = Told()
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied(mode))
    peer = serving.connect(server)
    peer.send(data)

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDSHAKE_FAILED)
    assert told.opened == told.closed == []
    assert caplog.records == []


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4", V2[:5], V2[:-1]], ids=["silent", "v1", "v2 begins", "v2 ends"])
def test_a_peer_that_does_not_finish_the_header_in_time_is_closed(
    serving: Serving, greenlets: str, data: bytes
) -> None:
    told = Told()
    deadlines = Deadlines(handshake_s=0.1, first_byte_s=0)
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied(), deadlines=deadlines)
    began = time.monotonic()
    peer = serving.connect(server)
    if data:
        peer.send(data)

    assert peer.read_to_end() == b""
    assert time.monotonic() - began > 0.09
    assert_closed(server, CloseReason.HANDSHAKE_TIMEOUT)
    assert told.opened == told.closed == []


def test_a_header_that_arrives_byte_by_byte_has_no_more_time(serving: Serving) -> None:
    server = serving.start(make_echo_lines(), entrance=proxied(), deadlines=Deadlines(handshake_s=0.1))
    peer = serving.connect(server)
    try:
        for byte in V1:
            peer.send(bytes([byte]))
            gevent.sleep(0.02)
    except ConnectionError:
        pass
    wait_until(lambda: server.counters.open == 0)

    assert_closed(server, CloseReason.HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", CloseReason.HEALTH_CHECK),
        (b"PROXY", CloseReason.HANDSHAKE_FAILED),
        (V2[:-1], CloseReason.HANDSHAKE_FAILED),
    ],
)
def test_the_end_inside_the_header_is_a_failed_handshake(
    serving: Serving, greenlets: str, data: bytes, reason: CloseReason
) -> None:
    told = Told()
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied())
    peer = serving.meet(server)
    if data:
        peer.send(data)
    peer.finish()

    assert peer.read_to_end() == b""
    assert_closed(server, reason)
    assert told.opened == told.closed == []


def test_a_reset_inside_the_header_is_a_reset(serving: Serving) -> None:
    server = serving.start(make_echo_lines(), entrance=proxied())
    peer = serving.connect(server)
    peer.send(b"PROXY TCP4")
    wait_until(lambda: any(conn.received_bytes for conn in server.connections))
    peer.reset()

    assert_closed(server, CloseReason.PEER_RESET)


@BOTH
def test_the_end_after_the_header_is_peer_eof(serving: Serving, greenlets: str, header: bytes) -> None:
    told = Told()
    server = serving.start(told.service(), greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(header)
    peer.finish()

    assert peer.read_to_end() == b""
    wait_until(lambda: told.closed == [(CLIENT, CloseReason.PEER_EOF)])
    assert_closed(server, CloseReason.PEER_EOF)


# Health checks of the proxy


def leave_at_once(peer: Peer) -> None:
    peer.close()


def reset_at_once(peer: Peer) -> None:
    peer.reset()


def send_local(peer: Peer) -> None:
    peer.send(v2(command=0))
    peer.close()


def ask_after_local(peer: Peer) -> None:
    peer.send(v2(command=0))
    assert peer.ask(b"hello") == b"hello"
    peer.close()


def break_after_local(peer: Peer) -> None:
    peer.send(v2(command=0) + b"x" * 70_000)
    peer.read_to_end()


CHECKS = [leave_at_once, reset_at_once, send_local, ask_after_local, break_after_local]


@pytest.mark.parametrize("check", CHECKS)
def test_a_health_check_is_counted_apart_however_it_ends(serving: Serving, greenlets: str, check: Any) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied())
    check(serving.connect(server))
    wait_until(lambda: server.counters.accepted == 1 and server.counters.open == 0)

    assert_closed(server, CloseReason.HEALTH_CHECK)


def test_the_service_has_health_checks_like_clients_and_can_tell_them_apart(serving: Serving, greenlets: str) -> None:
    seen: list[Any] = []
    service = make_echo_lines(
        on_open=lambda conn: seen.append(conn.is_health_check), on_close=lambda conn, reason: seen.append(reason)
    )
    server = serving.start(service, greenlets=greenlets, entrance=proxied())
    ask_after_local(serving.connect(server))
    wait_until(lambda: len(seen) == 2)
    peer = serving.connect(server)
    peer.send(V2)
    peer.ask(b"hello")
    peer.close()
    wait_until(lambda: len(seen) == 4)

    assert seen == [True, CloseReason.PEER_EOF, False, CloseReason.PEER_EOF]
    assert closed_reasons(server) == {CloseReason.HEALTH_CHECK: 1, CloseReason.PEER_EOF: 1}


def test_a_client_that_leaves_after_its_header_is_no_health_check(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied())
    peer = serving.connect(server)
    peer.send(V2)
    peer.close()

    assert_closed(server, CloseReason.PEER_EOF)


def test_without_the_proxy_protocol_there_are_no_health_checks(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    serving.connect(server).close()

    assert_closed(server, CloseReason.PEER_EOF)


def test_a_health_check_that_the_drain_ends_is_none_of_a_client(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied(), linger_s=0.05)
    peer = serving.connect(server)
    peer.send(v2(command=0))
    peer.ask(b"hello")
    server.drain(5.0)

    assert_closed(server, CloseReason.HEALTH_CHECK)


def test_a_drain_does_not_wait_for_headers(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied(), linger_s=0.1)
    peer = serving.connect(server)
    peer.send(b"PROXY TCP4")
    wait_until(lambda: any(conn.received_bytes for conn in server.connections))
    began = time.monotonic()
    assert server.drain(90.0, first_answer_s=0.1) == 0

    assert time.monotonic() - began < 60
    assert_closed(server, CloseReason.DRAINED)


# Deadlines after the header


@pytest.mark.parametrize("handshake_s", [0.0, 5.0])
def test_the_first_deadline_begins_with_the_end_of_the_header(
    serving: Serving, greenlets: str, handshake_s: float
) -> None:
    deadlines = Deadlines(handshake_s=handshake_s, first_byte_s=0.1, idle_s=0.2)
    server = serving.start(make_echo_lines(), greenlets=greenlets, entrance=proxied(), deadlines=deadlines)
    silent, spoke = serving.connect(server), serving.connect(server)
    began = time.monotonic()
    silent.send(V1)
    spoke.send(V1)
    spoke.ask(b"hello")

    assert silent.read_to_end() == spoke.read_to_end() == b""
    assert time.monotonic() - began > 0.09
    assert closed_reasons(server) == {CloseReason.FIRST_BYTE_TIMEOUT: 1, CloseReason.IDLE_TIMEOUT: 1}


# With TLS


def shake_hands(peer: Peer, context: ssl.SSLContext, first: bytes = b"") -> tuple[ssl.SSLObject, Any, Any]:
    """The client's side; it sends `first` and its first flight in one segment."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            peer.send(first + outgoing.read())
            first = b""
            incoming.write(peer.read())
            continue
        peer.send(outgoing.read())
        return client, incoming, outgoing


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@SERVED
@BOTH
@pytest.mark.parametrize("together", [True, False])
def test_the_header_comes_before_tls(
    serving: Serving, files: CertificateFiles, greenlets: str, served: Any, header: bytes, together: bool
) -> None:
    tls = Tls(TlsConfig(files.combined))
    server = serving.start(served, greenlets=greenlets, entrance=proxied(tls=tls))
    peer = serving.connect(server)
    if not together:
        peer.send(header)
        wait_until(lambda: any(conn.peer == CLIENT for conn in server.connections))
    client, incoming, outgoing = shake_hands(peer, files.client_context(), header if together else b"")
    client.write(b"who\n")
    peer.send(outgoing.read())
    said = b""
    while not said.endswith(b"\n"):
        try:
            said += client.read(100)
        except ssl.SSLWantReadError:
            incoming.write(peer.read())

    assert said == b"192.0.2.7 5678 %d\n" % (1 if header is V1 else 2)


def test_a_client_that_is_denied_by_its_header_gets_no_tls_handshake(serving: Serving, files: CertificateFiles) -> None:
    tls = Tls(TlsConfig(files.combined))
    limits = Limits(deny=parse_networks(["192.0.2.7"]))
    server = serving.start(make_echo_lines(), entrance=proxied(tls=tls), limits=limits)
    peer = serving.connect(server)
    peer.send(V1)

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.DENIED)


def test_header_and_handshake_share_one_deadline(serving: Serving, files: CertificateFiles) -> None:
    tls = Tls(TlsConfig(files.combined))
    server = serving.start(make_echo_lines(), entrance=proxied(tls=tls), deadlines=Deadlines(handshake_s=0.2))
    peer = serving.meet(server)
    (conn,) = server.connections
    began = conn.handshake_since
    peer.send(V1)
    wait_until(lambda: conn.proxy or conn.close_reason)

    assert conn.handshake_since in (began, None)
    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDSHAKE_TIMEOUT)


def test_tls_without_its_header_is_refused(serving: Serving, files: CertificateFiles) -> None:
    tls = Tls(TlsConfig(files.combined))
    server = serving.start(make_echo_lines(), entrance=proxied(tls=tls))
    outgoing = ssl.MemoryBIO()
    client = files.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    peer = serving.connect(server)
    peer.send(outgoing.read())

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDSHAKE_FAILED)
