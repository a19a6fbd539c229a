"""LengthPrefixed: a length in 1, 2, 4 or 8 bytes, then as many bytes of message.

    +--------+---------------------+
    | length | message             |      length counts the message, or with includes_header both
    +--------+---------------------+

A length over the maximum is refused as soon as the header is there, before any of the body is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gserver.errors import FrameTooLarge, IncompleteMessage, InvalidHeader, ProtocolError

__all__ = ["DEFAULT_MAX_BYTES", "LengthPrefixed"]

DEFAULT_MAX_BYTES = 1024 * 1024
_HEADER_SIZES = (1, 2, 4, 8)


class LengthPrefixed:
    """Messages behind their length.

    Args:
        header_bytes: width of the length field: 1, 2, 4 (default) or 8.
        byteorder: "big" (network order, default) or "little".
        max_bytes: longest message accepted, without its header; default 1 MiB.
        includes_header: the length counts its own field too; default False.
    """

    __slots__ = ("_byteorder", "_error", "_header_bytes", "_includes_header", "_max_bytes", "partial")

    def __init__(
        self,
        header_bytes: int = 4,
        byteorder: Literal["big", "little"] = "big",
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        includes_header: bool = False,
    ) -> None:
        if header_bytes not in _HEADER_SIZES:
            raise ValueError(f"header_bytes is {header_bytes!r}, must be one of 1, 2, 4, 8")
        if byteorder not in ("big", "little"):
            raise ValueError(f"byteorder is {byteorder!r}, must be 'big' or 'little'")
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}, must not be negative")
        self._header_bytes = header_bytes
        self._byteorder: Literal["big", "little"] = byteorder
        self._max_bytes = max_bytes
        self._includes_header = includes_header
        self.partial: bytes | bytearray = b""
        self._error: ProtocolError | None = None

    def receive(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        if not self.partial:
            self.partial = data
        elif isinstance(self.partial, bytearray):
            self.partial += data
        else:
            self.partial = bytearray(self.partial)
            self.partial += data

    def messages(self) -> Iterator[bytes]:
        if self._error is not None:
            raise self._error
        buffer, start = self.partial, 0
        while len(buffer) - start >= self._header_bytes:
            body = start + self._header_bytes
            try:
                end = body + self._length(buffer[start:body])
            except ProtocolError as error:
                self._fail(error)
                raise
            if len(buffer) < end:
                break
            start = end
            yield bytes(buffer[body:end])
        self._forget(start)

    def _forget(self, handed_over: int) -> None:
        if handed_over == len(self.partial):
            self.partial = b""
        elif isinstance(self.partial, bytearray):
            del self.partial[:handed_over]
        else:
            self.partial = self.partial[handed_over:]

    def _length(self, header: bytes | bytearray) -> int:
        """The bytes that follow this header."""
        announced = int.from_bytes(header, self._byteorder)
        length = announced - self._header_bytes if self._includes_header else announced
        if length < 0:
            raise InvalidHeader(f"length {announced} is less than the {self._header_bytes} bytes of its own header")
        if length > self._max_bytes:
            raise FrameTooLarge(f"message of {length} bytes, the limit is {self._max_bytes}")
        return length

    def _fail(self, error: ProtocolError) -> None:
        self._error = error
        self.partial = b""

    def encode(self, message: bytes) -> bytes:
        length = len(message) + (self._header_bytes if self._includes_header else 0)
        try:
            return length.to_bytes(self._header_bytes, self._byteorder) + message
        except OverflowError:
            field = f"{self._header_bytes}-byte length field"
            raise ValueError(f"message of {len(message)} bytes does not fit a {field}") from None

    def eof(self) -> None:
        if self._error is None and self.partial:
            self._fail(IncompleteMessage(f"the peer stopped {len(self.partial)} bytes into a message"))
        if self._error is not None:
            raise self._error
