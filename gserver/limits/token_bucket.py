"""A token bucket: a rate per second, with a burst. Pure; the clock is an argument."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """So many tokens a second, and at most `burst` of them saved up. It begins full."""

    __slots__ = ("_balance", "_burst", "_counted_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._balance = burst
        self._counted_at: float | None = None

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens, or none if there are not so many. Of more than a burst, the rest is owed."""
        self._count(now)
        if self._balance < min(amount, self._burst):
            return False
        self._balance -= amount
        return True

    def spend(self, now: float, amount: float) -> float:
        """Take `amount` tokens whether they are there or not; return in how many seconds none is owed any more."""
        self._count(now)
        self._balance -= amount
        return max(0.0, -self._balance / self._rate)

    def _count(self, now: float) -> None:
        if self._counted_at is not None and now > self._counted_at:
            self._balance = min(self._burst, self._balance + (now - self._counted_at) * self._rate)
        self._counted_at = now if self._counted_at is None else max(now, self._counted_at)
