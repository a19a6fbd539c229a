"""VarintPrefixed: a length as an unsigned LEB128, then as many bytes of message: protobuf's delimited messages.

Seven bits a byte, the lowest first; the top bit says that another byte follows
(https://protobuf.dev/programming-guides/encoding/#varints).
"""

from __future__ import annotations

from typing import Literal

from gserver.codecs.length_framing import DEFAULT_MAX_BYTES, Announced, Frame
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_bytes
from gserver.errors import InvalidHeader, ProtocolError

__all__ = ["VarintPrefixed"]

_MORE = 0x80


class VarintPrefixed(Announced):
    """Messages behind a varint.

    A length has one encoding, its shortest: an overlong one, or one that does not fit `bits`, is an InvalidHeader.

    Args:
        bits: what a length fits into: 32 (default, at most 5 bytes) or 64 (at most 10).
        max_bytes: longest message accepted, without its header; default 1 MiB.
        overflow: what becomes of a longer one: "close" (default) is FrameTooLarge, "discard" is a Malformed.
        max_discard: longest message that is discarded; default 16 times max_bytes, and at least 1 MiB.
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
        """Return the message behind its length; ValueError if that does not fit."""
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
