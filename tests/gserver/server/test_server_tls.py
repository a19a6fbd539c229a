"""TLS on real sockets: both kinds of service, both engines, and clients without TLS."""

from __future__ import annotations

import ssl
from typing import Any

import gevent
import pytest

from gserver import Service, stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConfigError
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import TcpServer
from gserver.tls.contexts import Tls, TlsConfig
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.limited import OFF, change
from tests.helpers.serving import Peer, Serving, assert_closed, closed_reasons
from tests.helpers.waiting import wait_until


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def entrance(files: CertificateFiles) -> EntranceRules:
    return EntranceRules(tls=Tls(TlsConfig(files.combined)))


class TlsPeer:
    """A client with the standard library's TLS, over a Peer's socket."""

    def __init__(self, peer: Peer, context: ssl.SSLContext, name: str = "localhost") -> None:
        self.peer = peer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self._do(self.ssl.do_handshake)

    def _do(self, operation: Any, *arguments: Any) -> Any:
        while True:
            try:
                result = operation(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                data = self.peer.read()
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
                continue
            self._flush()
            return result

    def _flush(self) -> None:
        if self.outgoing.pending:
            self.peer.send(self.outgoing.read())

    def send(self, data: bytes) -> None:
        self._do(self.ssl.write, data)

    def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._do(self.ssl.read, size - len(data))
            assert more, f"the connection ended after {data!r}"
            data += more
        return data

    def read_end(self) -> bytes:
        """b"" if the server announced its end with a close_notify."""
        return bytes(self._do(self.ssl.read, 1))

    def ask(self, line: bytes) -> bytes:
        self.send(line + b"\n")
        return self.read_exactly(len(line) + 1)[:-1]


@stream(codec=Lines)
def echo_stream(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(line)


def connect(serving: Serving, server: TcpServer, files: CertificateFiles) -> TlsPeer:
    return TlsPeer(serving.connect(server), files.client_context())


SERVICES = pytest.mark.parametrize(
    "service", [Service(lambda line, conn: line, Lines), echo_stream], ids=["service", "stream"]
)


@SERVICES
def test_messages_go_both_ways(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    server = serving.start(service, greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)

    assert peer.ask(b"hello") == b"hello"
    assert peer.ask(b"x" * 60_000) == b"x" * 60_000
    peer.send(b"1\n2\n3\n")
    assert peer.read_exactly(6) == b"1\n2\n3\n"


@SERVICES
def test_a_record_that_is_larger_than_a_read_is_not_lost(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    server = serving.start(service, greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)
    lines = b"".join(b"%0100d\n" % number for number in range(4000))
    gevent.spawn(peer.peer.send, _encrypted(peer, lines))

    assert peer.read_exactly(len(lines)) == lines


def _encrypted(peer: TlsPeer, data: bytes) -> bytes:
    peer.ssl.write(data)
    return peer.outgoing.read()


@SERVICES
def test_data_that_arrives_with_the_end_of_the_handshake_is_served(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    """No further byte arrives that would make the socket readable."""
    server = serving.start(service, greenlets=greenlets, entrance=entrance)
    peer = serving.connect(server)
    context = files.client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    peer.send(outgoing.read())
    while True:
        incoming.write(peer.read())
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    client.write(b"hello\n")
    peer.send(outgoing.read())  # Finished and the message in one
    received = b""
    while len(received) < 6:
        try:
            received += client.read(100)
        except ssl.SSLWantReadError:
            incoming.write(peer.read())

    assert received == b"hello\n"


def test_a_handler_sees_the_result_of_the_handshake(serving: Serving, files: CertificateFiles, greenlets: str) -> None:
    seen: list[Any] = []
    config = TlsConfig(files.combined, ca_certs=files.ca, cert_reqs="required", alpn=("chat",))
    service = Service(lambda line, conn: line, Lines, on_open=lambda conn: seen.append(conn.tls))
    server = serving.start(service, greenlets=greenlets, entrance=EntranceRules(tls=Tls(config)))
    context = files.client_context(with_certificate=True)
    context.set_alpn_protocols(["chat"])
    TlsPeer(serving.connect(server), context).ask(b"hello")

    (tls,) = seen
    assert (tls.version, tls.alpn, tls.server_name) == ("TLSv1.3", "chat", "localhost")
    assert tls.peer_certificate["subjectAltName"] == (("email", "me@example.test"),)


@SERVICES
def test_each_side_announces_its_end(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    server = serving.start(service, greenlets=greenlets, entrance=entrance, linger_s=0.1)
    peer = connect(serving, server, files)
    assert peer.ask(b"hello") == b"hello"
    gevent.spawn(server.drain, 1.0)
    assert peer.read_end() == b""  # a close_notify: without it, this raises

    assert_closed(server, CloseReason.DRAINED)


@pytest.mark.parametrize("says_so", [True, False])
def test_the_end_of_the_client_is_peer_eof(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, says_so: bool
) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines), greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)
    peer.ask(b"hello")
    if says_so:
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer._flush()
    peer.peer.finish()

    assert_closed(server, CloseReason.PEER_EOF)


def test_a_reply_that_the_peer_reads_late_arrives_whole(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str
) -> None:
    size = 3_000_000
    service = Service(lambda line, conn: b"y" * size, Lines)
    server = serving.start(service, greenlets=greenlets, entrance=entrance, narrow=True)
    peer = connect(serving, server, files)
    peer.send(b"give\n")
    gevent.sleep(0.1)

    assert peer.read_exactly(size + 1) == b"y" * size + b"\n"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 100, b"\x80\x2e\x01\x03\x01", b"hello\n"])
def test_a_client_without_tls_is_one_counted_close_without_an_answer(
    serving: Serving, entrance: EntranceRules, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    calls: list[Any] = []
    service = Service(lambda line, conn: line, Lines, on_close=lambda conn, reason: calls.append(reason))
    server = serving.start(service, entrance=entrance)
    peer = serving.connect(server)
    peer.send(data)

    assert len(peer.read_to_end()) < 20  # an alert at most
    assert_closed(server, CloseReason.HANDSHAKE_FAILED)
    assert caplog.records == []
    assert calls == []


def test_a_client_that_sends_nothing_or_stops_in_the_handshake_is_closed(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules
) -> None:
    server = serving.start(
        Service(lambda line, conn: line, Lines), entrance=entrance, deadlines=Deadlines(handshake_s=0.1)
    )
    silent, half, gone = serving.connect(server), serving.connect(server), serving.connect(server)
    outgoing = ssl.MemoryBIO()
    client = files.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    half.send(hello[:50])
    gone.send(hello[:50])
    gone.finish()

    assert silent.read_to_end() == half.read_to_end() == b""
    gone.read_to_end()
    wait_until(lambda: server.counters.open == 0)
    assert closed_reasons(server) == {CloseReason.HANDSHAKE_TIMEOUT: 2, CloseReason.HANDSHAKE_FAILED: 1}


def test_a_port_scan_is_peer_eof(serving: Serving, entrance: EntranceRules) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines), entrance=entrance)
    serving.meet(server).close()

    assert_closed(server, CloseReason.PEER_EOF)


def test_a_broken_record_ends_the_connection(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str
) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines), greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)
    peer.ask(b"hello")
    peer.peer.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)

    assert_closed(server, CloseReason.PEER_RESET)


