"""LengthPrefixed: a binary length of 1, 2, 3, 4 or 8 bytes, then the message.

    +--------+--------+---------------------+
    | offset | length | rest                |      rest = length + adjustment
    +--------+--------+---------------------+
    |<---- strip ---->|<----- message ----->|

Most protocols have no offset: LengthPrefixed() reads 4 bytes of length, then the message. The terms are those of
Netty's LengthFieldBasedFrameDecoder and tokio's LengthDelimitedCodec.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from gserver.codecs.length_framing import DEFAULT_MAX_BYTES, Frame, LengthFramed
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_bytes
from gserver.errors import InvalidHeader

__all__ = ["DEFAULT_MAX_BYTES", "LengthPrefixed"]

ByteOrder = Literal["big", "little"]
_FORMATS = {1: "B", 2: "H", 3: "", 4: "I", 8: "Q"}  # struct has no format for 3 bytes


class LengthPrefixed(LengthFramed):
    """Messages after a binary length.

    Args:
        header_bytes: width of the length field: 1, 2, 3, 4 (default) or 8.
        byteorder: "big" (network order, default) or "little".
        max_bytes: longest message accepted, as delivered; default 1 MiB.
        includes_header: whether the length includes the offset and the length field; default False.
        offset: bytes of header before the length field; default 0.
        adjustment: added to the length to get the number of bytes after the length field; default 0, may be negative.
        strip: number of bytes at the beginning of a frame that are not delivered, at most offset + header_bytes.
            Default: the whole header without an offset; 0 with an offset, because the bytes before the length matter.
        lead: the `offset` bytes before the length; encode() writes the part that `strip` removes. Default: zeros.
        overflow: what a longer message becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    encode() takes a message in the form in which it is delivered, and sets the length.

    Example:
        assert feed(LengthPrefixed(2), b"\\0\\3one") == [b"one"]
        # One byte of type before the length, which is delivered with the message:
        assert feed(LengthPrefixed(2, offset=1), b"T\\0\\3one") == [b"T\\0\\3one"]
    """

    __slots__ = (
        "_added",
        "_byteorder",
        "_has_more",
        "_header",
        "_header_bytes",
        "_header_size",
        "_offset",
        "_read",
        "_strip",
    )

    def __init__(
        self,
        header_bytes: int = 4,
        byteorder: ByteOrder = "big",
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        includes_header: bool = False,
        offset: int = 0,
        adjustment: int = 0,
        strip: int | None = None,
        lead: bytes | None = None,
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard)
        if header_bytes not in _FORMATS:
            raise ValueError(f"header_bytes is {header_bytes!r}, must be one of {', '.join(map(str, _FORMATS))}")
        if byteorder not in ("big", "little"):
            raise ValueError(f"byteorder is {byteorder!r}, must be 'big' or 'little'")
        if offset < 0:
            raise ValueError(f"offset is {offset}, must not be negative")
        lead = bytes(offset) if lead is None else lead
        if len(lead) != offset:
            raise ValueError(f"lead has {len(lead)} bytes, must have {offset}, the value of offset")
        self._header_bytes = header_bytes
        self._byteorder: ByteOrder = byteorder
        self._offset = offset
        self._header = lead + bytes(header_bytes)
        self._header_size = offset + header_bytes
        self._added = adjustment - (self._header_size if includes_header else 0)
        self._strip = self._checked_strip(strip)
        self._has_more = bool(offset) or self._strip < header_bytes
        self._read = _reader(header_bytes, byteorder)

    def _checked_strip(self, strip: int | None) -> int:
        if strip is None:
            return 0 if self._offset else self._header_size
        if not 0 <= strip <= self._header_size:
            raise ValueError(f"strip is {strip}, must be from 0 to {self._header_size}, the size of the header")
        return strip

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        body = start + self._header_size
        if len(buffer) < body:
            return None
        end = body + self._added + self._read(buffer, start + self._offset)[0]
        if end < body:
            raise self._fail(self._negative(end - body - self._added))
        return start + self._strip, end, end

    def _negative(self, length: int) -> InvalidHeader:
        if self._added == -self._header_size:
            return InvalidHeader(f"length {length} is less than the {self._header_size} bytes of its own header")
        return InvalidHeader(f"length {length} is less than {-self._added}, which the adjustment subtracts")

    def encode(self, message: bytes) -> bytes:
        """Return the frame; ValueError if its length does not fit, or if the message is shorter than its header."""
        try:
            if self._has_more:
                return self._encode_header(message)
            return (len(message) - self._added).to_bytes(self._header_bytes, self._byteorder) + message
        except OverflowError:
            raise self._does_not_fit(len(message)) from None
        except (TypeError, KeyError):
            raise not_bytes(self, message) from None

    def _encode_header(self, message: bytes) -> bytes:
        """Return the frame if the header is more than a length: the part that `strip` removes, and the rest."""
        given = self._header_size - self._strip
        header = self._header[: self._strip] + message[:given]
        if len(message) < given:
            raise ValueError(f"message of {len(message)} bytes, must begin with {given} bytes of its header")
        try:
            field = (len(message) - given - self._added).to_bytes(self._header_bytes, self._byteorder)
        except OverflowError:
            raise self._does_not_fit(len(message)) from None
        return header[: self._offset] + field + message[given:]

    def _does_not_fit(self, size: int) -> ValueError:
        return ValueError(f"message of {size} bytes does not fit a {self._header_bytes}-byte length field")


def _reader(header_bytes: int, byteorder: ByteOrder) -> Any:
    """Return a function (buffer, position) that reads the length there; the result is a tuple of one item.

    struct reads in place, in half the time of a slice and int.from_bytes().
    """
    if _FORMATS[header_bytes]:
        return struct.Struct((">" if byteorder == "big" else "<") + _FORMATS[header_bytes]).unpack_from
    return lambda buffer, at: (int.from_bytes(buffer[at : at + header_bytes], byteorder),)
