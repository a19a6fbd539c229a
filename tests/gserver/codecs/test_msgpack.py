from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Malformed, MsgPack
from gserver.errors import FrameTooLarge
from gserver.testing.codec_checks import Limit, check_codec, check_linear_cost
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere


def frame(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def packed(value: Any) -> bytes:
    return frame(msgspec.msgpack.encode(value))


def text_of(size: int) -> bytes:
    """A message of `size` bytes: a text, whose header takes 5 of them."""
    return frame(b"\xdb" + struct.pack(">I", size - 5) + b"a" * (size - 5))


LIMIT = Limit(MsgPack, wire=text_of, unfinished=lambda size: struct.pack(">I", size))


class Point(msgspec.Struct, tag=True):
    x: int


def test_values_behind_lengths_pass_the_battery() -> None:
    """The bytes are those of the specification's table of formats."""
    pairs = [
        (frame(b"\xc0"), [None]),
        (frame(b"\xc3"), [True]),
        (frame(b"\x7f") + frame(b"\xe0"), [127, -32]),
        (frame(b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"), [1.5]),
        (frame(b"\xa3abc"), ["abc"]),
        (frame(b"\xc4\x02\x00\xff"), [b"\x00\xff"]),
        (frame(b"\x92\x01\xa1a") + frame(b"\x81\xa1a\x90"), [[1, "a"], {"a": []}]),
    ]
    check_codec(MsgPack, pairs, limit=LIMIT)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON_LIKE, max_size=5), st.data())
def test_what_is_encoded_is_decoded_again_however_it_is_cut(values: list[Any], data: st.DataObject) -> None:
    codec = MsgPack()
    wire = b"".join(map(codec.encode, values))

    assert feed(MsgPack(), cut_anywhere(data, wire)) == values


def test_a_timestamp_is_a_datetime_and_another_extension_keeps_its_number() -> None:
    moment = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    extension = msgspec.msgpack.Ext(5, b"ab")

    assert decode(MsgPack, packed(moment) + packed(extension)) == [moment, extension]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",  # the one byte that the specification never uses
        b"\x92\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xa1\xff",  # not UTF-8
        b"\x01\x02",  # two values
    ],
)
def test_a_value_that_cannot_be_decoded_is_malformed_and_the_next_one_is_delivered(value: bytes) -> None:
    assert feed(MsgPack(), [frame(value) + packed("next")]) == [("Malformed", "Invalid MessagePack"), "next"]


def nested(depth: int) -> bytes:
    return b"\x91" * (depth - 1) + b"\x90"


@pytest.mark.parametrize(
    "open_", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x81\x91"], ids=["array", "map", "16", "key"]
)
def test_nesting_is_limited(open_: bytes) -> None:
    """A key that is an array has a value too, so the nesting of keys is built from both sides."""
    value = open_ * 4 + b"\x01" * 8
    decoded = decode(lambda: MsgPack(max_depth=2), frame(value))

    assert decoded in ([("Malformed", "MessagePack nested more than 2 deep")], [("Malformed", "Invalid MessagePack")])


def test_a_value_may_be_as_deep_as_the_limit() -> None:
    codec = MsgPack(max_depth=3)

    messages = feed(codec, [frame(nested(3)), frame(nested(4)), frame(nested(100_000)), packed(1)])

    too_deep = ("Malformed", "MessagePack nested more than 3 deep")
    assert messages == [[[[]]], too_deep, too_deep, 1]


def test_bytes_that_look_like_arrays_do_not_count() -> None:
    data = b"\x91" * 1000

    assert decode(lambda: MsgPack(max_depth=1), packed(data) + packed([data])) == [data, [data]]


def test_a_type_validates_and_converts() -> None:
    wire = packed({"type": "Point", "x": 1}) + packed({"type": "Point", "x": "1"}) + packed({"type": "Line"})

    assert decode(lambda: MsgPack(type=Point | None), wire) == [
        Point(1),
        ("Malformed", "Expected `int`, got `str` - at `$.x`"),
        ("Malformed", "Invalid value 'Line' - at `$.type`"),
    ]


def test_a_long_value_is_refused_before_it_is_read_or_discarded() -> None:
    with pytest.raises(FrameTooLarge, match="message of 101 bytes, the limit is 100"):
        feed(MsgPack(100), [struct.pack(">I", 101)])

    malformed, after = feed(MsgPack(100, overflow="discard"), [text_of(101) + packed(1)])
    assert malformed[0] == "Malformed"
    assert after == 1


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (object(), TypeError, "a message of MsgPack must be a MessagePack value: "),
        (2**64, ValueError, "a message of MsgPack must be a MessagePack value: "),
        ((number for number in ()), TypeError, "a generator is not run"),
    ],
)
def test_a_value_that_messagepack_lacks_is_refused(value: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        MsgPack().encode(value)


def test_an_impossible_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_depth is 0, must be at least 1$"):
        MsgPack(max_depth=0)


def test_the_cost_is_linear() -> None:
    check_linear_cost(MsgPack, text_of)


def test_a_malformed_has_the_decoders_reason() -> None:
    codec = MsgPack()
    codec.receive(frame(b"\x92\x01"))
    (message,) = codec.messages()

    assert isinstance(message, Malformed)
    assert message.detail == "Input data was truncated"
