"""Find the places where the level of a series changes permanently. Pure.

Binary segmentation: take the split at which the ranks before and after it differ most. It is a change point if random
permutations of the series rarely have as large a difference at any split. Then search both parts in the same way. Ranks
make it robust against outliers. The comparison over all splits accounts for the search for the best one. The seed of
the permutations is fixed, so the result is reproducible.
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
#: The least number of values on either side of a change.
FEWEST = 3
PERMUTATIONS = 1999


@dataclass(frozen=True)
class ChangePoint:
    """A change of level. `at` is the first value of the new level; before and after are medians; p is its p-value."""

    at: int
    before: float
    after: float
    p: float

    @property
    def change(self) -> float | None:
        """The change as a fraction; None if the level before was 0."""
        return self.after / self.before - 1 if self.before else None


def change_points(values: Sequence[float], alpha: float = 0.01) -> list[ChangePoint]:
    """The change points of a series, in order. `alpha`: the probability of a false one in a series without changes."""
    series = np.asarray(values, dtype=float)
    found = sorted(_within(series, 0, len(series), alpha, np.random.default_rng(0)))
    ends = [0, *(at for at, _ in found), len(series)]
    return [
        ChangePoint(at, median(values[ends[place] : at]), median(values[at : ends[place + 2]]), p)
        for place, (at, p) in enumerate(found)
    ]


def fewest(alpha: float) -> int:
    """The least number of values that can prove a change. With fewer, even the clearest one is too likely by chance."""
    # The probability that all low values come before or after all high ones; an odd count has twice as many splits.
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
    """For each row and split: the deviation of the rank sum before it from its expectation, in standard deviations."""
    count = ranks.shape[1]
    before = np.arange(FEWEST, count - FEWEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, before - 1]
    deviations = np.sqrt(before * (count - before) / (count * (count - 1)) * ((ranks[0] - ranks[0].mean()) ** 2).sum())
    distances: Values = np.abs(sums - before * ranks[0].mean()) / deviations
    return distances