def test_a_message_cut_at_every_byte_of_its_record_is_served(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str
) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines), greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)
    for byte in _encrypted(peer, b"hello\n"):
        peer.peer.send(bytes([byte]))
        gevent.sleep(0)

    assert peer.read_exactly(6) == b"hello\n"


def test_a_client_that_is_refused_before_the_handshake_is_closed_at_once(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules
) -> None:
    service = Service(lambda line, conn: line, Lines, on_error=lambda fault, conn: b"full")
    server = serving.start(service, entrance=entrance, limits=Limits(max_connections=1))
    peer = connect(serving, server, files)
    assert peer.ask(b"hello") == b"hello"

    assert serving.connect(server).read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.FULL: 1}


def test_idle_connections_hold_no_greenlet(serving: Serving, files: CertificateFiles, entrance: EntranceRules) -> None:
    seen: list[Connection] = []
    service = Service(lambda line, conn: line, Lines, on_open=seen.append)
    server = serving.start(service, entrance=entrance)
    peers = [connect(serving, server, files) for _ in range(5)]
    for peer in peers:
        peer.ask(b"hello")

    assert [conn.runner for conn in seen] == [None] * 5


def test_gevents_arguments_make_tls_for_services_too(serving: Serving, files: CertificateFiles) -> None:
    service = Service(lambda line, conn: line, Lines)
    server = serving.start(service, certfile=files.certfile, keyfile=files.keyfile)

    assert connect(serving, server, files).ask(b"hello") == b"hello"


@pytest.mark.parametrize("arguments", [{"keyfile": "x"}, {"certfile": "x", "nonsense": 1}])
def test_invalid_tls_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="TLS needs certfile or ssl_context, and accepts "):
        TcpServer(("127.0.0.1", 0), Service(lambda line, conn: line, Lines), **arguments)


# Other deadlines and limits while there are connections


@SERVICES
def test_rates_are_turned_on_and_off_behind_tls(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    server = serving.start(service, greenlets=greenlets, entrance=entrance)
    peer = connect(serving, server, files)
    assert peer.ask(b"hello") == b"hello"
    change(server, limits=Limits(max_message_rate=0.001))
    peer.send(b"1\n")  # takes the burst of one message
    peer.send(b"2\n")
    peer.send(b"3\n")
    wait_until(lambda: server.counters.messages >= 2)
    change(server)

    assert peer.read_exactly(6) == b"1\n2\n3\n"  # not after an hour
    assert peer.ask(b"hello") == b"hello"


@SERVICES
def test_a_shorter_timeout_closes_idle_connections_behind_tls(
    serving: Serving, files: CertificateFiles, entrance: EntranceRules, greenlets: str, service: Any
) -> None:
    server = serving.start(service, greenlets=greenlets, entrance=entrance, deadlines=OFF)
    peer = connect(serving, server, files)
    assert peer.ask(b"hello") == b"hello"
    change(server, deadlines=Deadlines(idle_s=0.1))

    assert peer.read_end() == b""
    assert_closed(server, CloseReason.IDLE_TIMEOUT)
