"""Exact rank tests for the difference between two sets of runs, or within pairs of runs. Pure.

Independent sets: the exact Mann-Whitney test. Pairs: the exact Wilcoxon signed-rank test of the differences. Estimates
are those of Hodges and Lehmann. Intervals are order statistics of all differences (sets) or of all Walsh averages
(pairs), picked by the distribution of the same test, so that nothing is assumed about the shape of the noise. SciPy
does the tests. Its exact distributions do not allow ties; for tied values the distribution is counted here.

Values are what the caller compares: logarithms for a ratio. An interval is None if there are too few runs for one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

__all__ = [
    "ALPHA",
    "Interval",
    "Looks",
    "Shift",
    "critical_rank_of_pairs",
    "critical_rank_of_sets",
    "holm",
    "most_looks",
    "noise_floor",
    "pairs_shift",
    "sets_shift",
    "single_shift",
    "smallest_p_of_pairs",
    "smallest_p_of_sets",
]

Interval = tuple[float, float]
Values = NDArray[np.float64]
MOST_COUNTED = 50
#: The highest probability of a false difference between equal sides, over all headline figures together.
ALPHA = 0.05


@dataclass(frozen=True)
class Shift:
    """How far B lies above A.

    Attributes:
        p: p-value of the two-sided test of no difference.
        spread: standard deviation of the noise: of the differences of the pairs, or of the runs within a side.
        tied: True if all values are equal. Then no test can find a difference.
    """

    estimate: float
    interval: Interval | None
    p: float
    spread: float
    tied: bool = False


# Pairs


def pairs_shift(differences: Sequence[float], alpha: float = 0.05) -> Shift:
    """The one-sample shift of the pairs' differences (B less A), with an interval of level 1 - alpha."""
    values = np.asarray(differences, dtype=float)
    walsh = np.sort(_walsh_averages(values))
    rank = critical_rank_of_pairs(len(values), alpha)
    interval = (float(walsh[rank - 1]), float(walsh[-rank])) if rank else None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Shift(float(np.median(walsh)), interval, _signed_rank_p(values), spread, not values.any())


def smallest_p_of_pairs(pairs: int) -> float:
    """The smallest possible p-value: all pairs differ in the same direction."""
    return min(1.0, 2 * 0.5**pairs)


def _walsh_averages(values: Values) -> Values:
    first, second = np.triu_indices(len(values))
    averages: Values = (values[first] + values[second]) / 2
    return averages


def _signed_rank_p(values: Values) -> float:
    values = values[values != 0]
    sizes = np.abs(values)
    if not len(values):
        return 1.0
    if len(np.unique(sizes)) == len(values):
        return float(stats.wilcoxon(values, method="exact").pvalue)
    doubled = np.rint(2 * stats.rankdata(sizes)).astype(int)  # mean ranks of ties are halves
    return _two_sided(_sums_of_subsets(tuple(doubled)), int(doubled[values > 0].sum()))


@functools.lru_cache(maxsize=4096)
def critical_rank_of_pairs(pairs: int, alpha: float) -> int:
    """The rank, from either end, of the Walsh averages that bound the interval; 0 if there are too few pairs."""
    return _critical_rank(_sums_of_subsets(tuple(range(1, pairs + 1))), alpha)


def _sums_of_subsets(numbers: tuple[int, ...]) -> Values:
    """At index s: the share of all subsets of `numbers` whose sum is s."""
    shares: Values = np.zeros(sum(numbers) + 1)
    shares[0] = 1.0
    for number in numbers:
        with_it = np.zeros_like(shares)
        with_it[number:] = shares[: len(shares) - number]
        shares = (shares + with_it) / 2
    return shares


# Independent sets


def sets_shift(a: Sequence[float], b: Sequence[float], alpha: float = 0.05) -> Shift:
    """The two-sample shift of `b` against `a`, with an interval of level 1 - alpha."""
    before, after = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    differences = np.sort(np.subtract.outer(after, before).ravel())
    rank = critical_rank_of_sets(len(before), len(after), alpha)
    interval = (float(differences[rank - 1]), float(differences[-rank])) if rank else None
    tied = len(np.unique(np.concatenate([before, after]))) == 1
    return Shift(float(np.median(differences)), interval, _rank_sum_p(before, after), _pooled(before, after), tied)


def smallest_p_of_sets(a: int, b: int) -> float:
    """The smallest possible p-value: every run of one side lies above every run of the other."""
    return min(1.0, 2 / math.comb(a + b, a))


def _pooled(a: Values, b: Values) -> float:
    freedom = len(a) + len(b) - 2
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    return math.sqrt(squares / freedom) if freedom > 0 else 0.0


def _rank_sum_p(a: Values, b: Values) -> float:
    together = np.concatenate([a, b])
    if len(np.unique(together)) == len(together):
        return float(stats.mannwhitneyu(a, b, method="exact").pvalue)
    doubled = np.rint(2 * stats.rankdata(together)).astype(int)
    return _two_sided(_sums_of_choices(tuple(doubled), len(a)), int(doubled[: len(a)].sum()))


