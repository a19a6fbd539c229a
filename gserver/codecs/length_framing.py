"""Base class of the codecs that send the length before the message, with their common loop.

A subclass implements `_frame()`: the positions of the next message. A length above the maximum is rejected as soon as
it is known, before any byte of the message is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from gserver.codecs.malformed import Malformed
from gserver.codecs.size_limit import Discard, SizeLimited
from gserver.errors import InvalidHeader

__all__ = ["DEFAULT_MAX_BYTES", "Frame", "LengthFramed", "find_decimal"]

# Precedents: 8 MiB in tokio's LengthDelimitedCodec, 99,999 in Twisted's IntNStringReceiver; Netty has no default.
DEFAULT_MAX_BYTES = 1024 * 1024
#: Positions: begin of the message, end of the message, end of the frame. They may lie beyond the end of the buffer.
Frame = tuple[int, int, int]
# Maximum digits of a length: 2**64 - 1 has 20.
MAX_DIGITS = 20


class LengthFramed(SizeLimited):
    """Messages with their length before them."""

    __slots__ = ()

    trailer: ClassVar[bytes] = b""  # the byte after each message, if there is one

    def receive(self, data: bytes) -> None:
        if self._pending is not None:
            data = self._take(data)
        if not self.partial:
            self.partial = data
        elif isinstance(self.partial, bytearray):
            self.partial += data
        elif data:
            self.partial = bytearray(self.partial)
            self.partial += data

    def messages(self) -> Iterator[bytes | Malformed]:
        if self._pending is not None:
            report = self._take_report()
            if report is None:
                return
            yield report
        buffer, start, locate, max_bytes = self.partial, 0, self._frame, self._max_bytes
        while (frame := locate(buffer, start)) is not None:
            begin, end, after = frame
            if end - begin > max_bytes:
                report = self._too_large(end - begin)
                if len(buffer) < after:
                    self._discard(self._rest_of(frame, buffer, start))
                    return
                self._check_end(buffer[end:after], end - begin)
                start = after
                yield report
                continue
            if len(buffer) < after:
                break
            if type(buffer) is not bytes:
                buffer = bytes(buffer)  # one copy: nearly all of it is delivered now
            start = after
            yield buffer[begin:end]
        if start:
            self._forget(start)

    def _forget(self, handed_over: int) -> None:
        if handed_over == len(self.partial):
            self.partial = b""
        else:
            self.partial = self.partial[handed_over:]

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        """Return the positions of the frame at `start`; None while they are not known. Raises a ProtocolError."""
        raise NotImplementedError

    def _check_end(self, found: bytes | bytearray, size: int) -> None:
        """Raise InvalidHeader if the trailer after a message of `size` bytes is wrong."""
        try:
            check_trailer(found, self.trailer, size)
        except InvalidHeader as error:
            raise self._fail(error) from None

    def _rest_of(self, frame: Frame, buffer: bytes | bytearray, start: int) -> Discard:
        """Return a Discard for a frame that continues after the buffer."""
        begin, end, after = frame
        return _DiscardBytes(end - begin, after - len(buffer), len(buffer) - start, self.trailer)


class _DiscardBytes:
    """Discards the remaining bytes of a frame, with its trailer."""

    __slots__ = ("_left", "_trailer", "received", "size")

    def __init__(self, size: int, left: int, received: int, trailer: bytes) -> None:
        self.size = size
        self.received = received
        self._left = left
        self._trailer = trailer

    def take(self, data: bytes) -> bytes | None:
        self.received += len(data)
        missing = self._left - len(self._trailer)  # bytes of the message that have not arrived
        if 0 <= missing < len(data):
            check_trailer(data[missing : self._left], self._trailer, self.size)
        self._left -= len(data)
        return data[len(data) + self._left :] if self._left <= 0 else None

    def min_size(self) -> int:
        return self.size


def check_trailer(found: bytes | bytearray, trailer: bytes, size: int) -> None:
    if trailer and found != trailer:
        raise InvalidHeader(f"{bytes(found)!r} after a message of {size} bytes, must be {trailer!r}")


def find_decimal(buffer: bytes | bytearray, start: int, end: bytes) -> tuple[int, int] | None:
    """Return the decimal number at `start` and the position of the byte `end` after it; None while it is incomplete.

    InvalidHeader for text that is not a number, for leading zeros, and for more than 20 digits, as soon as possible.
    """
    stop = buffer.find(end, start, start + MAX_DIGITS + 1)
    digits = bytes(buffer[start : stop if stop >= 0 else start + MAX_DIGITS + 1])
    if not digits and stop < 0:
        return None
    if not digits.isdigit():
        raise InvalidHeader(f"the length {digits!r} is not a number that ends with {end!r}")
    if len(digits) > MAX_DIGITS:
        raise InvalidHeader(f"the length {digits!r} has more than {MAX_DIGITS} digits")
    if len(digits) > 1 and digits.startswith(b"0"):
        raise InvalidHeader(f"the length {digits!r} has a leading zero")
    return (int(digits), stop) if stop >= 0 else None
