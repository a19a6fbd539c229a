"""Twisted's test vectors for netstrings and integer-prefixed strings, on these codecs; and Twisted as a peer."""

from __future__ import annotations

import functools
import struct
from typing import Any

import pytest

from gserver.codecs import LengthPrefixed, Lines, Netstring
from gserver.errors import FrameTooLarge, ProtocolError
from tests.helpers.codec_kit import decode, feed

basic = pytest.importorskip("twisted.protocols.test.test_basic", reason="Twisted is not installed")
testing = pytest.importorskip("twisted.internet.testing")

NETSTRINGS = basic.NetstringReceiverTests
# The maximum of the protocols in Twisted's tests.
MAX_BYTES = basic.TestMixin.MAX_LENGTH
INTEGERS = [basic.Int8Tests, basic.Int16Tests, basic.Int32Tests]
each_integer = pytest.mark.parametrize("vectors", INTEGERS)
#: What single tests of Twisted's say of single netstrings.
REFUSED = [b"2:aaa,", b"0:a,", b":aaa,", b"3aaa,", b"00:,", b"01:a,", b"aaa:,", b"5x:aaa,", b"-3:aaa,"]


def make_codec(vectors: Any, max_bytes: int = MAX_BYTES) -> LengthPrefixed:
    return LengthPrefixed(struct.calcsize(vectors.protocol.structFormat), max_bytes=max_bytes)


def bytewise(wire: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in wire]


def connect(protocol: Any, max_bytes: int) -> tuple[Any, Any]:
    """A Twisted protocol and its transport."""
    protocol.MAX_LENGTH = max_bytes
    transport = testing.StringTransport()
    protocol.makeConnection(transport)
    return protocol, transport


@pytest.mark.parametrize("wire", [*NETSTRINGS.illegalStrings, *REFUSED])
def test_netstrings_that_twisted_refuses_are_refused(wire: bytes) -> None:
    for pieces in ([wire], bytewise(wire)):
        with pytest.raises(ProtocolError):
            feed(Netstring(MAX_BYTES), pieces)


@pytest.mark.parametrize("size", range(1, 10))
def test_netstrings_that_twisted_sends_are_received_in_pieces_of_any_size(size: int) -> None:
    protocol, transport = connect(basic.TestNetstring(), 699)
    for message in NETSTRINGS.strings:
        protocol.sendString(message)
    wire = transport.value()

    assert feed(Netstring(), [wire[at : at + size] for at in range(0, len(wire), size)]) == NETSTRINGS.strings


def test_twisted_receives_the_netstrings_that_are_encoded() -> None:
    protocol, _ = connect(basic.TestNetstring(), 699)
    protocol.dataReceived(b"".join(map(Netstring().encode, NETSTRINGS.strings)))

    assert protocol.received == NETSTRINGS.strings


@each_integer
def test_strings_behind_an_integer_go_both_ways(vectors: Any) -> None:
    protocol, transport = connect(vectors.protocol(), MAX_BYTES)
    for message in vectors.strings:
        protocol.sendString(message)

    assert decode(functools.partial(make_codec, vectors), transport.value()) == vectors.strings
    for byte in bytewise(transport.value()):
        protocol.dataReceived(byte)
    assert protocol.received == vectors.strings
    assert b"".join(map(make_codec(vectors).encode, vectors.strings)) == transport.value()


@each_integer
def test_partial_strings_are_no_message(vectors: Any) -> None:
    """In Twisted, too, a length above the maximum is an error, except in its test of partial strings."""
    for wire in vectors.partialStrings:
        codec = make_codec(vectors, 2**32)
        assert feed(codec, bytewise(wire)) == []
        assert bool(codec.partial) is bool(wire)


@each_integer
def test_illegal_strings_are_no_message(vectors: Any) -> None:
    """The bytes for Int8 are two empty strings and the valid beginning of a third."""
    for wire in vectors.illegalStrings:
        codec = make_codec(vectors)
        if vectors is basic.Int8Tests:
            assert feed(codec, bytewise(wire[:2])) == [b"", b""]
        with pytest.raises(FrameTooLarge):
            feed(codec, bytewise(wire[2:] if vectors is basic.Int8Tests else wire))


@each_integer
def test_a_length_over_the_maximum_is_refused_with_its_header(vectors: Any) -> None:
    for body in (b"", b"x" * 11):
        with pytest.raises(FrameTooLarge, match=r"^message of 11 bytes, the limit is 10$"):
            feed(make_codec(vectors, 10), [struct.pack(vectors.protocol.structFormat, 11) + body])


@pytest.mark.parametrize("size", range(1, 10))
def test_lines_that_twisted_receives_are_the_same_here(size: int) -> None:
    """The text of LineOnlyReceiverTests, with CRLF as there."""
    text = basic.LineOnlyReceiverTests.buffer
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    lines = feed(Lines(crlf=True), pieces)

    assert lines == text.split(b"\n")[:-1]
