"""Raw: no framing. A message is whatever arrived together, which TCP does not promise to keep together."""

from __future__ import annotations

from gserver.codecs.wrong_type import not_bytes

__all__ = ["Raw"]


class Raw:
    """Hands on bytes as they come. Every byte is delivered exactly once and in order; nothing is ever incomplete."""

    __slots__ = ("_data", "partial")

    def __init__(self) -> None:
        self._data = b""
        self.partial = False  # raw bytes have no inside; a slot, for one reads faster than an attribute of the class

    def receive(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data

    def messages(self) -> tuple[bytes, ...]:
        data = self._data
        if not data:
            return ()
        self._data = b""
        return (data,)

    def encode(self, message: bytes) -> bytes:
        if type(message) is bytes:
            return message
        if isinstance(message, bytes | bytearray | memoryview):
            return bytes(message)
        raise not_bytes(self, message)

    def eof(self) -> None:
        """Return: raw bytes have no inside to stop in."""