@functools.lru_cache(maxsize=4096)
def critical_rank_of_sets(a: int, b: int, alpha: float) -> int:
    """The rank, from either end, of the differences that bound the interval; 0 if there are too few runs.

    Exact up to 50 runs on a side; beyond that by the normal approximation, which is then as good.
    """
    if max(a, b) > MOST_COUNTED:
        deviation = math.sqrt(a * b * (a + b + 1) / 12)
        return max(0, math.floor(a * b / 2 + float(special.ndtri(alpha / 2)) * deviation + 0.5))
    rank_sums = _sums_of_choices(tuple(range(1, a + b + 1)), a)
    return _critical_rank(rank_sums[a * (a + 1) // 2 :], alpha)


def _sums_of_choices(numbers: tuple[int, ...], chosen: int) -> Values:
    """At index s: the share of all choices of `chosen` of the `numbers` whose sum is s."""
    ways = np.zeros((chosen + 1, sum(numbers) + 1))
    ways[0, 0] = 1.0
    for number in numbers:
        ways[1:, number:] += ways[:-1, : ways.shape[1] - number].copy()
    shares: Values = ways[chosen] / ways[chosen].sum()
    return shares


# Both


def _critical_rank(shares: Values, alpha: float) -> int:
    """The largest k for which the statistic lies below k with a probability of at most alpha / 2; 0 if there is none.

    The k-th smallest and the k-th largest of all differences are then the ends of an interval of level 1 - alpha.
    """
    return int(np.searchsorted(np.cumsum(shares), alpha / 2 * (1 + 1e-9), side="right"))


def _two_sided(shares: Values, statistic: int) -> float:
    below, above = float(shares[: statistic + 1].sum()), float(shares[statistic:].sum())
    return min(1.0, 2 * min(below, above))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: if all with p <= alpha are called different, any is wrong with probability alpha."""
    adjusted, highest = {}, 0.0
    for place, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(ps) - place) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in ps}


# One run against one run


def noise_floor(differences: Sequence[float]) -> float:
    """The 95th percentile of the absolute differences between two runs of the same server."""
    return float(np.quantile(np.abs(differences), 0.95, method="higher"))


def single_shift(difference: float, floor: float, pairs: int) -> Shift:
    """Compare a single difference with the noise floor that was measured with `pairs` pairs of equal runs.

    The correction for several figures needs the tail beyond the floor, which cannot be counted from few pairs. It is
    taken from Student's distribution with a quarter as many degrees of freedom as pairs. With as many degrees of
    freedom as pairs, noise with outliers was called a difference in 71 of 1,000 simulated comparisons of equal runs.
    """
    freedom = max(1, pairs // 4)
    if floor <= 0:
        return Shift(difference, (difference, difference), 0.0 if difference else 1.0, 0.0, not difference)
    scale = floor / float(stats.t.ppf(0.975, freedom))
    p = 2 * float(stats.t.sf(abs(difference) / scale, freedom))
    return Shift(difference, (difference - floor, difference + floor), p, scale)


# Pairs with interim looks


@dataclass(frozen=True)
class Looks:
    """The plan of interim looks: when the pairs made so far are judged, and at which level.

    Each look spends a part of `alpha`, the last one the most; the parts add up to alpha. So the probability that any
    look calls equal sides different is at most alpha, whatever the correlation between the looks. With Holm's
    correction at each look this holds for all headline figures together. Intervals of level 1 - alpha_at() hold
    likewise at the look at which the pairs end.
    """

    max_pairs: int
    looks: int = 3
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= self.max_pairs:
            raise ValueError(f"{self.looks} looks at {self.max_pairs} pairs: there must be 1 to {self.max_pairs} looks")

    @property
    def at(self) -> tuple[int, ...]:
        """The numbers of pairs at which to look: from half of all pairs on, in equal steps."""
        if self.looks == 1:
            return (self.max_pairs,)
        half = self.max_pairs / 2
        steps = (half + half * look / (self.looks - 1) for look in range(self.looks))
        return tuple(sorted({max(1, math.ceil(step)) for step in steps}))

    def alpha_at(self, pairs: int) -> float:
        """The alpha that the look at `pairs` pairs spends. An early end takes the place of the next look."""
        look = next((look for look in self.at if look >= pairs), self.max_pairs)
        before = max((earlier for earlier in self.at if earlier < look), default=0)
        return self.alpha * (look**2 - before**2) / self.max_pairs**2


def most_looks(pairs: int, at_most: int, figures: int) -> int:
    """The most looks at which the last one can still call one of `figures` figures different.

    More looks leave less alpha to the last one. 0 if even a single look at all pairs cannot call anything different.
    """
    needed = figures * smallest_p_of_pairs(pairs)
    reached = (looks for looks in range(min(at_most, pairs), 0, -1) if Looks(pairs, looks).alpha_at(pairs) >= needed)
    return next(reached, 0)
