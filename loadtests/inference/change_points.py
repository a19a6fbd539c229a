"""Where the level of a series changes for good. Pure.

Binary segmentation: the split of a series at which the ranks before and behind it differ most, over all splits; it is a
change if chance rarely makes as large a difference anywhere, which is told by permuting the series. Then both parts
likewise. By ranks, so that one wild run makes no change; over all splits at once, so that looking for the best one is
paid for. The permutations are always the same, and so is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["ChangePoint", "change_points", "fewest"]

Values = NDArray[np.float64]
#: Of a part, on either side of a change.
FEWEST = 3
PERMUTATIONS = 1999


@dataclass(frozen=True)
class ChangePoint:
    """From `at` on the level is another: the medians of the parts on either side, and how rarely chance does that."""

    at: int
    before: float
    after: float
    p: float

    @property
    def change(self) -> float | None:
        """As a fraction; None where the level was 0."""
        return self.after / self.before - 1 if self.before else None


def change_points(values: Sequence[float], alpha: float = 0.01) -> list[ChangePoint]:
    """The changes of a series, in order; of one that has none, at most `alpha` are said to have one."""
    series = np.asarray(values, dtype=float)
    found = sorted(_within(series, 0, len(series), alpha, np.random.default_rng(0)))
    ends = [0, *(at for at, _ in found), len(series)]
    return [
        ChangePoint(at, median(values[ends[place] : at]), median(values[at : ends[place + 2]]), p)
        for place, (at, p) in enumerate(found)
    ]


def fewest(alpha: float) -> int:
    """How many values it takes at least to see any change: with fewer, chance does the clearest of all too often."""
    # Of all orders so many have all low values before all high ones, or behind them: twice as many splits if odd.
    return next(
        count for count in range(2 * FEWEST, 100) if (4 if count % 2 else 2) / math.comb(count, count // 2) <= alpha
    )


def _within(series: Values, start: int, end: int, alpha: float, chance: np.random.Generator) -> list[tuple[int, float]]:
    """(place, p) of each change between `start` and `end`."""
    if end - start < 2 * FEWEST:
        return []
    ranks = stats.rankdata(series[start:end])
    if np.ptp(ranks) == 0:
        return []
    differences = _differences(ranks[np.newaxis, :])[0]
    permuted = chance.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    as_large = int((_differences(permuted).max(axis=1) >= differences.max() - 1e-9).sum())
    p = (1 + as_large) / (1 + PERMUTATIONS)
    if p > alpha:
        return []
    at = start + FEWEST + int(differences.argmax())
    return [(at, p), *_within(series, start, at, alpha, chance), *_within(series, at, end, alpha, chance)]


def _differences(ranks: Values) -> Values:
    """For each row and each split how far the sum of the ranks before it is from what chance expects, in deviations."""
    count = ranks.shape[1]
    before = np.arange(FEWEST, count - FEWEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, before - 1]
    deviations = np.sqrt(before * (count - before) / (count * (count - 1)) * ((ranks[0] - ranks[0].mean()) ** 2).sum())
    distances: Values = np.abs(sums - before * ranks[0].mean()) / deviations
    return distances
