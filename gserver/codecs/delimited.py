"""Delimited: a message is the bytes up to one of several delimiters; the delimiter is not part of the message.

The delimiter that ends first applies; if several end at the same byte, the longest. So with LF and CRLF, the CR of a
CRLF is never part of a message; and a message is complete with the last byte of its delimiter, and the codec never
waits for the next byte. A delimiter that contains another one before its end could never end a message, and is
rejected. (asyncio's readuntil() has the same rule; Netty prefers the shortest message.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gserver.codecs.malformed import Malformed
from gserver.codecs.size_limit import Overflow, SizeLimited
from gserver.codecs.wrong_type import not_bytes

__all__ = ["DEFAULT_MAX_BYTES", "Delimited", "Delimiters", "DiscardUpTo"]

# Precedents: 64 KiB in asyncio's streams, 16 KiB in Twisted's LineReceiver; Netty and tokio have no default.
DEFAULT_MAX_BYTES = 64 * 1024


class Delimiters:
    """A set of delimiters, with the pattern that finds them."""

    __slots__ = ("_beginnings", "longest", "pattern")

    def __init__(self, *delimiters: bytes) -> None:
        for delimiter in delimiters:
            if not isinstance(delimiter, bytes) or not delimiter:
                raise ValueError(f"the delimiter {delimiter!r} must be bytes, and not empty")
            for other in delimiters:
                if other in delimiter[:-1]:
                    raise ValueError(
                        f"the delimiter {delimiter!r} never ends a message: {other!r} in it ends it before"
                    )
        #: The leftmost match is also the one that ends first, and the longest: no delimiter contains another before its
        #: end.
        self.pattern = re.compile(b"|".join(map(re.escape, delimiters)))
        self.longest = max(map(len, delimiters))
        beginnings = {delimiter[:size] for delimiter in delimiters for size in range(1, len(delimiter))}
        self._beginnings = tuple(sorted(beginnings, key=len, reverse=True))

    def partial_size(self, data: bytes | bytearray) -> int:
        """Return how many bytes at the end of `data` may be the beginning of a delimiter."""
        return next((len(beginning) for beginning in self._beginnings if data.endswith(beginning)), 0)


class DiscardUpTo:
    """Discards a message up to its delimiter; keeps only bytes that may be the beginning of one."""

    __slots__ = ("_delimiters", "_tail", "received", "size")

    def __init__(self, delimiters: Delimiters, begun: bytes | bytearray) -> None:
        self._delimiters = delimiters
        self._tail = b""
        self.size = self.received = 0
        self.take(bytes(begun))

    def take(self, data: bytes) -> bytes | None:
        self.received += len(data)
        data = self._tail + data
        found = self._delimiters.pattern.search(data)
        if found is None:
            self._tail = data[max(0, len(data) - self._delimiters.longest + 1) :]
            self.size += len(data) - len(self._tail)
            return None
        self.size += found.start()
        return data[found.end() :]

    def min_size(self) -> int:
        return self.size + len(self._tail) - self._delimiters.partial_size(self._tail)


class Delimited(SizeLimited):
    """Messages that end with a delimiter.

    Args:
        delimiters: one or more, of one or more bytes each; default NUL. encode() writes the first one.
        max_bytes: longest message accepted, without its delimiter; default 64 KiB.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(Delimited(b";"), b"one;two;") == [b"one", b"two"]
    """

    __slots__ = ("_delimiters", "_end", "_searched")

    def __init__(
        self,
        *delimiters: bytes,
        max_bytes: int = DEFAULT_MAX_BYTES,
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard, least=1)
        self._delimiters = Delimiters(*(delimiters or (b"\x00",)))
        self._end = delimiters[0] if delimiters else b"\x00"
        self._searched = 0  # bytes of `partial` that contain no beginning of a delimiter

    def receive(self, data: bytes) -> None:
        if self._pending is not None:
            data = self._take(data)
        if not self.partial:
            self.partial = data
        elif data:
            if not isinstance(self.partial, bytearray):
                self.partial = bytearray(self.partial)
            self.partial += data

    def messages(self) -> Iterator[bytes | Malformed]:
        if self._pending is not None:
            report = self._take_report()
            if report is None:
                return
            yield report
        start = 0
        buffer = bytes(self.partial) if self._has_end() else b""
        for found in self._delimiters.pattern.finditer(buffer, self._searched):
            size = found.start() - start
            message = buffer[start : found.start()] if size <= self._max_bytes else self._too_large(size)
            start = found.end()
            yield message
        self._forget(start)

    def _has_end(self) -> bool:
        return self._delimiters.pattern.search(self.partial, self._searched) is not None

    def _forget(self, handed_over: int) -> None:
        """Drop the messages that were delivered; start discarding if the rest is too large."""
        self.partial = rest = self.partial[handed_over:] if handed_over else self.partial
        self._searched = max(0, len(rest) - self._delimiters.longest + 1)
        least = len(rest) - self._delimiters.partial_size(rest) if len(rest) > self._max_bytes else 0
        if least > self._max_bytes:
            self._too_large(least, "at least ")
            self._searched = 0
            self._discard(DiscardUpTo(self._delimiters, rest))

    def encode(self, message: bytes) -> bytes:
        """Return the message and the first delimiter; ValueError if the message contains a delimiter."""
        try:
            framed = message + self._end
        except TypeError:
            raise not_bytes(self, message) from None
        found = self._delimiters.pattern.search(framed)
        if found and found.start() < len(message):
            raise ValueError(f"a message cannot contain the delimiter {found.group()!r}")
        return framed
