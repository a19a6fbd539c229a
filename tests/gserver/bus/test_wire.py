"""Bodies and frames: what may be carried, and that frames are found in pieces of any size."""

from __future__ import annotations

import dataclasses
import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.bus.wire import GREETING, Body, Frames, InvalidBody, body_of, frame_of, read_body, topic_bytes


class Said(msgspec.Struct, tag="said"):
    name: str
    text: str


@dataclasses.dataclass
class Point:
    x: int


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    assert read_body(body_of(b"origin", 7, value)) == Body(b"origin", 7, value)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Said("ann", "hi"), {"type": "said", "name": "ann", "text": "hi"}),
        (Point(3), {"x": 3}),
        ((1, (2,)), [1, [2]]),
        (bytearray(b"raw"), b"raw"),
    ],
)
def test_other_values_arrive_as_the_plain_ones_that_they_are_made_of(value: Any, arrives: Any) -> None:
    assert read_body(body_of(b"", 0, value)).message == arrives


class Other:
    pass


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    ("value", "error", "named"),
    [
        (Other(), TypeError, "the message, a Other, cannot be published"),
        ([socket], TypeError, "the message, a list, cannot be published: .*module"),
        (2**64, ValueError, "the message, a int, cannot be published"),
        ("\ud800", ValueError, "the message, a str, cannot be published"),
        (RECURSIVE, ValueError, "the message, a list, cannot be published"),
    ],
)
def test_a_message_that_cannot_be_carried_is_refused_with_its_type(
    value: Any, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named + ".*; the bus carries bytes, text, numbers"):
        body_of(b"", 0, value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xc1",
        msgspec.msgpack.encode("hello"),
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([1, b"", 0]),
        msgspec.msgpack.encode([1, b"", 0, "hello", "more"]),
        msgspec.msgpack.encode([2, b"", 0, "hello"]),
        msgspec.msgpack.encode([1, b"", 0, "hello"])[:-1],
        b"\x91" * 100_000,
    ],
)
def test_what_is_no_body_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidBody):
        read_body(data)


@given(st.binary())
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    try:
        read_body(data)
    except InvalidBody:
        pass


@pytest.mark.parametrize("topic", ["a", "ü" * 127, "a" * 255, "a b\n\0"])
def test_topics_are_any_text_of_255_bytes(topic: str) -> None:
    assert topic_bytes(topic) == topic.encode()


@pytest.mark.parametrize(
    ("topic", "error", "named"),
    [
        ("", ValueError, "topic is '', must have 1 to 255 bytes, and has 0"),
        ("ü" * 128, ValueError, "must have 1 to 255 bytes, and has 256"),
        ("a" * 10**6, ValueError, "topic is 'aaaaaaaaaaaaaaaaaaaa'..., must have 1 to 255 bytes"),
        ("\ud800", ValueError, "cannot be written in UTF-8"),
        (b"a", TypeError, "topic is b'a', must be text"),
        (None, TypeError, "topic is None, must be text"),
    ],
)
def test_other_topics_are_refused(topic: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        topic_bytes(topic)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=255), st.binary(max_size=300)), max_size=8), st.data())
def test_frames_are_found_in_pieces_of_any_size(messages: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    stream = GREETING + b"".join(frame_of(topic, body) for topic, body in messages)
    frames = Frames()
    found: list[tuple[bytes, bytes]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += frames.receive(stream[:size])
        stream = stream[size:]
        assert frames.missing > 0

    assert found == [(b"", b""), *messages]


def test_the_missing_part_of_a_long_frame_is_known() -> None:
    frame = frame_of(b"topic", bytes(100_000))
    frames = Frames()
    assert list(frames.receive(frame[:3])) == []
    assert list(frames.receive(frame[3:1000])) == []

    assert frames.missing == len(frame) - 1000
