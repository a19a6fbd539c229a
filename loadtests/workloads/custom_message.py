"""The message that is sent when no user class is given: --message, --codec and --expect. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gserver.codecs import Codec, codec_named
from gserver.errors import ConfigError, ProtocolError

__all__ = ["CustomMessage", "Echoed", "escaped", "parse_message", "unescaped"]

_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class Echoed:
    """A codec for bytes without framing: a reply is as long as its message, or `size` bytes long."""

    __slots__ = ("_data", "_lengths", "_size", "partial")

    def __init__(self, size: int = 0) -> None:
        self._size = size
        self._data = b""
        self._lengths: deque[int] = deque()
        self.partial = False

    def encode(self, message: bytes) -> bytes:
        self._lengths.append(self._size or len(message))
        return message

    def receive(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data

    def messages(self) -> list[bytes]:
        lengths, data = self._lengths, self._data
        if len(lengths) == 1 and len(data) == lengths[0]:
            lengths.clear()
            self._data = b""
            self.partial = False
            return [data]
        return self._cut()

    def _cut(self) -> list[bytes]:
        """Bytes beyond the expected length are a message of their own, which then counts as a wrong reply."""
        messages, start = [], 0
        while self._lengths and len(self._data) - start >= self._lengths[0]:
            length = self._lengths.popleft()
            messages.append(self._data[start : start + length])
            start += length
        self._data = self._data[start:]
        if self._data and not self._lengths:
            messages.append(self._data)
            self._data = b""
        self.partial = bool(self._data)
        return messages

    def eof(self) -> None:
        """Do nothing: the connection checks whether a reply is missing."""


@dataclass(frozen=True)
class CustomMessage:
    """What a MessageUser sends.

    Attributes:
        message: as `codec` takes it.
        expected: the reply; None: any.
        codec: makes the codec of a connection.
    """

    message: Any
    expected: Any
    codec: Callable[[], Codec]


def parse_message(message: str, codec: str, expect: str) -> CustomMessage:
    """Parse --message, --codec and --expect; ValueError names the wrong option. expect "": any reply."""
    try:
        make = codec_named(codec)
    except ConfigError as error:
        raise ValueError(f"--codec: {error}") from None
    value, expected = _value(message, codec, "--message"), _value(expect, codec, "--expect") if expect else None
    try:
        make().encode(value)
    except (TypeError, ValueError, ProtocolError) as error:
        raise ValueError(f"--message is {message!r}, which cannot be encoded as {codec}: {error}") from None
    if codec == "raw" and expected is not None:
        return CustomMessage(value, expected, lambda: Echoed(len(expected)))
    if expected is not None and not _can_arrive(expected, make):
        raise ValueError(f"--expect is {expect!r}, which cannot be a reply in {codec}")
    return CustomMessage(value, expected, make)


def _can_arrive(expected: Any, make: Callable[[], Codec]) -> bool:
    """Whether a reply can be encoded and decoded unchanged: a line cannot contain a line feed."""
    peer = make()
    try:
        peer.receive(make().encode(expected))
        return list(peer.messages()) == [expected]
    except (TypeError, ValueError, ProtocolError):
        return False


def _value(text: str, codec: str, option: str) -> Any:
    data = unescaped(text)
    if codec != "json_lines":
        return data
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"{option} is {text!r}, which is not JSON: {error}") from None


def unescaped(text: str) -> bytes:
    """Encode text as UTF-8 with its backslash escapes replaced; ValueError for an unknown escape."""

    def byte(found: re.Match[bytes]) -> bytes:
        name = found[1]
        if name in _ESCAPES:
            return _ESCAPES[name]
        if name.startswith(b"x") and len(name) == 3:
            return bytes.fromhex(name[1:].decode())
        raise ValueError(f"{text!r}: expected \\n, \\r, \\t, \\0, \\\\ or \\xHH after a backslash")

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.?)", byte, text.encode("utf-8", "surrogateescape"), flags=re.DOTALL)


def escaped(text: str) -> str:
    """Escape text to ASCII for unescaped(), so that it can be an argument of a program in every locale."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in data)
