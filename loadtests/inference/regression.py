"""A straight line through points, and how sure its slope is. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slope", "fitted_slope"]


@dataclass(frozen=True)
class Slope:
    """dy/dx, with its 95 % confidence interval; None on both sides where two points leave nothing to judge it by."""

    value: float
    low: float | None = None
    high: float | None = None


def fitted_slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Least squares through (x, y); None where no slope is to be had: fewer than two different x."""
    count = len(points)
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = (sum(each) / count for each in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if count < 3:
        return Slope(slope)
    from scipy.special import stdtrit  # half a second, which a command that fits nothing does not wait

    off_line = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    half = float(stdtrit(count - 2, 0.975)) * math.sqrt(off_line / (count - 2) / spread)
    return Slope(slope, slope - half, slope + half)
