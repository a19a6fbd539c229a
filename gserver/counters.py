"""The counters of a server. At every moment, accepted == open + sum(closed by reason).

The time of handlers is sampled: one message of SAMPLED_ONE_OF, also in cells, as a histogram and a sum. Calls of
gserver.offload and messages of gserver.bus are counted in cells too.

The counts stand in cells that may be shared memory, so that other processes can read them and they outlive their own
process. Connections, messages and errors are exact at every moment. Bytes are counted by each connection, and added up
only when the totals are read, so that they cost the path of a message nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gserver.errors import CloseReason

__all__ = [
    "ACCEPTED",
    "BUS_EVENTS",
    "CELLS",
    "ERRORS",
    "HANDLER_NS",
    "MESSAGES",
    "OFFLOAD_EVENTS",
    "OPEN",
    "RECEIVED",
    "SAMPLED_ONE_OF",
    "SENT",
    "SHORTEST_NS",
    "TIME_BUCKETS",
    "Cells",
    "Counters",
    "bus_cell",
    "bus_counts",
    "closed_cell",
    "handler_seconds",
    "handler_times",
    "offload_cell",
    "offload_counts",
    "snapshot",
]

ACCEPTED, OPEN, MESSAGES, ERRORS, RECEIVED, SENT = range(6)
_FIRST_REASON = 6
_REASONS = {reason: _FIRST_REASON + index for index, reason in enumerate(CloseReason)}
#: The cell with the time of all sampled handlers, in nanoseconds. The cells of their histogram follow.
HANDLER_NS = _FIRST_REASON + len(_REASONS)
_FIRST_TIME = HANDLER_NS + 1
#: The histogram of handler times: below 16 us, 32 us, 64 us and so on to 67 s, and one bucket for the rest.
TIME_BUCKETS = 24
SHORTEST_NS = 16_000
_NANOSECONDS = 1_000_000_000
_FIRST_OFFLOAD = _FIRST_TIME + TIME_BUCKETS
#: What is counted of calls of gserver.offload, by pool. A thread cannot die.
OFFLOAD_EVENTS = {"thread": ("calls", "refused", "timeouts"), "process": ("calls", "refused", "timeouts", "died")}
_OFFLOAD = {
    pair: _FIRST_OFFLOAD + index
    for index, pair in enumerate((pool, event) for pool, events in OFFLOAD_EVENTS.items() for event in events)
}
_FIRST_BUS = _FIRST_OFFLOAD + len(_OFFLOAD)
#: What is counted of the messages of gserver.bus: those of publish(), how many connections got one, and how many
#: workers or connections missed one.
BUS_EVENTS = ("published", "delivered", "dropped")
_BUS = {event: _FIRST_BUS + index for index, event in enumerate(BUS_EVENTS)}
#: How many cells Counters needs.
CELLS = _FIRST_BUS + len(_BUS)
#: Of so many messages of a message loop, the handler of one is timed. It is a prime: a client that sends messages in a
#: fixed order, such as 16 at a time, does not always have the same one timed.
SAMPLED_ONE_OF = 61


class Cells(Protocol):
    """Integers by index: a list, or a memoryview of shared memory."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class _Carrier(Protocol):
    received_bytes: int
    sent_bytes: int


def closed_cell(reason: CloseReason) -> int:
    """The index of the cell that counts the connections closed for `reason`."""
    return _REASONS[reason]


def snapshot(cells: memoryview) -> list[int]:
    """Copy the cells while their process goes on counting; in the copy, accepted == open + closed.

    A connection between two counters is counted as open. A connection is counted as accepted before anything else, so
    the cells of closed connections are read first: then there are never more of them than accepted ones.
    """
    closed = cells[_FIRST_REASON:HANDLER_NS].tolist()
    counts = cells[:_FIRST_REASON].tolist()
    counts[OPEN] = counts[ACCEPTED] - sum(closed)
    return counts + closed + cells[HANDLER_NS:CELLS].tolist()


def handler_times(cells: Cells) -> dict[float, int]:
    """By upper bound in seconds: how many sampled handlers took less, and not less than the previous bound.

    The last bound is infinity. Buckets are never left out: a monitor needs the same ones each time.
    """
    bounds = [SHORTEST_NS * 2**bucket / _NANOSECONDS for bucket in range(TIME_BUCKETS - 1)] + [math.inf]
    return {bound: cells[_FIRST_TIME + bucket] for bucket, bound in enumerate(bounds)}


def offload_cell(pool: str, event: str) -> int:
    """The index of the cell that counts an event of OFFLOAD_EVENTS."""
    return _OFFLOAD[pool, event]


def offload_counts(cells: Cells) -> dict[str, dict[str, int]]:
    """By pool and event: how many there were."""
    return {pool: {event: cells[_OFFLOAD[pool, event]] for event in events} for pool, events in OFFLOAD_EVENTS.items()}


def bus_cell(event: str) -> int:
    """The index of the cell that counts one of BUS_EVENTS."""
    return _BUS[event]


def bus_counts(cells: Cells) -> dict[str, int]:
    """By event: how many there were."""
    return {event: cells[cell] for event, cell in _BUS.items()}


def handler_seconds(cells: Cells) -> float:
    """The time of all sampled handlers together."""
    return cells[HANDLER_NS] / _NANOSECONDS


class Counters:
    """Counts connections, messages, errors and bytes. Several servers of one process may share one object.

    Args:
        cells: where to count; at least CELLS zeros. Default: memory of its own.
    """

    def __init__(self, cells: Cells | None = None) -> None:
        self.cells: Cells = memoryview(bytearray(8 * CELLS)).cast("q") if cells is None else cells
        self._received = self._sent = 0  # bytes of closed connections

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
        """How often a handler raised, or a peer sent invalid framing or content."""
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

    def timed(self, handler: Callable[..., Any], *arguments: Any) -> Any:
        """Call a handler, and count its time."""
        began = time.monotonic_ns()
        try:
            return handler(*arguments)
        finally:
            self.handler_took(time.monotonic_ns() - began)

    def handler_took(self, nanoseconds: int) -> None:
        """Count the time of one sampled handler: wall time, with all its waiting."""
        self.cells[HANDLER_NS] += nanoseconds
        self.cells[_FIRST_TIME + min((nanoseconds // SHORTEST_NS).bit_length(), TIME_BUCKETS - 1)] += 1

    def enter_bytes(self, connections: Iterable[_Carrier]) -> None:
        """Write the totals of bytes: of the closed connections, and of `connections`, which must be all open ones."""
        received, sent = self._received, self._sent
        for conn in connections:
            received += conn.received_bytes
            sent += conn.sent_bytes
        self.cells[RECEIVED], self.cells[SENT] = received, sent

    def check(self) -> None:
        """Raise AssertionError if a connection was counted twice or not at all."""
        assert self.accepted == self.open + self.closed.total(), self
        assert self.open >= 0, self

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason.value} {count}" for reason, count in self.closed.most_common())
        return f"accepted {self.accepted}, open {self.open}, closed: {reasons or 'none'}"
