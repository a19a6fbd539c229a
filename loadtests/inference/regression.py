"""Fit a straight line, with a confidence interval for its slope. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slope", "fitted_slope"]


@dataclass(frozen=True)
class Slope:
    """A slope dy/dx with its 95 % confidence interval; low and high are None if there were only two points."""

    value: float
    low: float | None = None
    high: float | None = None


def fitted_slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """The least-squares line through (x, y); None if there are fewer than two different x."""
    count = len(points)
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = (sum(each) / count for each in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if count < 3:
        return Slope(slope)
    from scipy.special import stdtrit  # takes 0.5 s, so only imported by commands that need it

    off_line = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    half = float(stdtrit(count - 2, 0.975)) * math.sqrt(off_line / (count - 2) / spread)
    return Slope(slope, slope - half, slope + half)
