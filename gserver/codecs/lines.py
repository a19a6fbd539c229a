"""Lines: a message is the bytes up to LF or CRLF; the terminator is not part of it.

Bytes without a terminator are kept in one growing bytearray. Each byte is searched once, when it arrives, so that a
line that arrives byte by byte costs no more than one that arrives at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gserver.codecs.delimited import DEFAULT_MAX_BYTES, Delimiters, DiscardUpTo
from gserver.codecs.malformed import Malformed
from gserver.codecs.size_limit import Overflow, SizeLimited
from gserver.codecs.wrong_type import not_bytes

__all__ = ["DEFAULT_MAX_BYTES", "Lines"]

ENDS = Delimiters(b"\n", b"\r\n")


class Lines(SizeLimited):
    """Lines of bytes.

    Args:
        max_bytes: longest line accepted, without its terminator; default 64 KiB.
        crlf: end encoded lines with CRLF instead of LF. Both are always accepted.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest line that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(Lines, b"one\\r\\ntwo\\n") == [b"one", b"two"]
    """

    __slots__ = ("_complete", "_crlf")

    unit = "line"

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        crlf: bool = False,
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard, least=1)
        self._crlf = crlf
        self._complete = b""  # complete lines that messages() has not delivered

    def receive(self, data: bytes) -> None:
        if self._pending is not None:
            data = self._take(data)
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._keep(data)
        elif end == len(data) and not self.partial and not self._complete:
            self._complete = data
        else:
            self._complete += bytes(self.partial) + data[:end]
            self.partial = b""
            self._keep(data[end:])

    def _keep(self, data: bytes) -> None:
        if not self.partial:
            self.partial = bytearray(data) if data else b""
        elif data:
            self.partial += data

    def messages(self) -> Iterable[bytes | Malformed]:
        complete = self._complete
        if self._pending is not None or len(complete) > self._max_bytes or len(self.partial) > self._max_bytes:
            return self._checked_messages()
        if not complete:
            return ()
        self._complete = b""
        if b"\r" in complete:
            return [line.removesuffix(b"\r") for line in complete[:-1].split(b"\n")]
        return complete[:-1].split(b"\n")

    def _checked_messages(self) -> Iterator[bytes | Malformed]:
        """Yield the lines one by one, and check the size of each; needed only if more than the maximum has arrived."""
        if self._pending is not None:
            report = self._take_report()
            if report is None:
                return
            yield report
        complete, self._complete = self._complete, b""
        for line in complete[:-1].split(b"\n") if complete else ():
            line = line.removesuffix(b"\r")
            yield line if len(line) <= self._max_bytes else self._too_large(len(line))
        self._check_partial()

    def _check_partial(self) -> None:
        """Check the size of the incomplete line. A CR at its end may be part of its terminator."""
        least = len(self.partial) - ENDS.partial_size(self.partial)
        if least > self._max_bytes:
            self._too_large(least, "at least ")
            self._discard(DiscardUpTo(ENDS, self.partial))

    def encode(self, message: bytes) -> bytes:
        try:
            if b"\n" in message:
                raise ValueError("a line cannot contain a newline")
            if not self._crlf and message.endswith(b"\r"):
                raise ValueError("a line cannot end with a carriage return: before LF it is part of the terminator")
            return message + (b"\r\n" if self._crlf else b"\n")
        except (TypeError, AttributeError):
            raise not_bytes(self, message) from None
