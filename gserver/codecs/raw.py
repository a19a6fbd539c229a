"""Raw: no framing. A message is the bytes that arrived together; TCP does not preserve such boundaries."""

from __future__ import annotations

from gserver.codecs.wrong_type import not_bytes

__all__ = ["Raw"]


class Raw:
    """Delivers bytes as they arrive: each byte once, and in order. No message is ever incomplete.

    Example:
        assert feed(Raw, [b"ab", b"c"]) == [b"ab", b"c"]
    """

    __slots__ = ("_data", "partial")

    def __init__(self) -> None:
        self._data = b""
        self.partial = False  # never inside a message; a slot, because it is read faster than a class attribute

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
        """Do nothing: raw bytes are never incomplete."""
