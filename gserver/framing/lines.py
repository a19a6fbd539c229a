"""Lines: a message is the bytes up to LF or CRLF; the terminator is not part of it.

Bytes without a terminator are kept in one growing bytearray and searched once, when they arrive, so that a line that
comes byte by byte costs no more than one that comes whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError

__all__ = ["DEFAULT_MAX_BYTES", "Lines"]

# Precedents: asyncio's streams 64 KiB, Twisted's LineReceiver 16 KiB, Netty and tokio leave it to the user.
DEFAULT_MAX_BYTES = 64 * 1024


class Lines:
    """Newline-framed bytes.

    Args:
        max_bytes: longest line accepted, without its terminator; default 64 KiB.
        crlf: end encoded lines with CRLF instead of LF. Both are always understood.
    """

    __slots__ = ("_complete", "_crlf", "_error", "_max_bytes", "partial")

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, *, crlf: bool = False) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}, must be at least 1")
        self._max_bytes = max_bytes
        self._crlf = crlf
        self._complete = b""  # whole lines that messages() has not handed over
        self.partial: bytes | bytearray = b""  # the line that has not ended
        self._error: ProtocolError | None = None

    def receive(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
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
        else:
            self.partial += data

    def messages(self) -> Iterable[bytes]:
        complete = self._complete
        if self._error is not None or len(complete) > self._max_bytes or len(self.partial) > self._max_bytes:
            return self._checked_messages()
        if not complete:
            return ()
        self._complete = b""
        if b"\r" in complete:
            return [line.removesuffix(b"\r") for line in complete[:-1].split(b"\n")]
        return complete[:-1].split(b"\n")

    def _checked_messages(self) -> Iterator[bytes]:
        """The lines one by one, each held to the maximum: only needed once more than that has arrived together."""
        if self._error is not None:
            raise self._error
        complete, self._complete = self._complete, b""
        for line in complete[:-1].split(b"\n") if complete else ():
            line = line.removesuffix(b"\r")
            if len(line) > self._max_bytes:
                raise self._too_large(f"line of {len(line)} bytes")
            yield line
        # One byte of grace: it may be the CR of a line that is exactly as long as it may be.
        over = len(self.partial) - self._max_bytes
        if over > 1 or (over == 1 and not self.partial.endswith(b"\r")):
            raise self._too_large(f"line of at least {len(self.partial)} bytes")

    def _too_large(self, what: str) -> FrameTooLarge:
        error = FrameTooLarge(f"{what}, the limit is {self._max_bytes}")
        self._fail(error)
        return error

    def _fail(self, error: ProtocolError) -> None:
        self._error = error
        self._complete = self.partial = b""

    def encode(self, message: bytes) -> bytes:
        if b"\n" in message:
            raise ValueError("a line cannot contain a newline")
        if not self._crlf and message.endswith(b"\r"):
            raise ValueError("a line cannot end with a carriage return: before LF it reads as part of the terminator")
        return message + (b"\r\n" if self._crlf else b"\n")

    def eof(self) -> None:
        if self._error is None and self.partial:
            self._fail(IncompleteMessage(f"the peer stopped {len(self.partial)} bytes into a line"))
        if self._error is not None:
            raise self._error
