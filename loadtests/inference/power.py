"""How many pairs, or runs on each side, are needed to detect a difference. Pure.
`python -m loadtests.inference.power` prints the tables.

The power of the exact tests comes from the mean and variance of their statistics if B is shifted (Lehmann), for normal
noise on the scale of the values. If only one order of the pairs can be significant, it is the probability of that
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special

from loadtests.formatting import percent, render_table
from loadtests.inference.rank_tests import Interval, critical_rank_of_pairs, critical_rank_of_sets

__all__ = [
    "FIGURES",
    "MOST",
    "cautious",
    "needed_pairs",
    "needed_runs",
    "power_of_pairs",
    "power_of_sets",
    "power_tables",
]

#: The probability of detecting a difference that exists.
POWER = 0.9
#: The largest number of pairs or runs that is reported.
MOST = 200
#: Figures that are judged together: the headline figures without the error rate, which is tied if nothing fails.
FIGURES = 8


def power_of_pairs(pairs: int, shift: float, alpha: float) -> float:
    """The probability that `pairs` pairs are called different at level `alpha`, for a shift in units of their noise."""
    rank = critical_rank_of_pairs(pairs, alpha)
    if not rank:
        return 0.0
    one = float(special.ndtr(shift))
    two, three = _either_and_both(shift * math.sqrt(2))
    if rank == 1:
        return one**pairs
    mean = pairs * one + pairs * (pairs - 1) / 2 * two
    variance = (
        pairs * one * (1 - one)
        + pairs * (pairs - 1) / 2 * (2 * (one - two) ** 2 + 3 * two * (1 - two))
        + pairs * (pairs - 1) * (pairs - 2) * (three - two**2)
    )
    return _reaches(pairs * (pairs + 1) // 2 - rank + 1, mean, variance)


def power_of_sets(runs: int, shift: float, alpha: float) -> float:
    """The same for `runs` runs on each side."""
    rank = critical_rank_of_sets(runs, runs, alpha)
    if not rank:
        return 0.0
    one, both = _either_and_both(shift / math.sqrt(2))
    mean = runs**2 * one
    variance = runs**2 * (one * (1 - one) + 2 * (runs - 1) * (both - one**2))
    return _reaches(runs**2 - rank + 1, mean, variance)


def _either_and_both(shift: float) -> Interval:
    """P(X < shift), and P(X < shift and Y < shift), of normal X and Y with a correlation of 0.5, by Owen's T."""
    one = float(special.ndtr(shift))
    return one, one - 2 * float(special.owens_t(shift, math.sqrt(1 / 3)))


def _reaches(critical: int, mean: float, variance: float) -> float:
    if variance <= 1e-12:
        return float(mean >= critical - 0.5)
    return float(special.ndtr((mean - critical + 0.5) / math.sqrt(variance)))


def cautious(noise: float, freedom: int) -> float:
    """An upper bound (80 % confidence) of a standard deviation that was estimated with few degrees of freedom."""
    return noise * math.sqrt(freedom / float(special.chdtri(freedom, 0.8))) if freedom > 0 else noise


def needed_pairs(difference: float, noise: float, alpha: float) -> int | None:
    """The number of pairs that detect a difference in this noise with 90 % probability; None if more than MOST."""
    return _needed(power_of_pairs, difference, noise, alpha)


def needed_runs(difference: float, noise: float, alpha: float) -> int | None:
    """The same for runs on each side."""
    return _needed(power_of_sets, difference, noise, alpha)


def _needed(power: Callable[[int, float, float], float], difference: float, noise: float, alpha: float) -> int | None:
    shift = difference / noise if noise > 0 else math.inf
    shift = min(shift, 20.0)  # beyond that only the smallest attainable p matters
    low, high = 0, 1
    while power(high, shift, alpha) < POWER:
        low, high = high, high * 2
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, shift, alpha) >= POWER else (middle, high)
    return high if high <= MOST else None


_NOISES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
_DIFFERENCES = (0.02, 0.03, 0.05, 0.1)


def power_tables(alpha: float = 0.05) -> str:
    """The numbers of pairs and of runs on each side, by noise and difference, as Markdown tables."""
    return "\n\n".join(
        [
            "Pairs, by the standard deviation of a pair's ratio:\n\n" + _table(needed_pairs, alpha),
            "Runs on each side, by the standard deviation of a run:\n\n" + _table(needed_runs, alpha),
        ]
    )


def _table(needed: Callable[[float, float, float], int | None], alpha: float) -> str:
    header = ["noise", *(f"a difference of {percent(difference)}" for difference in _DIFFERENCES)]
    rows = [
        [percent(noise), *(_cell(needed(math.log1p(each), noise, alpha / FIGURES)) for each in _DIFFERENCES)]
        for noise in _NOISES
    ]
    return render_table(header, rows)


def _cell(needed: int | None) -> str:
    return str(needed) if needed else f"over {MOST}"


if __name__ == "__main__":
    print(power_tables())
