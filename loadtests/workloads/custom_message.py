"""What a swarm is asked to send that has no users of its own: --message, in --codec, with --expect. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gserver.codecs import Codec, codec_named
from gserver.errors import ConfigError, ProtocolError

__all__ = ["Asked", "Echoed", "asked_of", "escaped", "unescaped"]

_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class Echoed:
    """A codec for bytes without framing: a reply is complete with as many bytes as its message had, or with `size`."""

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
        """What is more than was sent is a message too, and one that nobody expects."""
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
        """Return: the connection knows whether a reply was due."""


@dataclass(frozen=True)
class Asked:
    """What a MessageUser sends, how it is framed, and the reply that is expected; None: any."""

    message: Any
    expected: Any
    codec: Callable[[], Codec]


def asked_of(message: str, codec: str, expect: str) -> Asked:
    """What --message, --codec and --expect ask for; ValueError names what is wrong."""
    try:
        make = codec_named(codec)
    except ConfigError as error:
        raise ValueError(f"--codec: {error}") from None
    value, expected = _value(message, codec, "--message"), _value(expect, codec, "--expect") if expect else None
    try:
        make().encode(value)
    except (TypeError, ValueError, ProtocolError) as error:
        raise ValueError(f"--message is {message!r}, which {codec} does not carry: {error}") from None
    if codec == "raw" and expected is not None:
        return Asked(value, expected, lambda: Echoed(len(expected)))
    if expected is not None and not _can_arrive(expected, make):
        raise ValueError(f"--expect is {expect!r}, and no reply in {codec} can be that")
    return Asked(value, expected, make)


def _can_arrive(expected: Any, make: Callable[[], Codec]) -> bool:
    """Whether a reply that was sent in a codec comes out of it as it is: a line has no line feed in it."""
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
    """Text as bytes, with its escapes taken for what they stand for; ValueError names one that is unknown."""

    def byte(found: re.Match[bytes]) -> bytes:
        name = found[1]
        if name in _ESCAPES:
            return _ESCAPES[name]
        if name.startswith(b"x") and len(name) == 3:
            return bytes.fromhex(name[1:].decode())
        raise ValueError(f"{text!r}: expected \\n, \\r, \\t, \\0, \\\\ or \\xHH after a backslash")

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.?)", byte, text.encode("utf-8", "surrogateescape"), flags=re.DOTALL)


def escaped(text: str) -> str:
    """The same for unescaped() in ASCII: it can be an argument of a program in every locale."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in data)
