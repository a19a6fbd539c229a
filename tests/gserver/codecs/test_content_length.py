from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import ContentLength, JsonContentLength, Malformed
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.testing.codec_checks import Limit, assert_fails, check_codec, check_linear_cost
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere

LIMIT = Limit(
    ContentLength,
    wire=lambda size: b"Content-Length: %d\r\n\r\n%b" % (size, b"a" * size),
    unfinished=lambda size: b"Content-Length: %d\r\n\r\n" % size,
)
TYPE = b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\n"


def frame(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def padded(block_bytes: int) -> bytes:
    """Headers of so many bytes, with the blank line, and Content-Length 1."""
    headers = b"Content-Length: 1\r\nX:"
    return headers + b"x" * (block_bytes - len(headers) - 4) + b"\r\n\r\n"


def test_messages_behind_headers_pass_the_battery() -> None:
    pairs = [
        (frame(b"{}"), [b"{}"]),
        (frame(b""), [b""]),
        (TYPE + frame(b"\r\n\r\n"), [b"\r\n\r\n"]),
        (b"content-LENGTH:3 \r\n" + TYPE + b"\r\nabc" + frame(b"d"), [b"abc", b"d"]),
        (b"Content-Length: 002\r\n\r\nab", [b"ab"]),
    ]
    check_codec(ContentLength, pairs, limit=LIMIT)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 2\r\nContent-Length: 2",
        b"Content-Length: 2\r\ncontent-length: 3",
        b"Content-Length: -2",
        b"Content-Length: +5",
        b"Content-Length: 5.0",
        b"Content-Length: 0x5",
        b"Content-Length: 1_0",
        b"Content-Length: 2 2",
        b"Content-Length: 2,2",
        b"Content-Length:",
        b"Content-Length: " + b"1" * 21,
        b"Content-Length: \xb2",
        b"Content-Length",
        b"Content-Length : 2",
        b" Content-Length: 2",
        b"Content-Length: 2\r\n more",
        b"Content-Length: 2\nX: y",
        b"Content-Length: 2\rX: y",
        b"X: \x00\r\nContent-Length: 2",
        b"Content_Length: 2",
        b"Length: 2",
        b": 2",
        b"",
    ],
)
def test_headers_that_two_readers_might_read_differently_are_refused(headers: bytes) -> None:
    codec = ContentLength()
    with pytest.raises(InvalidHeader):
        feed(codec, [headers + b"\r\n\r\n{}"])
    assert_fails(codec, InvalidHeader)


def test_the_block_of_headers_is_bounded() -> None:
    assert feed(ContentLength(), [padded(8192) + b"a"]) == [b"a"]
    for wire in (padded(8193) + b"a", b"a" * 8192):
        for pieces in ([wire], [wire[:5000], wire[5000:]]):
            with pytest.raises(InvalidHeader, match=r"^headers of more than 8192 bytes$"):
                feed(ContentLength(), pieces)


def test_headers_that_come_byte_by_byte_behind_a_message_are_read_once_more_from_their_beginning() -> None:
    wire = frame(b"first") + padded(300) + b"a" + frame(b"last")

    assert feed(ContentLength(), [wire[:30], *(bytes([byte]) for byte in wire[30:])]) == [b"first", b"a", b"last"]


def test_large_headers_cost_in_proportion_to_their_message() -> None:
    """The headers are parsed once, not for each piece of the message."""
    check_linear_cost(ContentLength, lambda size: padded(8000).replace(b"1", b"%d" % size, 1) + b"a" * size)


def test_a_length_over_the_maximum_is_refused_with_its_headers() -> None:
    with pytest.raises(FrameTooLarge, match=r"^message of 101 bytes, the limit is 100$"):
        feed(ContentLength(100), [b"Content-Length: 101\r\n\r\n"])


@given(st.lists(st.binary(max_size=40)), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    codec = ContentLength()
    wire = b"".join(map(codec.encode, messages))

    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()


def test_json_behind_headers_passes_the_battery() -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    malformed = Malformed("Invalid JSON")
    pairs: list[tuple[bytes, list[Any]]] = [
        (frame(b'{"jsonrpc":"2.0","id":1,"method":"initialize"}'), [request]),
        (frame('"Grüße\\n"'.encode()) + frame(b"[\n1\r\n]"), ["Grüße\n", [1]]),
        (frame(b"{}") + frame(b"{") + frame(b"") + frame(b"1"), [{}, malformed, malformed, 1]),
    ]
    check_codec(JsonContentLength, pairs)


def test_a_value_is_encoded_compactly_behind_its_length_in_bytes() -> None:
    assert JsonContentLength().encode({"a": "ü"}) == b'Content-Length: 10\r\n\r\n{"a":"\xc3\xbc"}'
    with pytest.raises(TypeError):
        JsonContentLength().encode(object())


def test_json_behind_headers_has_the_rules_of_json_lines() -> None:
    codec = JsonContentLength(max_depth=2, duplicate_keys="refuse", max_bytes=60, overflow="discard")
    wire = b"".join(map(frame, [b"[[[1]]]", b'{"a":1,"a":2}', b" " * 61, b"[[1]]"]))

    assert feed(codec, [wire]) == [
        ("Malformed", "JSON nested 3 deep, the limit is 2"),
        ("Malformed", "Duplicate key in JSON"),
        ("Malformed", "message of 61 bytes, the limit is 60"),
        [[1]],
    ]


def test_nothing_but_the_message_is_kept_of_a_json_stream() -> None:
    assert decode(JsonContentLength, frame(b"null")) == [None]
