from __future__ import annotations

import functools
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import JsonLines, Malformed
from gserver.errors import FrameTooLarge
from gserver.testing.codec_checks import Limit, check_codec, check_garbage
from tests.helpers.codec_kit import decode, feed
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
def test_invalid_json_is_malformed_and_the_next_line_is_read(line: bytes) -> None:
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
def test_a_value_that_json_does_not_have_is_a_type_error(message: Any) -> None:
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


@pytest.mark.parametrize(
    "line", [b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b'[1,{"b":{"c":1,"d":2,"c":1}}]', b'{"":1,"":1}', b'{"a":NaN}']
)
def test_equal_keys_can_be_refused(line: bytes) -> None:
    """Keys are compared after decoding, at any depth. Text that is not JSON is rejected first."""
    codec = JsonLines(duplicate_keys="refuse")
    codec.receive(b'{"a":1}\n' + line + b'\n{"a":{"a":1},"b":{"a":1e400000000000}}\n[{"a":1},{"a":1}]\n')
    before, refused, infinite, after = codec.messages()

    assert refused.message == ("Invalid JSON" if b"NaN" in line else "Duplicate key in JSON")
    assert refused.detail
    assert infinite.message == "Invalid JSON"
    assert (before, after) == ({"a": 1}, [{"a": 1}, {"a": 1}])


def test_a_duplicate_key_is_named() -> None:
    codec = JsonLines(duplicate_keys="refuse")
    codec.receive('{"x":1,"ü":1,"ü":2}\n'.encode())
    (refused,) = codec.messages()

    assert refused.detail == "'ü'"


def nested(depth: int, inner: str = "1") -> str:
    """Arrays and objects, alternating."""
    return (
        "".join('{"a":' if level % 2 else "[" for level in range(depth))
        + inner
        + "".join("}" if level % 2 else "]" for level in reversed(range(depth)))
    )


@pytest.mark.parametrize("max_depth", [1, 2, 3, 64, 500])
@pytest.mark.parametrize("inner", ["", '"]}]}"', '"[{[{\\""', '"\\\\"', '["[",[]]', " " * 300])
def test_the_depth_limit_is_exact(max_depth: int, inner: str) -> None:
    inside = inner if inner.strip() else inner + "1"
    depth = max_depth - (2 if inner.startswith("[") else 0)
    if depth < 1:
        return
    good, deep = nested(depth, inside), nested(depth + 1, inside)
    report = ("Malformed", f"JSON nested {max_depth + 1} deep, the limit is {max_depth}")
    codec = JsonLines(max_depth=max_depth)

    assert feed(codec, [f"{good}\n".encode()]) == [json.loads(good)]
    assert feed(codec, [f"{deep}\n".encode()]) == [report]
    assert feed(codec, [f"{good}\n{deep}\n{good}\n".encode()]) == [json.loads(good), report, json.loads(good)]
    assert feed(codec, [f"1\n{deep}\n".encode()]) == [1, report]


@pytest.mark.parametrize("shape", ["[1,2],", '{"a":{"b":[]}},', '"[[[[",', '["]]]]"],', '{"a\\"[":"\\\\"},'])
def test_width_is_not_depth(shape: str) -> None:
    text = "[" + shape * 500 + "1]"

    assert decode(JsonLines, f"{text}\n".encode() * 3) == [json.loads(text)] * 3
    assert decode(functools.partial(JsonLines, max_depth=4), f"{text}\n".encode() * 3) == [json.loads(text)] * 3


def test_many_small_messages_together_are_not_deep() -> None:
    assert decode(JsonLines, b"[[[1]]]\n" * 3000) == [[[[1]]]] * 3000


@given(JSON, st.integers(1, 4))
def test_the_depth_is_that_of_the_value(message: Any, max_depth: int) -> None:
    depth = depth_of(message)
    expected = ("Malformed", f"JSON nested {depth} deep, the limit is {max_depth}") if depth > max_depth else message

    assert decode(functools.partial(JsonLines, max_depth=max_depth), JsonLines().encode(message)) == [expected]


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize("depth", [65, 1000, 30_000])
def test_deep_nesting_is_malformed_at_any_depth_and_framing_goes_on(depth: int) -> None:
    closed = nested(depth).encode()
    for line in (closed, b"[" * depth, b'{"a":' * depth):
        if len(line) > 65536:
            continue
        before, deep, after = feed(JsonLines(), [b'"before"\n' + line + b'\n"after"\n'])
        assert (before, after) == ("before", "after")
        if line == closed:
            assert deep == ("Malformed", f"JSON nested {depth} deep, the limit is 64")
        assert deep[0] == "Malformed"


def test_a_depth_beyond_the_interpreter_is_malformed_and_framing_goes_on() -> None:
    """The maximum depth depends on the version of Python."""
    messages = feed(JsonLines(1 << 24, max_depth=1 << 24), [nested(1_000_000).encode() + b"\n1\n"])

    assert messages == [("Malformed", "Invalid JSON"), 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda size: b'"' + b'\\"' * (size // 2),
        lambda size: b"[" * size,
        lambda size: (b"[" * 64 + b"]" * 64) * (size // 128),
        lambda size: b'["[",' * (size // 5),
        lambda size: b'"[' * (size // 2),
        lambda size: b"\\" * size + b"[" * 100,
    ],
)
def test_hostile_nesting_costs_in_proportion_to_its_bytes(make: Any) -> None:
    """Eight times the bytes cost about eight times as much, at worst; a quadratic cost would be 64 times."""

    def seconds(size: int) -> float:
        codec, line = JsonLines(1 << 24), make(size) + b"\n"
        started = time.thread_time()
        codec.receive(line)
        list(codec.messages())
        return time.thread_time() - started

    assert min(seconds(8 * 65536) / seconds(65536) for _ in range(5)) < 24


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_depth": 0}, "max_depth is 0, must be at least 1"),
        ({"duplicate_keys": "first"}, "duplicate_keys is 'first', must be 'last' or 'refuse'"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        JsonLines(**options)

    assert str(caught.value) == text


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
