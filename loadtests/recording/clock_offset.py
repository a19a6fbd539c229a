"""What one host's monotonic clock lacks to another's, from messages that went there and back. Pure.

A message that leaves at s, finds the other clock at m, and is back at r, was there at some time between: the offset is
m - (s + r) / 2, give or take (r - s) / 2. The quickest of several says it best, for it waited least on the way. On one
host the processes share a clock; an offset that could as well be none is taken as none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Clock", "Reading"]

# So many readings are remembered: enough to have a quick one among them, few enough to follow clocks that drift apart.
READINGS = 16


@dataclass(frozen=True)
class Reading:
    """One exchange of messages, in nanoseconds: both ends by the own clock, and what the other one said."""

    sent_ns: int
    other_ns: int
    received_ns: int

    @property
    def uncertainty_ns(self) -> int:
        return (self.received_ns - self.sent_ns + 1) // 2

    @property
    def offset_ns(self) -> int:
        return self.other_ns - (self.sent_ns + self.received_ns) // 2


class Clock:
    """What is known of the other clock: add `offset_ns` to the own one to have it, give or take `uncertainty_ns`."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self.uncertainty_ns = 0
        self._readings: deque[Reading] = deque(maxlen=READINGS)

    def take(self, reading: Reading) -> None:
        self._readings.append(reading)
        best = min(self._readings, key=lambda each: each.uncertainty_ns)
        self.uncertainty_ns = best.uncertainty_ns
        self.offset_ns = 0 if abs(best.offset_ns) <= best.uncertainty_ns else best.offset_ns

    @property
    def readings(self) -> int:
        return len(self._readings)
