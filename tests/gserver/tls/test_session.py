"""The TLS session of one connection: handshake, data, errors."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.errors import CloseReason, TlsError
from gserver.tls.contexts import Tls, TlsConfig
from gserver.tls.session import TlsStream
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.tls_client import TlsClient, connect

V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BAD_RECORD_MAC, UNKNOWN_CA = b"\x14", b"\x30"

Pair = tuple[TlsStream, TlsClient]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def server(files: CertificateFiles) -> ssl.SSLContext:
    return Tls(TlsConfig(files.certfile, files.keyfile)).context


@pytest.fixture(params=[V1_2, V1_3], ids=["TLSv1.2", "TLSv1.3"])
def client(request: pytest.FixtureRequest, files: CertificateFiles) -> ssl.SSLContext:
    context = files.client_context()
    context.minimum_version = context.maximum_version = request.param
    return context


@pytest.fixture
def pair(server: ssl.SSLContext, client: ssl.SSLContext) -> Pair:
    return connected(server, client)


def connected(server: ssl.SSLContext, client: ssl.SSLContext, server_name: str = "localhost") -> Pair:
    ends = TlsStream(server), TlsClient(client, server_name)
    connect(*ends)
    return ends


def fail(call: Callable[[bytes], object], data: bytes, reason: CloseReason = CloseReason.HANDSHAKE_FAILED) -> str:
    with pytest.raises(TlsError) as caught:
        call(data)
    assert caught.value.close_reason is reason
    return str(caught.value)


def refuse(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return the text of the error of a failed handshake."""
    with pytest.raises(TlsError) as caught:
        connected(server, client)
    assert caught.value.close_reason is CloseReason.HANDSHAKE_FAILED
    return str(caught.value)


def server_context(files: CertificateFiles, **config: Any) -> ssl.SSLContext:
    return Tls(TlsConfig(files.certfile, files.keyfile, **config)).context


