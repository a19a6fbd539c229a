from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Netstring
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.testing.codec_checks import Limit, assert_fails, check_codec
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere

LIMIT = Limit(Netstring, wire=lambda size: b"%d:%b," % (size, b"a" * size), unfinished=lambda size: b"%d:" % size)


def test_netstrings_pass_the_battery() -> None:
    pairs = [(b"12:hello world!,", [b"hello world!"]), (b"0:,0:,", [b"", b""]), (b"4:1:a,,2:\n:,", [b"1:a,", b"\n:"])]
    check_codec(Netstring, pairs, limit=LIMIT)


def test_the_example_of_the_specification_decodes() -> None:
    """The string "hello world!" is 31 32 3a 68 65 6c 6c 6f 20 77 6f 72 6c 64 21 2c; the empty one is "0:,"."""
    wire = bytes.fromhex("31323a68656c6c6f20776f726c64212c") + b"0:,"

    assert decode(Netstring, wire) == [b"hello world!", b""]
    assert b"".join(map(Netstring().encode, [b"hello world!", b""])) == wire


@pytest.mark.parametrize(
    "wire",
    [
        b"00:,",
        b"01:a,",
        b"+1:a,",
        b"-1:a,",
        b" 1:a,",
        b"1 :a,",
        b"1_0:",
        b"0x1:a,",
        b":,",
        b",",
        b"a",
        b"1.0:a,",
        b"1;a,",
        b"\xb2:aa,",
        "\u0661:a,".encode(),
        b"1\n:a,",
        b"1" * 21,
    ],
)
def test_an_invalid_length_is_rejected_at_once(wire: bytes) -> None:
    for pieces in ([wire], [bytes([byte]) for byte in wire]):
        codec = Netstring()
        with pytest.raises(InvalidHeader):
            feed(codec, pieces)
        assert_fails(codec, InvalidHeader)


@pytest.mark.parametrize("wire", [b"1:a;", b"0:a", b"3:abc\n", b"3:abcd,"])
def test_the_comma_is_checked(wire: bytes) -> None:
    with pytest.raises(InvalidHeader, match=r"bytes, must be b','$"):
        feed(Netstring(), [wire])


def test_the_largest_header_is_only_too_large() -> None:
    with pytest.raises(FrameTooLarge):
        feed(Netstring(), [b"9" * 20 + b":"])


@given(st.lists(st.binary(max_size=40)), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    codec = Netstring()
    wire = b"".join(map(codec.encode, messages))

    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()
