"""The ClientHello: parsed, and used to explain failed handshakes."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.tls.client_hello import ClientHello, HelloReader, words
from tests.helpers.tls_client import TlsClient


def hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, name: str | None = "www.example.org") -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, version  # some builds offer 1.0 too
    return TlsClient(context, name).handshake()


def read_client_hello(*pieces: bytes) -> ClientHello | None:
    reader = HelloReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.hello


def could_be_tls(data: bytes) -> bool:
    reader = HelloReader()
    reader.feed(data)
    return reader.could_be_tls


@pytest.mark.parametrize(("version", "number"), [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)])
@pytest.mark.parametrize(("name", "sent"), [("www.example.org", b"www.example.org"), (None, None)])
def test_version_and_name_are_read(version: ssl.TLSVersion, number: int, name: str | None, sent: bytes | None) -> None:
    assert read_client_hello(hello(version, name)) == ClientHello(number, sent)


def test_an_incomplete_message_is_no_hello() -> None:
    data = hello()

    assert {read_client_hello(data[:end]) for end in range(len(data))} == {None}
    assert read_client_hello(data + b"\x14\x03\x03\x00\x01\x01") is not None


def test_a_message_may_come_in_any_pieces() -> None:
    data = hello()

    for size in (1, 2, 5, 6, 100):
        assert read_client_hello(*(data[at : at + size] for at in range(0, len(data), size))) == read_client_hello(data)


def test_bytes_that_are_no_hello_are_not_kept() -> None:
    reader = HelloReader()
    for _ in range(20):
        reader.feed(b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(0xFFFF - 4))

    assert reader.hello is None
    assert len(reader._rest) + len(reader._message) == 0


def test_a_message_in_several_records_is_read() -> None:
    body = hello()[5:]
    records = [body[at : at + 100] for at in range(0, len(body), 100)]

    data = b"".join(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record for record in records)
    assert read_client_hello(data) == read_client_hello(hello())


def test_unknown_versions_are_ignored() -> None:
    data = hello().replace(b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03", b"\x00\x2b\x00\x05\x04\x7a\x7a\x03\x03")

    assert read_client_hello(data) == ClientHello(0x0303, b"www.example.org")


def test_a_name_of_an_unknown_type_is_ignored() -> None:
    data = hello().replace(b"\x00\x00\x0fwww.example.org", b"\x01\x00\x0fwww.example.org")

    assert read_client_hello(data) == ClientHello(0x0304, None)


@pytest.mark.parametrize(("at", "byte"), [(0, 0x15), (5, 2)])
def test_other_messages_are_no_hello(at: int, byte: int) -> None:
    data = bytearray(hello())
    data[at] = byte

    assert read_client_hello(bytes(data)) is None


def test_a_hello_without_extensions_is_read() -> None:
    body = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x02\x00\x2f" + b"\x01\x00"
    message = b"\x01" + len(body).to_bytes(3, "big") + body

    data = b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
    assert read_client_hello(data) == ClientHello(0x0301, None)


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\x03", b"\x15\x03\x03", b"\x16\x03\x01\x00\x05"])
def test_a_beginning_of_tls_could_be_tls(data: bytes) -> None:
    assert could_be_tls(data)


@pytest.mark.parametrize("data", [b"\x17", b"\x16\x02", b"G", b"\x80", b"\x00"])
def test_other_beginnings_could_not(data: bytes) -> None:
    assert not could_be_tls(data)


@pytest.mark.parametrize(
    ("reason", "text", "said"),
    [
        ("BAD_KEY_SHARE", "[SSL: BAD_KEY_SHARE] bad key share (_ssl.c:1006)", "bad key share"),
        (None, "[SSL] ASN1 lib (_ssl.c:1006)", "asn1 lib"),
        (None, "unknown error", "unknown error"),
    ],
)
def test_errors_are_shown_without_source_positions(reason: str | None, text: str, said: str) -> None:
    error = ssl.SSLError(1, text)
    error.reason = reason  # type: ignore[assignment]

    assert words(error) == said


@given(st.binary(max_size=200), st.integers(0, 600), st.integers(0, 255))
def test_feed_never_raises(data: bytes, at: int, byte: int) -> None:
    broken = bytearray(hello())
    broken[at % len(broken)] = byte

    for text in (data, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data, bytes(broken)):
        assert isinstance(read_client_hello(text), ClientHello | None)
