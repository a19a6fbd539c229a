"""What the codecs with a maximum share: their trouble, and what becomes of a message that is too long.

overflow="close" (the default): the codec ends with FrameTooLarge as soon as it is certain that the message is too long.
overflow="discard": the message is thrown away as it arrives, is reported by one Malformed at its end, and the stream
goes on behind it. A message longer than max_discard ends the codec with FrameTooLarge nevertheless, else an announced
length of 2**63, or a line that never ends, would keep a connection that does no work for ever.

A codec is in trouble for good (a ProtocolError), while it discards, and until the Malformed is handed over. A healthy
codec tests for that once in receive() and once in messages(), and pays for nothing else of this.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from gserver.codecs.malformed import Malformed
from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError

__all__ = ["Bounded", "Discard", "Overflow"]

Overflow = Literal["close", "discard"]

# The least that max_discard is by default, and how many times max_bytes.
DISCARD_BYTES = 1024 * 1024
DISCARD_TIMES = 16
#: What `partial` holds of a message that is discarded.
NOT_KEPT = b"discarding"


class Discard(Protocol):
    """A message that is being discarded."""

    size: int  # of the whole message, once it has ended
    received: int  # bytes of it, with its header, that have come

    def take(self, data: bytes) -> bytes | None:
        """Return what comes behind the message, None while it has not ended. ProtocolError if its end is wrong."""

    def least(self) -> int:
        """The bytes that the message has at least."""


class Bounded:
    """The state of a codec with a maximum. `unit` is what its errors call a message."""

    __slots__ = ("_max_bytes", "_max_discard", "_trouble", "partial")

    unit: ClassVar[str] = "message"

    def __init__(self, max_bytes: int, overflow: Overflow, max_discard: int | None, least: int = 0) -> None:
        if max_bytes < least:
            raise ValueError(
                f"max_bytes is {max_bytes}, must " + (f"be at least {least}" if least else "not be negative")
            )
        if overflow not in ("close", "discard"):
            raise ValueError(f"overflow is {overflow!r}, must be 'close' or 'discard'")
        if max_discard is None:
            max_discard = max(DISCARD_BYTES, DISCARD_TIMES * max_bytes)
        elif overflow == "close" or max_discard < max_bytes:
            raise ValueError(f"max_discard is {max_discard}, must be at least max_bytes, and overflow 'discard'")
        self._max_bytes = max_bytes
        self._max_discard = max_discard if overflow == "discard" else 0
        self.partial: bytes | bytearray = b""
        self._trouble: ProtocolError | Discard | Malformed | None = None

    def eof(self) -> None:
        trouble = self._trouble
        if isinstance(trouble, ProtocolError):
            raise trouble
        if self.partial:
            received = len(self.partial) if trouble is None or isinstance(trouble, Malformed) else trouble.received
            raise self._fail(IncompleteMessage(f"the peer stopped {received} bytes into a {self.unit}"))

    def _fail(self, error: ProtocolError) -> ProtocolError:
        self._trouble = error
        self.partial = b""
        return error

    def _over(self, size: int, at_least: str = "") -> Malformed:
        """The report of a message that is over the maximum, where it may be discarded; else FrameTooLarge."""
        text = f"{self.unit} of {at_least}{size} bytes, the limit is {self._max_bytes}"
        if size > self._max_discard:
            raise self._fail(FrameTooLarge(text))
        return Malformed(text, text)

    def _discard(self, discard: Discard) -> None:
        self._trouble = discard
        self.partial = NOT_KEPT

    def _take(self, data: bytes) -> bytes:
        """What of `data` comes behind the trouble. Errors that are found here are raised by the next messages()."""
        trouble = self._trouble
        if isinstance(trouble, ProtocolError):
            raise trouble
        if trouble is None or isinstance(trouble, Malformed):
            return data
        try:
            rest = trouble.take(data)
            if rest is None:
                return b""
            self._trouble = self._over(trouble.size)
        except ProtocolError as error:
            self._fail(error)
            return b""
        self.partial = b""
        return rest

    def _settle(self) -> Malformed | None:
        """The report of what was discarded, if its end has come. Raises the error if there is one."""
        trouble = self._trouble
        if isinstance(trouble, ProtocolError):
            raise trouble
        if isinstance(trouble, Malformed):
            self._trouble = None
            return trouble
        if trouble is not None and trouble.least() > self._max_discard:
            self._over(trouble.least(), "at least ")
        return None
