"""VarintPrefixed: a length as an unsigned LEB128, then the message; the format of protobuf's delimited messages.

Each byte has 7 bits of the length, the lowest first; its top bit is set if another byte follows
(https://protobuf.dev/programming-guides/encoding/#varints).
"""

from __future__ import annotations

from typing import Literal

from gserver.codecs.length_framing import DEFAULT_MAX_BYTES, Frame, LengthFramed
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_bytes
from gserver.errors import InvalidHeader, ProtocolError

__all__ = ["VarintPrefixed"]

_MORE = 0x80


class VarintPrefixed(LengthFramed):
    """Messages after a varint.

    Only the shortest encoding of a length is valid: a longer one, or a length that does not fit `bits`, is an
    InvalidHeader.

    Args:
        bits: maximum width of a length: 32 (default, at most 5 bytes) or 64 (at most 10 bytes).
        max_bytes: longest message accepted, without its header; default 1 MiB.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(VarintPrefixed, b"\\3one") == [b"one"]
    """

    __slots__ = ("_bits",)

    def __init__(
        self,
        bits: Literal[32, 64] = 32,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard)
        if bits not in (32, 64):
            raise ValueError(f"bits is {bits!r}, must be 32 or 64")
        self._bits = bits

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        length = shift = 0
        for position in range(start, len(buffer)):
            byte = buffer[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            begin = position + 1
            if length >> self._bits or (byte & _MORE and shift >= self._bits):
                raise self._invalid(buffer[start:begin], f"exceeds {self._bits} bits")
            if byte == 0 and position > start:
                raise self._invalid(buffer[start:begin], "is overlong")
            if byte < _MORE:
                return begin, begin + length, begin + length
        return None

    def _invalid(self, varint: bytes | bytearray, what: str) -> ProtocolError:
        return self._fail(InvalidHeader(f"the varint {varint.hex(' ')} {what}"))

    def encode(self, message: bytes) -> bytes:
        """Return the length and the message; ValueError if the length does not fit."""
        try:
            length = len(message)
            if length >> self._bits:
                raise ValueError(f"message of {length} bytes does not fit a varint of {self._bits} bits")
            header = bytearray()
            while length >= _MORE:
                header.append(length & 0x7F | _MORE)
                length >>= 7
            header.append(length)
            return bytes(header) + message
        except TypeError:
            raise not_bytes(self, message) from None
