"""Delimited: a message is the bytes up to a delimiter, of which there may be several; it is not part of the message.

The delimiter that ends first counts, and of those that end together the longest: with LF and CRLF, CRLF is never half
of a message. So a message is complete with the last byte of its delimiter, however the bytes are cut, and no codec has
to wait for what may follow. A delimiter that another one occurs in before its end could never end a message, and is
refused. (asyncio's readuntil() decides alike; Netty prefers the shortest message.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gserver.codecs.malformed import Malformed
from gserver.codecs.size_limit import Bounded, Overflow
from gserver.codecs.wrong_type import not_bytes

__all__ = ["DEFAULT_MAX_BYTES", "Delimited", "Delimiters", "DiscardUpTo"]

# Precedents: asyncio's streams 64 KiB, Twisted's LineReceiver 16 KiB, Netty and tokio leave it to the user.
DEFAULT_MAX_BYTES = 64 * 1024


class Delimiters:
    """Some delimiters, and where they are in bytes."""

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
        #: The leftmost match ends first, and is the longest: no delimiter has another one before its own end.
        self.pattern = re.compile(b"|".join(map(re.escape, delimiters)))
        self.longest = max(map(len, delimiters))
        beginnings = {delimiter[:size] for delimiter in delimiters for size in range(1, len(delimiter))}
        self._beginnings = tuple(sorted(beginnings, key=len, reverse=True))

    def begun(self, data: bytes | bytearray) -> int:
        """How many bytes at the end of `data` may belong to a delimiter."""
        return next((len(beginning) for beginning in self._beginnings if data.endswith(beginning)), 0)


class DiscardUpTo:
    """A message that is discarded up to its delimiter; only what may begin one is kept."""

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

    def least(self) -> int:
        return self.size + len(self._tail) - self._delimiters.begun(self._tail)


class Delimited(Bounded):
    """Messages that end with a delimiter.

    Args:
        delimiters: one or more, of one or more bytes each; default NUL. encode() writes the first one.
        max_bytes: longest message accepted, without its delimiter; default 64 KiB.
        overflow: what becomes of a longer one: "close" (default) is FrameTooLarge, "discard" is a Malformed.
        max_discard: longest message that is discarded; default 16 times max_bytes, and at least 1 MiB.
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
        self._searched = 0  # bytes of `partial` in which no delimiter begins

    def receive(self, data: bytes) -> None:
        if self._trouble is not None:
            data = self._take(data)
        if not self.partial:
            self.partial = data
        elif data:
            if not isinstance(self.partial, bytearray):
                self.partial = bytearray(self.partial)
            self.partial += data

    def messages(self) -> Iterator[bytes | Malformed]:
        if self._trouble is not None:
            report = self._settle()
            if report is None:
                return
            yield report
        start = 0
        buffer = bytes(self.partial) if self._has_end() else b""
        for found in self._delimiters.pattern.finditer(buffer, self._searched):
            size = found.start() - start
            message = buffer[start : found.start()] if size <= self._max_bytes else self._over(size)
            start = found.end()
            yield message
        self._forget(start)

    def _has_end(self) -> bool:
        return self._delimiters.pattern.search(self.partial, self._searched) is not None

    def _forget(self, handed_over: int) -> None:
        """Keep what no delimiter has ended, if it may be kept."""
        self.partial = rest = self.partial[handed_over:] if handed_over else self.partial
        self._searched = max(0, len(rest) - self._delimiters.longest + 1)
        least = len(rest) - self._delimiters.begun(rest) if len(rest) > self._max_bytes else 0
        if least > self._max_bytes:
            self._over(least, "at least ")
            self._searched = 0
            self._discard(DiscardUpTo(self._delimiters, rest))

    def encode(self, message: bytes) -> bytes:
        """Return the message with the first delimiter behind it; ValueError if a delimiter would end it before."""
        try:
            framed = message + self._end
        except TypeError:
            raise not_bytes(self, message) from None
        found = self._delimiters.pattern.search(framed)
        if found and found.start() < len(message):
            raise ValueError(f"a message cannot contain the delimiter {found.group()!r}")
        return framed
