"""When the next exchange of a user is due. Pure arithmetic on a clock of the caller's, in seconds."""

from __future__ import annotations

__all__ = ["Schedule"]


class Schedule:
    """A tick every `period_s` seconds, the first one `phase` of a period after `start_s`.

    A tick that was missed is not forgotten: it is due at once. So the rate holds over time, and a server that stalls is
    asked afterwards for what it kept waiting. A phase of its own for each user keeps users that start together apart.

    Args:
        period_s: seconds between two ticks; more than 0.
        phase: 0 up to 1.
    """

    def __init__(self, period_s: float, phase: float, start_s: float) -> None:
        if period_s <= 0:
            raise ValueError(f"period_s is {period_s}, must be more than 0")
        self._period_s = period_s
        self._next_s = start_s + phase * period_s

    def wait_s(self, now_s: float) -> float:
        """Seconds to wait for the next tick, 0 if it is due already; each call takes one tick."""
        due_s, self._next_s = self._next_s, self._next_s + self._period_s
        return max(0.0, due_s - now_s)
