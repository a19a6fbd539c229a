from __future__ import annotations

import functools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import VarintPrefixed
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.testing.codec_checks import Limit, assert_fails, check_codec
from tests.helpers.codec_kit import feed
from tests.helpers.cuts import cut_anywhere

LIMIT = Limit(
    lambda size: VarintPrefixed(max_bytes=size),
    wire=lambda size: VarintPrefixed().encode(bytes(size)),
    unfinished=lambda size: VarintPrefixed().encode(bytes(size))[: -size or None],
)


@pytest.mark.parametrize("bits", [32, 64])
def test_messages_behind_a_varint_pass_the_battery(bits: Literal[32, 64]) -> None:
    long = bytes(range(256)) * 2
    pairs = [(b"\x05hello", [b"hello"]), (b"\x00\x00", [b"", b""]), (b"\x80\x04" + long + b"\x01\n", [long, b"\n"])]
    check_codec(functools.partial(VarintPrefixed, bits), pairs, limit=LIMIT)


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "80 01"),
        (150, "96 01"),
        (300, "ac 02"),
        (16383, "ff 7f"),
        (16384, "80 80 01"),
    ],
)
def test_lengths_are_written_as_protobuf_writes_them(length: int, header: str) -> None:
    """150 is the example in protobuf's documentation, 300 in its older version."""
    assert VarintPrefixed().encode(bytes(length)) == bytes.fromhex(header) + bytes(length)


@pytest.mark.parametrize(
    ("bits", "header", "text"),
    [
        (32, "80 00", "is overlong"),
        (32, "81 80 00", "is overlong"),
        (32, "ff ff ff ff 10", "exceeds 32 bits"),
        (32, "80 80 80 80 80", "exceeds 32 bits"),
        (64, "ff ff ff ff ff ff ff ff ff 02", "exceeds 64 bits"),
        (64, "80 80 80 80 80 80 80 80 80 80", "exceeds 64 bits"),
        (64, "80 80 80 80 80 80 80 80 80 00", "is overlong"),
    ],
)
def test_a_varint_that_is_overlong_or_too_large_is_invalid(bits: Literal[32, 64], header: str, text: str) -> None:
    codec = VarintPrefixed(bits)
    with pytest.raises(InvalidHeader) as caught:
        feed(codec, [bytes.fromhex(header)])

    assert str(caught.value) == f"the varint {header} {text}"
    assert_fails(codec, InvalidHeader)


@pytest.mark.parametrize(
    ("bits", "header", "length"), [(32, "ff ff ff ff 0f", 2**32 - 1), (64, "ff ff ff ff ff ff ff ff ff 01", 2**64 - 1)]
)
def test_the_largest_length_is_only_too_large(bits: Literal[32, 64], header: str, length: int) -> None:
    with pytest.raises(FrameTooLarge, match=f"^message of {length} bytes, the limit is 1048576$"):
        feed(VarintPrefixed(bits), [bytes([byte]) for byte in bytes.fromhex(header)])


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^bits is 16, must be 32 or 64$"):
        VarintPrefixed(16)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=300)), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    codec = VarintPrefixed()
    wire = b"".join(map(codec.encode, messages))

    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()
