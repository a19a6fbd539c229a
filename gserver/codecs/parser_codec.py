"""ParserCodec: a codec of your own, written as a function that reads one message from its first byte to its last.

The function is a generator. It stops where the bytes end, and continues there when more have arrived, so no byte is
parsed twice, however a message is cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError

__all__ = ["ParserCodec"]


class ParserCodec:
    """Derive a codec from it, with two methods: parse() reads a message, encode() returns the bytes of one.

    All that gserver.codecs demands of a codec beyond these two is done here. A subclass with an __init__() of its own
    calls super().__init__().

    Example:
        class Pairs(ParserCodec):
            # A key up to "=", a byte with the size of the value, and the value.

            def parse(self):
                key = yield from self.read_until(b"=", max_bytes=100)
                (size,) = yield from self.read(1)
                return key, (yield from self.read(size))

            def encode(self, message):
                key, value = message
                return b"%b=%c%b" % (key, len(value), value)

        assert feed(Pairs, b"name=\\3adaage=\\00236") == [(b"name", b"ada"), (b"age", b"36")]
        check_codec(Pairs, [(b"name=\\3ada", [(b"name", b"ada")])])
    """

    def __init__(self) -> None:
        self.partial = False
        self._buffer = bytearray()  # received, and not read by parse()
        self._parsing: Generator[None, None, Any] | None = None  # of the message that is incomplete
        self._error: ProtocolError | None = None

    def parse(self) -> Generator[None, None, Any]:
        """Read one message, by `yield from self.read(...)` and `yield from self.read_until(...)`, and return it.

        Return None for bytes that are no message and are to be ignored, such as an empty line. Return a Malformed for a
        message whose content is invalid. Raise a ProtocolError for bytes that cannot be a message: the connection ends.

        Check a length before you read so many bytes, because a peer may announce any.
        """
        raise NotImplementedError

    def encode(self, message: Any) -> bytes:
        """Return the bytes of a message. TypeError or ValueError for one that cannot be encoded."""
        raise NotImplementedError

    def read(self, size: int) -> Generator[None, None, bytes]:
        """Read exactly `size` bytes. Use it in parse(), with `yield from`."""
        while len(self._buffer) < size:
            yield
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_until(self, end: bytes, max_bytes: int) -> Generator[None, None, bytes]:
        """Read up to `end`, and return the bytes before it. Use it in parse(), with `yield from`.

        FrameTooLarge if it does not come after `max_bytes` bytes at the latest.
        """
        searched, most = 0, max_bytes + len(end)
        while (found := self._buffer.find(end, searched, most)) < 0:
            if len(self._buffer) >= most:
                raise FrameTooLarge(f"no {end!r} after {max_bytes} bytes")
            searched = max(0, len(self._buffer) - len(end) + 1)
            yield
        data = yield from self.read(found + len(end))
        return data[:found]

    def receive(self, data: bytes) -> None:
        self._raise_error()
        self._buffer += data

    def messages(self) -> Iterator[Any]:
        self._raise_error()
        while self._parsing is not None or self._buffer:
            if self._parsing is None:
                self._parsing = self.parse()
            size = len(self._buffer)
            try:
                next(self._parsing)
            except StopIteration as returned:
                message, self._parsing = returned.value, None
            except ProtocolError as error:
                self._fail(error)
            else:
                self.partial = True
                return
            if not self.partial and len(self._buffer) == size:
                raise RuntimeError(f"{type(self).__name__}.parse() has read nothing, and would be called for ever")
            self.partial = False
            if message is not None:
                yield message
        self.partial = False

    def eof(self) -> None:
        self._raise_error()
        if self.partial:
            self._fail(IncompleteMessage("the peer stopped inside a message"))

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, error: ProtocolError) -> None:
        self._error, self.partial, self._parsing = error, False, None
        self._buffer.clear()
        raise error
