from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.errors import FrameTooLarge
from gserver.framing import JsonLines, Malformed
from tests.helpers.codec_kit import Limit, check_codec, check_garbage, decode, feed
from tests.helpers.cuts import cut_anywhere

LIMIT = Limit(
    JsonLines,
    wire=lambda size: b'"' + b"a" * (size - 2) + b'"\n',
    unfinished=lambda size: b'"' + b"a" * (size - 1),
)
NOT_JSON = {
    "nothing": b"",
    "blanks": b" \t ",
    "a word": b"hello",
    "half an object": b'{"a":',
    "half a string": b'"abc',
    "a trailing comma": b"[1,]",
    "two values": b"1 2",
    "single quotes": b"{'a':1}",
    "a key that is no string": b"{1:2}",
    "a comment": b"1 // one",
    "a zero byte": b"\x00",
    "invalid UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a high surrogate alone": b'"\\ud800"',
    "a low surrogate alone": b'"\\udc00"',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "a number too large for a float": b"1e400",
    "5000 digits": b"1" * 5000,
    "a leading zero": b"01",
    "hexadecimal": b"0x10",
    "a control character in a string": b'"a\x01b"',
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def test_json_lines_pass_the_battery() -> None:
    malformed = Malformed("Invalid JSON")
    pairs: list[tuple[bytes, list[Any]]] = [
        (b'{"type":"SUM","a":10,"b":20}\n', [{"type": "SUM", "a": 10, "b": 20}]),
        (b'1\n"two"\r\n[3,null,true]\n', [1, "two", [3, None, True]]),
        (' "Grüße" \n'.encode(), ["Grüße"]),
        (b"{}\nnonsense\n{}\n\n", [{}, malformed, {}, malformed]),
    ]
    check_codec(JsonLines, pairs, limit=LIMIT)


@pytest.mark.parametrize("line", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_malformed_and_framing_goes_on(line: bytes) -> None:
    codec = JsonLines()
    codec.receive(b'"before"\n' + line.replace(b"\n", b"") + b'\n"after"\n')
    before, malformed, after = codec.messages()

    assert isinstance(malformed, Malformed)
    assert malformed.message == "Invalid JSON"
    assert malformed.detail
    assert (before, after) == ("before", "after")
    codec.eof()


def test_a_line_over_the_maximum_ends_the_framing() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        feed(JsonLines(10), [b'{"a":12345678}\n'])

    assert str(caught.value) == "line of 14 bytes, the limit is 10"


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        ({"status": "OK", "result": 30}, b'{"status":"OK","result":30}\n'),
        ("Grüße\n", '"Grüße\\n"\n'.encode()),
        ([1, 2.5, None, True], b"[1,2.5,null,true]\n"),
        (math.nan, b"null\n"),
        ([math.inf, -math.inf], b"[null,null]\n"),
        (2**64 - 1, b"18446744073709551615\n"),
    ],
)
def test_encoded_json_is_compact_and_one_line(message: Any, wire: bytes) -> None:
    assert JsonLines().encode(message) == wire


@pytest.mark.parametrize("message", [object(), {"a": 1j}, {(1, 2): 3}, {1, object()}])
def test_what_json_cannot_carry_is_a_type_error(message: Any) -> None:
    with pytest.raises(TypeError):
        JsonLines().encode(message)


def test_a_lone_surrogate_cannot_be_encoded() -> None:
    with pytest.raises(ValueError):
        JsonLines().encode({"text": "\ud800"})


def test_numbers_keep_their_kind() -> None:
    messages = decode(JsonLines, b"1\n1.0\n-0\n123456789012345678901234567890\n1e3\n")

    assert [type(message) for message in messages[:2]] == [int, float]
    assert messages[3] == 123456789012345678901234567890
    assert messages[4] == 1000.0


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode(JsonLines, b'{"a":1,"a":2}\n') == [{"a": 2}]


@given(st.lists(JSON, max_size=5), st.data())
def test_any_values_cut_anywhere_are_the_same_values(messages: list[Any], data: st.DataObject) -> None:
    codec = JsonLines()
    wire = b"".join(map(codec.encode, messages))

    assert wire.count(b"\n") == len(messages)
    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"{", b"}", b'"', b":", b"1", b"[", b"]", b",", b"\xff"])).map(b"".join)
)
def test_garbage_gives_values_malformed_or_a_protocol_error(data: bytes) -> None:
    check_garbage(JsonLines, data)
