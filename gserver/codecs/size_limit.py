"""Base class of the codecs with a maximum size: rejects or discards messages that are too long.

overflow="close" (the default): the codec raises FrameTooLarge as soon as the message is certainly too long.
overflow="discard": the message is discarded as it arrives; one Malformed is delivered at its end, and the next message
follows. A message longer than max_discard raises FrameTooLarge all the same. Otherwise a length of 2**63, or a line
that never ends, would keep a connection open that does no work.

`_pending` is set after a ProtocolError, while a message is discarded, and until the Malformed is delivered. In all
other cases, the cost of this class is one test in receive() and one in messages().
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from gserver.codecs.malformed import Malformed
from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError

__all__ = ["Discard", "Overflow", "SizeLimited"]

Overflow = Literal["close", "discard"]

# Default of max_discard: DISCARD_TIMES max_bytes, and at least DISCARD_BYTES.
DISCARD_BYTES = 1024 * 1024
DISCARD_TIMES = 16
#: The value of `partial` while a message is discarded: only its truth matters.
NOT_KEPT = b"discarding"


class Discard(Protocol):
    """A message that is being discarded."""

    size: int  # of the whole message, after its end
    received: int  # bytes that have arrived, with the header

    def take(self, data: bytes) -> bytes | None:
        """Return the bytes after the message; None before its end. ProtocolError if its end is wrong."""

    def min_size(self) -> int:
        """Return the minimum size of the message, in bytes, from what has arrived."""


class SizeLimited:
    """A codec with a maximum size. `unit` is the word for a message in its errors."""

    __slots__ = ("_max_bytes", "_max_discard", "_pending", "partial")

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
        self._pending: ProtocolError | Discard | Malformed | None = None

    def eof(self) -> None:
        pending = self._pending
        if isinstance(pending, ProtocolError):
            raise pending
        if self.partial:
            received = len(self.partial) if pending is None or isinstance(pending, Malformed) else pending.received
            raise self._fail(IncompleteMessage(f"the peer stopped {received} bytes into a {self.unit}"))

    def _fail(self, error: ProtocolError) -> ProtocolError:
        self._pending = error
        self.partial = b""
        return error

    def _too_large(self, size: int, at_least: str = "") -> Malformed:
        """Return the Malformed for a message above the maximum; FrameTooLarge if it is also above max_discard."""
        text = f"{self.unit} of {at_least}{size} bytes, the limit is {self._max_bytes}"
        if size > self._max_discard:
            raise self._fail(FrameTooLarge(text))
        return Malformed(text, text)

    def _discard(self, discard: Discard) -> None:
        self._pending = discard
        self.partial = NOT_KEPT

    def _take(self, data: bytes) -> bytes:
        """Discard from `data`, and return the rest. Errors that are found here are raised by the next messages()."""
        pending = self._pending
        if isinstance(pending, ProtocolError):
            raise pending
        if pending is None or isinstance(pending, Malformed):
            return data
        try:
            rest = pending.take(data)
            if rest is None:
                return b""
            self._pending = self._too_large(pending.size)
        except ProtocolError as error:
            self._fail(error)
            return b""
        self.partial = b""
        return rest

    def _take_report(self) -> Malformed | None:
        """Return the Malformed for a discarded message, if it has ended. Raises the error if there is one."""
        pending = self._pending
        if isinstance(pending, ProtocolError):
            raise pending
        if isinstance(pending, Malformed):
            self._pending = None
            return pending
        if pending is not None and pending.min_size() > self._max_discard:
            self._too_large(pending.min_size(), "at least ")
        return None
