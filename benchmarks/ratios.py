"""Ratios of two servers within each round, their median and quartiles. Pure.

The speed of a machine drifts from minute to minute, for both servers of a round alike. So figures are compared within a
round and not between rounds. The ratios only describe; tests of whether two sides differ are in loadtests.inference.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "median", "ratios", "spread"]

Value = float | None


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles (low, high)."""

    median: float
    low: float
    high: float


def spread(values: Sequence[Value]) -> Spread | None:
    """Return the median and the quartiles of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) == 1:
        return Spread(present[0], present[0], present[0])
    low, middle, high = statistics.quantiles(present, n=4, method="inclusive")
    return Spread(middle, low, high)


def median(values: Sequence[Value]) -> Value:
    """Return the median of the values that are not None; None if there are none."""
    found = spread(values)
    return None if found is None else found.median


def ratios(of: Sequence[Value], to: Sequence[Value]) -> list[Value]:
    """Divide `of` by `to`, round by round; None if a value is missing, or if the divisor is 0 or negative."""
    return [
        None if one is None or other is None or other <= 0 else one / other for one, other in zip(of, to, strict=True)
    ]
