"""OctetCounted: syslog over TCP (RFC 6587): `MSG-LEN SP SYSLOG-MSG`, the length in decimal and without leading zeros.

With newline=True, the older framing of section 3.4.2 is accepted too, on the same stream: a frame that begins with `<`,
the start of a syslog priority, ends with LF. rsyslog distinguishes the two in the same way, for each frame. encode()
always counts octets.

Line feeds between frames are always dropped. The RFC does not allow them, but several senders add one, and no frame
begins with one; rsyslog treats it as an empty message, and drops it.
"""

from __future__ import annotations

import re

from gserver.codecs.delimited import DEFAULT_MAX_BYTES, Delimiters, DiscardUpTo
from gserver.codecs.length_framing import Frame, LengthFramed, find_decimal
from gserver.codecs.size_limit import Discard, Overflow
from gserver.codecs.wrong_type import not_bytes
from gserver.errors import InvalidHeader

__all__ = ["OctetCounted"]

LF = Delimiters(b"\n")
LINE_FEEDS = re.compile(rb"\n+")
PRIORITY = ord("<")


class OctetCounted(LengthFramed):
    """Messages after a decimal length and a space.

    Args:
        max_bytes: longest message accepted, without its header or LF; default 64 KiB.
        newline: accept messages that begin with `<` and end with LF; default False: they are an InvalidHeader.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(OctetCounted, b"3 one") == [b"one"]
    """

    __slots__ = ("_newline", "_searched")

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        newline: bool = False,
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard, least=1)
        self._newline = newline
        self._searched = 0  # bytes of an incomplete message that contain no LF

    def receive(self, data: bytes) -> None:
        super().receive(data)
        self._drop_line_feeds()

    def _forget(self, handed_over: int) -> None:
        super()._forget(handed_over)
        self._drop_line_feeds()

    def _drop_line_feeds(self) -> None:
        """Drop line feeds before the next frame, so that `partial` is false: the peer is between two messages."""
        if self.partial.startswith(b"\n"):
            self.partial = self.partial.lstrip(b"\n")

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        start = _after_line_feeds(buffer, start)
        if self._newline and buffer[start : start + 1] == b"<":
            return self._line(buffer, start)
        try:
            found = find_decimal(buffer, start, b" ")
            if found is not None and found[0] == 0:
                raise InvalidHeader("the length b'0': a syslog message is never empty")
        except InvalidHeader as error:
            raise self._fail(error) from None
        if found is None:
            return None
        length, space = found
        return space + 1, space + 1 + length, space + 1 + length

    def _line(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        end = buffer.find(b"\n", start + self._searched)
        if end >= 0:
            self._searched = 0
            return start, end, end + 1
        self._searched = size = len(buffer) - start
        if size <= self._max_bytes:
            return None
        self._too_large(size, "at least ")
        return start, len(buffer), len(buffer) + 1

    def _rest_of(self, frame: Frame, buffer: bytes | bytearray, start: int) -> Discard:
        start = _after_line_feeds(buffer, start)
        if buffer[start] != PRIORITY:
            return super()._rest_of(frame, buffer, start)
        self._searched = 0
        return DiscardUpTo(LF, buffer[start:])

    def encode(self, message: bytes) -> bytes:
        """Return the length, a space and the message; ValueError for an empty message: RFC 6587 has none."""
        try:
            framed = b"%d %b" % (len(message), message)
        except TypeError:
            raise not_bytes(self, message) from None
        if not message:
            raise ValueError("a syslog message cannot be empty")
        return framed


def _after_line_feeds(buffer: bytes | bytearray, start: int) -> int:
    found = LINE_FEEDS.match(buffer, start) if buffer.startswith(b"\n", start) else None
    return start if found is None else found.end()
