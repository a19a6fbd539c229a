"""How a message crosses processes: the bytes of its body, and the frames of a link. Pure.

A body is one MessagePack array: the version of this form, the bus that the message comes from, the connection there
that does not get it (0: none), and the message. Nothing from another process is unpickled.

A frame is the length of the body (4 bytes, big-endian), the length of the topic (1 byte), the topic and the body. A
frame without topic and body is a greeting.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

__all__ = ["GREETING", "Body", "Frames", "InvalidBody", "body_of", "frame_of", "read_body", "topic_bytes"]

_VERSION = 1
_HEADER = struct.Struct(">IB")
MOST_TOPIC_BYTES = 255
GREETING = _HEADER.pack(0, 0)
_ALLOWED = "bytes, text, numbers, True, False, None, lists, dicts, msgspec Structs and dataclasses of these"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


class Body(NamedTuple):
    """A message, with where it comes from."""

    origin: bytes  # names the bus of a process
    excluded: int  # Connection.number there; 0: none
    message: Any


class InvalidBody(ValueError):
    """Bytes that are not a body of this version."""


def topic_bytes(topic: Any) -> bytes:
    """Return a topic in UTF-8; TypeError or ValueError if it is not allowed."""
    if not isinstance(topic, str):
        raise TypeError(f"topic is {topic!r}, must be text")
    try:
        encoded = topic.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"topic is {topic!r}, which cannot be written in UTF-8: {error.reason}") from None
    if not 0 < len(encoded) <= MOST_TOPIC_BYTES:
        shown = repr(topic) if len(topic) < MOST_TOPIC_BYTES else f"{topic[:20]!r}..."
        raise ValueError(f"topic is {shown}, must have 1 to {MOST_TOPIC_BYTES} bytes, and has {len(encoded)}")
    return encoded


def body_of(origin: bytes, excluded: int, message: Any) -> bytes:
    """Return the body of a message. TypeError or ValueError, with its type, if it cannot be carried."""
    try:
        return _encoder.encode((_VERSION, origin, excluded, message))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"the message, a {type(message).__name__}, cannot be published: {error}; the bus carries {_ALLOWED}"
        ) from error


def read_body(data: bytes) -> Body:
    """Return what a body contains; InvalidBody if it is none."""
    try:
        version, *rest = _decoder.decode(data)
        origin, excluded, message = rest
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InvalidBody(
            f"it is not an array of version, origin, excluded and message in MessagePack: {error}"
        ) from None
    if version != _VERSION:
        raise InvalidBody(f"its version is {version!r}, must be {_VERSION}")
    return Body(origin, excluded, message)


def frame_of(topic: bytes, body: bytes) -> bytes:
    return b"".join((_HEADER.pack(len(body), len(topic)), topic, body))


class Frames:
    """Finds the frames in what arrives at a link, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = _HEADER.size

    @property
    def missing(self) -> int:
        """How many bytes are missing to the frame that has begun, as far as is known."""
        return self._needed - len(self._buffer)

    def receive(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield topic and body of each frame that is complete; exhaust it before the next call."""
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while True:
            self._needed = _HEADER.size
            if size - at < _HEADER.size:
                break
            body_size, topic_size = _HEADER.unpack_from(buffer, at)
            self._needed = _HEADER.size + topic_size + body_size
            if size - at < self._needed:
                break
            topic_at = at + _HEADER.size
            body_at = topic_at + topic_size
            at += self._needed
            yield bytes(buffer[topic_at:body_at]), bytes(buffer[body_at:at])
        del buffer[:at]
