"""The counters: what a server has counted. accepted == open + sum(closed by reason), at every moment.

The counts stand in cells that may be shared memory, so that others can read them and they survive their process.
Connections, messages and errors are exact at every moment; bytes are counted by each connection and entered when
somebody wants to know, for that costs the path of a message nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from gserver.errors import CloseReason

__all__ = [
    "ACCEPTED",
    "CELLS",
    "ERRORS",
    "MESSAGES",
    "OPEN",
    "RECEIVED",
    "SENT",
    "Cells",
    "Counters",
    "closed_cell",
    "snapshot",
]

ACCEPTED, OPEN, MESSAGES, ERRORS, RECEIVED, SENT = range(6)
_FIRST_REASON = 6
_REASONS = {reason: _FIRST_REASON + index for index, reason in enumerate(CloseReason)}
#: How many cells a counters needs.
CELLS = _FIRST_REASON + len(_REASONS)


class Cells(Protocol):
    """Numbers, by index: a list, or a memoryview of shared memory."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class _Carrier(Protocol):
    received_bytes: int
    sent_bytes: int


def closed_cell(reason: CloseReason) -> int:
    """Where the connections that ended for `reason` are counted."""
    return _REASONS[reason]


def snapshot(cells: memoryview) -> list[int]:
    """A copy in which accepted == open + closed, though the owner goes on counting: who is between two cells is open.

    A connection is counted as accepted before all else, so that reading what has closed first never finds too many.
    """
    closed = cells[_FIRST_REASON:CELLS].tolist()
    counts = cells[:_FIRST_REASON].tolist()
    counts[OPEN] = counts[ACCEPTED] - sum(closed)
    return counts + closed


class Counters:
    """Counts what came in, what was done, and how it ended; several servers of one process may share one.

    Args:
        cells: where to count; at least CELLS zeros. Default: a list of its own.
    """

    def __init__(self, cells: Cells | None = None) -> None:
        self.cells: Cells = memoryview(bytearray(8 * CELLS)).cast("q") if cells is None else cells
        self._received = self._sent = 0  # by connections that are closed

    @property
    def accepted(self) -> int:
        return self.cells[ACCEPTED]

    @property
    def open(self) -> int:
        return self.cells[OPEN]

    @property
    def messages(self) -> int:
        return self.cells[MESSAGES]

    @property
    def errors(self) -> int:
        """Handlers that raised, and peers that broke the framing."""
        return self.cells[ERRORS]

    @property
    def closed(self) -> Counter[CloseReason]:
        return Counter({reason: count for reason, cell in _REASONS.items() if (count := self.cells[cell])})

    def opened(self) -> None:
        self.cells[ACCEPTED] += 1
        self.cells[OPEN] += 1

    def ended(self, reason: CloseReason, received_bytes: int = 0, sent_bytes: int = 0) -> None:
        cell = _REASONS[reason]
        self.cells[OPEN] -= 1
        self.cells[cell] += 1
        self._received += received_bytes
        self._sent += sent_bytes

    def failed(self) -> None:
        self.cells[ERRORS] += 1

    def enter_bytes(self, connections: Iterable[_Carrier]) -> None:
        """Count the bytes of all closed connections and of these, which are all that are open."""
        received, sent = self._received, self._sent
        for conn in connections:
            received += conn.received_bytes
            sent += conn.sent_bytes
        self.cells[RECEIVED], self.cells[SENT] = received, sent

    def check(self) -> None:
        """AssertionError if a connection was counted twice or not at all."""
        assert self.accepted == self.open + self.closed.total(), self
        assert self.open >= 0, self

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason.value} {count}" for reason, count in self.closed.most_common())
        return f"accepted {self.accepted}, open {self.open}, closed: {reasons or 'none'}"
