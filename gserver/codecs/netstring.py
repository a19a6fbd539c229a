"""Netstring: `5:hello,` (https://cr.yp.to/proto/netstrings.txt): the length in decimal, a colon, the message, a comma.

As strict as the specification: digits only, no leading zero; the comma is checked, also after a discarded message. A
length has at most 20 digits, so that the size of a header is limited.
"""

from __future__ import annotations

from gserver.codecs.length_framing import DEFAULT_MAX_BYTES, Frame, LengthFramed, find_decimal
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_bytes
from gserver.errors import InvalidHeader

__all__ = ["Netstring"]


class Netstring(LengthFramed):
    """Messages in netstrings.

    Args:
        max_bytes: longest message accepted, without its length and comma; default 1 MiB.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(Netstring, b"3:one,") == [b"one"]
    """

    __slots__ = ()

    trailer = b","

    def __init__(
        self, max_bytes: int = DEFAULT_MAX_BYTES, *, overflow: Overflow = "close", max_discard: int | None = None
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard)

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        try:
            found = find_decimal(buffer, start, b":")
        except InvalidHeader as error:
            raise self._fail(error) from None
        if found is None:
            return None
        length, colon = found
        begin, end = colon + 1, colon + 1 + length
        if length <= self._max_bytes and len(buffer) > end:
            self._check_end(buffer[end : end + 1], length)
        return begin, end, end + 1

    def encode(self, message: bytes) -> bytes:
        try:
            return b"%d:%b," % (len(message), message)
        except TypeError:
            raise not_bytes(self, message) from None