class TestTheHandshake:
    def test_reports_its_results(self, pair: Pair, client: ssl.SSLContext) -> None:
        info = pair[0].info

        assert info.version == client.maximum_version.name.replace("_", ".")
        assert info.cipher.endswith("AES256-GCM-SHA384" if info.version == "TLSv1.2" else "AES_256_GCM_SHA384")
        assert (info.alpn, info.server_name, info.resumed) == (None, "localhost", False)
        assert (info.peer_certificate, info.peer_certificate_der) == (None, None)

    def test_may_be_cut_anywhere(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        stream, peer = TlsStream(server), TlsClient(client)
        data, complete = peer.handshake(), [False]
        while not complete[-1]:
            complete = [stream.handshake(data[at : at + 1]) for at in range(len(data))]
            data = peer.handshake(stream.take_outgoing())

        assert complete.count(True) == 1
        assert stream.info.server_name == "localhost"
        assert stream.decrypt(peer.encrypt(b"x")) == b"x"

    def test_leaves_data_after_it_for_decrypt(self, server: ssl.SSLContext, files: CertificateFiles) -> None:
        stream, peer = TlsStream(server), TlsClient(files.client_context())
        stream.handshake(peer.handshake())
        last = peer.handshake(stream.take_outgoing())

        assert stream.handshake(last + peer.encrypt(b"one") + peer.encrypt(b"two"))
        assert stream.has_buffered
        assert stream.decrypt(b"") == b"onetwo"
        assert not stream.has_buffered

    def test_has_no_name_if_the_client_requests_none(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        assert connected(server, client, "127.0.0.1")[0].info.server_name is None

    @pytest.mark.parametrize(
        ("offered", "chosen"), [(["two", "one"], "one"), (["two"], "two"), (["three"], None), ([], None)]
    )
    def test_chooses_the_protocol_that_the_server_prefers(
        self, files: CertificateFiles, client: ssl.SSLContext, offered: list[str], chosen: str | None
    ) -> None:
        if offered:
            client.set_alpn_protocols(offered)
        stream, peer = connected(server_context(files, alpn=("one", "two")), client)

        assert stream.info.alpn == chosen
        assert peer.tls.selected_alpn_protocol() == chosen


class TestClientCertificates:
    @pytest.mark.parametrize("reqs", ["optional", "required"])
    def test_are_told(self, files: CertificateFiles, client: ssl.SSLContext, reqs: str) -> None:
        client.load_cert_chain(files.client_certfile, files.client_keyfile)
        info = connected(server_context(files, cert_reqs=reqs, ca_certs=files.ca), client)[0].info

        assert info.peer_certificate is not None
        assert info.peer_certificate["subjectAltName"] == (("email", "me@example.test"),)
        assert info.peer_certificate_der == ssl.PEM_cert_to_DER_cert(
            Path(files.client_certfile).read_text().partition("-----END CERTIFICATE-----")[0]
            + "-----END CERTIFICATE-----\n"
        )

    def test_that_are_optional_may_be_missing(self, files: CertificateFiles, client: ssl.SSLContext) -> None:
        info = connected(server_context(files, cert_reqs="optional", ca_certs=files.ca), client)[0].info

        assert info.peer_certificate is None

    def test_that_are_required_may_not_be_missing(self, files: CertificateFiles, client: ssl.SSLContext) -> None:
        text = refuse(server_context(files, cert_reqs="required", ca_certs=files.ca), client)

        assert text == "the client presented no certificate, and one is required"

    @pytest.mark.parametrize("reqs", ["optional", "required"])
    def test_of_a_stranger_are_refused(
        self, files: CertificateFiles, stranger: CertificateFiles, client: ssl.SSLContext, reqs: str
    ) -> None:
        client.load_cert_chain(stranger.client_certfile, stranger.client_keyfile)
        text = refuse(server_context(files, cert_reqs=reqs, ca_certs=files.ca), client)

        assert text == "the client's certificate is not accepted: unable to get local issuer certificate"


class TestARefusal:
    @pytest.fixture(autouse=True)
    def _old_versions(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield

    @pytest.mark.parametrize(
        ("wanted", "needed"),
        [("TLSv1", "1.2"), ("TLSv1_1", "1.2"), ("TLSv1_2", "1.3")],
    )
    def test_names_the_versions(self, files: CertificateFiles, wanted: str, needed: str) -> None:
        client = files.client_context()
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion[wanted]
        client.set_ciphers("ALL:@SECLEVEL=0")

        text = refuse(server_context(files, min_version=needed), client)
        assert text == f"the client offers at most {wanted.replace('_', '.')}, the server needs at least TLSv{needed}"

    def test_without_a_common_cipher_is_explained(self, files: CertificateFiles, server: ssl.SSLContext) -> None:
        client = files.client_context()
        client.maximum_version = V1_2
        client.set_ciphers("AES128-SHA")

        assert refuse(server, client) == "the client and the server have no cipher in common"

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", "no TLS: the first bytes are b'GET / HT'"),
            (b"hi\n", "no TLS: the first bytes are b'hi\\n'"),
            (b"\x80\x2e\x01\x03\x01", "no TLS: the first bytes are b'\\x80.\\x01\\x03\\x01'"),
            (b"\x16\x16" * 20, "no TLS: the first bytes are b'\\x16\\x16\\x16\\x16\\x16\\x16\\x16\\x16'"),
            (b"\x16\x03\x01\x00\x05hello", "the handshake failed: unexpected message"),
            (b"\x15\x03\x01\x00\x02\x02\x30", "the first message of the client is an alert"),
        ],
    )
    def test_with_a_peer_without_tls_shows_the_first_bytes(
        self, server: ssl.SSLContext, data: bytes, text: str
    ) -> None:
        assert fail(TlsStream(server).handshake, data) == text

    def test_lasts(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        stream = TlsStream(server)
        text = fail(stream.handshake, b"hi\n")

        assert fail(stream.handshake, TlsClient(client).handshake()) == text
        assert fail(stream.decrypt, b"") == text
        assert fail(stream.encrypt, b"") == text

    def test_owes_the_client_an_alert(self, files: CertificateFiles) -> None:
        client = files.client_context()
        client.maximum_version = V1_2
        stream, peer = TlsStream(server_context(files, min_version="1.3")), TlsClient(client)
        fail(stream.handshake, peer.handshake())

        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            peer.handshake(stream.take_outgoing())
        assert stream.take_outgoing() == b""

    def test_with_an_invalid_version_does_not_mention_versions(
        self, server: ssl.SSLContext, client: ssl.SSLContext
    ) -> None:
        hello = bytearray(TlsClient(client).handshake())
        hello[9:11] = b"\x02\x00"

        words = "version too low" if client.maximum_version is V1_2 else "bad legacy version"
        assert fail(TlsStream(server).handshake, bytes(hello)) == f"the handshake failed: {words}"

    def test_by_the_client_has_the_reason(self, server: ssl.SSLContext, stranger: CertificateFiles) -> None:
        stream, peer = TlsStream(server), TlsClient(stranger.client_context())
        stream.handshake(peer.handshake())
        with pytest.raises(ssl.SSLCertVerificationError):
            peer.handshake(stream.take_outgoing())

        text = fail(stream.handshake, peer.outgoing.read())
        assert text == "the client sent an alert: unknown certificate authority"

    @pytest.mark.parametrize("name", [b"local\xffost", b"local\nost", b"local\x1bost"])
    def test_with_an_invalid_server_name_prints_nothing(
        self, server: ssl.SSLContext, client: ssl.SSLContext, name: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        stream = TlsStream(server)
        hello = TlsClient(client, "localhost").handshake().replace(b"localhost", name)

        assert fail(stream.handshake, hello) == f"the client requests {name!r}, which is not a server name"
        assert stream.take_outgoing() == b"\x15\x03\x03\x00\x02\x02\x2f"
        assert capfd.readouterr() == ("", "")


class TestData:
    @pytest.mark.parametrize("size", [0, 1, 64, 16383, 16384, 16385, 100_000])
    def test_goes_through_both_ways(self, pair: Pair, size: int) -> None:
        stream, peer = pair
        data = bytes(range(256)) * (size // 256 + 1)
        data = data[:size]

        assert peer.decrypt(stream.encrypt(data)) == data
        assert stream.decrypt(peer.encrypt(data) if data else b"") == data
        assert not stream.has_buffered
        assert stream.take_outgoing() == b""

    def test_may_be_cut_anywhere(self, pair: Pair) -> None:
        stream, peer = pair
        data = b"".join(peer.encrypt(bytes([number]) * number) for number in range(1, 20))
        plaintext = [stream.decrypt(data[at : at + 1]) for at in range(len(data))]

        assert [part for part in plaintext if part] == [bytes([number]) * number for number in range(1, 20)]

    @pytest.mark.parametrize("at", [1, 4, 5, 6, 100, 8000, 16384, 16389, 16405])
    def test_of_a_full_record_comes_with_its_last_byte(self, pair: Pair, at: int) -> None:
        stream, peer = pair
        data = peer.encrypt(b"x" * 16384)

        assert stream.decrypt(data[:at]) == b""
        assert stream.decrypt(data[at:]) == b"x" * 16384

    def test_of_many_records_comes_at_once(self, pair: Pair) -> None:
        stream, peer = pair

        assert stream.decrypt(b"".join(peer.encrypt(b"x" * 99) for _ in range(1000))) == b"x" * 99_000

    @pytest.mark.parametrize("at", [5, 13, 20, -1])
    def test_that_was_changed_on_the_way_is_refused(self, pair: Pair, at: int) -> None:
        stream, peer = pair
        data = bytearray(peer.encrypt(b"x" * 64))
        data[at] ^= 1
        text = fail(stream.decrypt, bytes(data), CloseReason.PROTOCOL_ERROR)

        # The second text is that of OpenSSL 3.6: ssl reports the last of its two errors.
        assert text in [
            f"the peer violated TLS: {why}" for why in ("decryption failed or bad record mac", "record layer failure")
        ]
        assert fail(stream.decrypt, b"", CloseReason.PROTOCOL_ERROR) == text
        with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
            peer.decrypt(stream.take_outgoing())

    @pytest.mark.parametrize("data", [b"hello, world\r\n", b"\x17\x03\x03\xff\xff" + bytes(20000)])
    def test_that_is_no_record_is_refused(self, pair: Pair, data: bytes) -> None:
        assert fail(pair[0].decrypt, data, CloseReason.PROTOCOL_ERROR).startswith("the peer violated TLS: ")

    def test_that_the_client_could_not_read_ends_with_its_words(self, pair: Pair) -> None:
        stream, peer = pair
        data = bytearray(stream.encrypt(b"x"))
        data[-1] ^= 1
        with pytest.raises(ssl.SSLError):
            peer.decrypt(bytes(data))

        text = fail(stream.decrypt, peer.outgoing.read(), CloseReason.PROTOCOL_ERROR)
        assert text == "the peer sent an alert: bad record mac"

    def test_cannot_be_sent_before_the_handshake(self, server: ssl.SSLContext) -> None:
        assert "cannot send" in fail(TlsStream(server).encrypt, b"x", CloseReason.PROTOCOL_ERROR)


class TestTheEnd:
    def test_of_the_client_is_seen(self, pair: Pair) -> None:
        stream, peer = pair
        last = peer.encrypt(b"last") + peer.close_notify()

        assert stream.decrypt(last + b"rubbish") == b"last"
        assert stream.at_end
        assert not stream.has_buffered
        assert stream.decrypt(b"more rubbish") == b""

    def test_of_the_bytes_alone_is_no_end(self, pair: Pair) -> None:
        stream, peer = pair

        assert stream.decrypt(peer.encrypt(b"last") + peer.encrypt(b"cut")[:-1]) == b"last"
        assert not stream.at_end

    def test_is_returned_once(self, pair: Pair) -> None:
        stream, peer = pair
        peer.incoming.write(stream.close_notify())

        assert peer.tls.read(1) == b""
        assert stream.close_notify() == b""

    def test_of_one_direction_leaves_the_other(self, pair: Pair) -> None:
        stream, peer = pair
        late = peer.encrypt(b"late")
        assert stream.close_notify() != b""
        assert stream.decrypt(late + peer.encrypt(b"later")) == b"latelater"
        assert not stream.at_end
        assert "cannot send" in fail(stream.encrypt, b"x", CloseReason.PROTOCOL_ERROR)

        assert stream.decrypt(peer.close_notify()) == b""
        assert stream.at_end

    def test_of_the_client_leaves_the_server_to_send(self, pair: Pair) -> None:
        stream, peer = pair
        stream.decrypt(peer.close_notify())

        assert peer.decrypt(stream.encrypt(b"goodbye")) == b"goodbye"
        assert stream.close_notify() != b""

    def test_before_the_handshake_is_empty(self, server: ssl.SSLContext) -> None:
        assert TlsStream(server).close_notify() == b""
