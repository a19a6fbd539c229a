"""The offset between two hosts' monotonic clocks, from messages that travel there and back. Pure.

Such clocks start at different times and do not run at quite the same rate. A message leaves at s, is answered when the
other clock shows m, and is back at r. The offset is m - (s + r) / 2, with an uncertainty of (r - s) / 2. The quickest
of the recent messages gives the best estimate, because it spent the least time waiting on its way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["ClockOffset", "Reading"]

# Enough readings for a quick one among them, few enough to follow clocks that drift apart.
READINGS = 16


@dataclass(frozen=True)
class Reading:
    """One message there and back, in nanoseconds: sent and received by this clock, and the other clock in between."""

    sent_ns: int
    other_ns: int
    received_ns: int

    @property
    def uncertainty_ns(self) -> int:
        return (self.received_ns - self.sent_ns + 1) // 2

    @property
    def offset_ns(self) -> int:
        return self.other_ns - (self.sent_ns + self.received_ns) // 2


class ClockOffset:
    """How far another clock is ahead of this one, by the quickest of recent readings.

    Args:
        window_ns: how long a reading is used; default None: the last 16 readings are used, whatever their age.
        may_be_same_clock: the processes may be on one host and share a clock, so an offset within its uncertainty is
            taken as 0; default True.

    Attributes:
        offset_ns: add it to this clock to get the other one; 0 without a reading.
        uncertainty_ns: the offset of the best reading is wrong by no more than this.
    """

    def __init__(self, window_ns: int | None = None, may_be_same_clock: bool = True) -> None:
        self.offset_ns = 0
        self.uncertainty_ns = 0
        self._window_ns = window_ns
        self._may_be_same_clock = may_be_same_clock
        self._readings: deque[Reading] = deque(maxlen=READINGS if window_ns is None else None)

    def add(self, reading: Reading) -> None:
        """Take a reading into account."""
        self._readings.append(reading)
        if self._window_ns is not None:
            while self._readings[0].received_ns < reading.received_ns - self._window_ns:
                self._readings.popleft()
        best = min(self._readings, key=lambda each: each.uncertainty_ns)
        is_zero = self._may_be_same_clock and abs(best.offset_ns) <= best.uncertainty_ns
        self.offset_ns, self.uncertainty_ns = 0 if is_zero else best.offset_ns, best.uncertainty_ns

    @property
    def readings(self) -> int:
        """How many readings are in use."""
        return len(self._readings)
