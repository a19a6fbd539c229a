"""Every codec with various options and small limits, for tests with random bytes and for fuzzing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from gserver.codecs import (
    Codec,
    ContentLength,
    Delimited,
    JsonContentLength,
    JsonLines,
    LengthPrefixed,
    Lines,
    MsgPack,
    Netstring,
    OctetCounted,
    Raw,
    VarintPrefixed,
)

__all__ = ["ALPHABETS", "VARIANTS"]

OVERFLOWS: list[dict[str, Any]] = [{"overflow": "close"}, {"overflow": "discard", "max_discard": 20}]
LENGTHS: list[dict[str, Any]] = [
    {"header_bytes": 1},
    {"header_bytes": 2, "byteorder": "little"},
    {"header_bytes": 3, "includes_header": True},
    {"header_bytes": 8},
    {"header_bytes": 1, "offset": 2, "adjustment": 1},
    {"header_bytes": 2, "offset": 1, "adjustment": -3, "strip": 1},
    {"header_bytes": 4, "adjustment": -4, "strip": 0},
]
DELIMITERS = [(b"\x00",), (b"\r\n",), (b"\n", b"\r\n"), (b"ab", b"ba", b"c"), (b"aab", b"abab")]


def with_options(make: Callable[..., Codec], *options: dict[str, Any]) -> list[Callable[[], Codec]]:
    """Return a codec with a maximum of 8 bytes for each of the options, with overflow="close" and "discard"."""
    return [partial(make, max_bytes=8, **each, **overflow) for each, overflow in product(options or ({},), OVERFLOWS)]


#: Name of the fuzz target -> codecs.
VARIANTS: dict[str, list[Callable[[], Codec]]] = {
    "raw": [Raw],
    "lines": with_options(Lines, {}, {"crlf": True}),
    "length": with_options(LengthPrefixed, *LENGTHS),
    "json_lines": [
        JsonLines,
        *with_options(JsonLines, {"max_depth": 2}),
        partial(JsonLines, max_depth=3),
        partial(JsonLines, max_depth=100_000),
        partial(JsonLines, duplicate_keys="refuse"),
    ],
    "delimited": [
        partial(Delimited, *delimiters, max_bytes=8, **overflow)
        for delimiters, overflow in product(DELIMITERS, OVERFLOWS)
    ],
    "varint": with_options(VarintPrefixed, {}, {"bits": 64}),
    "netstring": with_options(Netstring),
    "octet_counted": with_options(OctetCounted, {}, {"newline": True}),
    "content_length": with_options(ContentLength),
    "msgpack": [*with_options(MsgPack, {"max_depth": 2}), partial(MsgPack, type=dict[str, int])],
    "json_content_length": [*with_options(JsonContentLength), partial(JsonContentLength, duplicate_keys="refuse")],
}

#: Name of the fuzz target -> pieces of valid wire format, with which random bytes get past a codec's first check.
ALPHABETS: dict[str, list[bytes]] = {
    "raw": [b"a", b"\n"],
    "lines": [b"\r", b"\n", b"\r\n", b"abc", b"\xff" * 9, b"a" * 21],
    "length": [b"\x00", b"\x01", b"\x05", b"\x09", b"\xff", b"a" * 7],
    "json_lines": [
        b"\n",
        b"\r\n",
        b"{",
        b"}",
        b'"',
        b":",
        b"1",
        b"[",
        b"]",
        b",",
        b"\xff",
        b"\\",
        b'"a":',
        b" ",
        b"[[[[",
    ],
    "delimited": [b"\x00", b"\r", b"\n", b"a", b"b", b"c", b"d" * 9, b"d" * 21],
    "varint": [b"\x00", b"\x01", b"\x05", b"\x09", b"\x80", b"\xff", b"\x7f", b"a" * 7],
    "netstring": [b"0", b"1", b"9", b"12", b":", b",", b"a", b"3:abc,", b"9:abcdefghi,", b"+", b"1" * 21],
    "octet_counted": [b"0", b"1", b"9", b"12", b" ", b"<", b"\n", b"a", b"3 abc", b"9 abcdefghi", b"1" * 21],
    "content_length": [
        b"Content-Length: 3\r\n\r\nabc",
        b"Content-Length: 9\r\n\r\n",
        b"Content-Length: 21\r\n\r\n",
        b"Content-Length",
        b": ",
        b"3",
        b"-",
        b"\r\n",
        b"\r\n\r\n",
        b"abcdefghi",
        b"X:y\r\n",
        b"\n",
    ],
    "msgpack": [
        b"\x00\x00\x00\x01",
        b"\x00\x00\x00\x04",
        b"\x00\x00\x00\x09",
        b"\x81\xa1a\x01",
        b"\x91\x91\x91\x90",
        b"\xdd\xff\xff\xff",
        b"\xc1",
        b"\xc7",
        b"\xff" * 9,
    ],
    "json_content_length": [
        b"Content-Length: 2\r\n\r\n",
        b"{}",
        b"[",
        b'""',
        b"\r\n",
        b"content-length:1\r\n\r\n1",
        b"x" * 7,
    ],
}
