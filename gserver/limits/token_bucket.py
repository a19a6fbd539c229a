"""The token bucket: limits a rate per second, and allows bursts. Pure: the clock is an argument."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """A token bucket; full at first.

    Args:
        rate: tokens per second.
        burst: maximum number of tokens in the bucket.
    """

    __slots__ = ("_balance", "_burst", "_rate", "_refilled_at")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._balance = burst
        self._refilled_at: float | None = None

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens and return True; if there are fewer, take none and return False.

        An amount above `burst` needs a full bucket; the balance is then negative.
        """
        self._refill(now)
        if self._balance < min(amount, self._burst):
            return False
        self._balance -= amount
        return True

    def spend(self, now: float, amount: float) -> float:
        """Take `amount` tokens in any case; return the time, in seconds, until the balance is no longer negative."""
        self._refill(now)
        self._balance -= amount
        return max(0.0, -self._balance / self._rate)

    def _refill(self, now: float) -> None:
        if self._refilled_at is not None and now > self._refilled_at:
            self._balance = min(self._burst, self._balance + (now - self._refilled_at) * self._rate)
        self._refilled_at = now if self._refilled_at is None else max(now, self._refilled_at)
