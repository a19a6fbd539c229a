"""Which address to connect to next, and how long to leave a failing one alone. Pure: time and chance are arguments.

After the nth failure in a row an address is left alone for a random time between 0 and `base_s` doubled n - 1 times, at
most `most_s` ("full jitter"): clients that failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Addresses", "delay_s"]

A = TypeVar("A")


def delay_s(failures: int, chance: float, base_s: float, most_s: float) -> float:
    """Return the pause after `failures` failures in a row, in seconds. chance: from 0 to 1."""
    if failures < 1:
        return 0.0
    return chance * min(most_s, base_s * 2.0 ** min(failures - 1, 60))


@dataclass
class _Record:
    failures: int = 0  # in a row
    failed_at: float = float("-inf")
    free_at: float = float("-inf")  # left alone until then


class Addresses(Generic[A]):
    """The addresses of a pool in turn, without those that are left alone."""

    def __init__(self, addresses: Sequence[A], base_s: float, most_s: float) -> None:
        self._addresses = list(addresses)
        self._records = [_Record() for _ in self._addresses]
        self._base_s = base_s
        self._most_s = most_s
        self._next = 0

    def choose(self, now: float) -> tuple[int, float]:
        """Return the number of the next address, and how long to wait before using it, in seconds."""
        count = len(self._addresses)
        in_turn = [(self._next + step) % count for step in range(count)]
        number = min(in_turn, key=lambda each: max(now, self._records[each].free_at))  # the first of equal ones
        self._next = (number + 1) % count
        return number, max(0.0, self._records[number].free_at - now)

    def address(self, number: int) -> A:
        return self._addresses[number]

    def failed(self, number: int, began_at: float, now: float, chance: float) -> None:
        """Count a failure of an attempt that began at `began_at`. Attempts that fail at the same time count once."""
        record = self._records[number]
        if began_at < record.failed_at:
            return
        record.failures += 1
        record.failed_at = now
        record.free_at = now + delay_s(record.failures, chance, self._base_s, self._most_s)

    def succeeded(self, number: int) -> None:
        self._records[number] = _Record()
