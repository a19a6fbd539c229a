"""Ratios of what was measured side by side: one for each round, then their middle and how far they spread. Pure.

Machines drift from minute to minute, and two servers of one round drift together: the ratio of a round holds where the
figures of two rounds do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "median", "ratios", "spread"]

Value = float | None


@dataclass(frozen=True)
class Spread:
    """The median, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[Value]) -> Spread | None:
    """The middle of the values that there are, and the quartiles; None without any."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) == 1:
        return Spread(present[0], present[0], present[0])
    low, middle, high = statistics.quantiles(present, n=4, method="inclusive")
    return Spread(middle, low, high)


def median(values: Sequence[Value]) -> Value:
    found = spread(values)
    return None if found is None else found.median


def ratios(of: Sequence[Value], to: Sequence[Value]) -> list[Value]:
    """`of` divided by `to`, pair by pair; None where one is missing, or where there is nothing to divide by."""
    return [
        None if one is None or other is None or other <= 0 else one / other for one, other in zip(of, to, strict=True)
    ]
