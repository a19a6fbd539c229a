"""Latency by percentile of both sides, and the change between them with a bootstrap band. Pure.

The percentiles of a side are those of all its runs together, never averages of percentiles. The bootstrap draws whole
runs (or whole pairs) with replacement, because a run is one observation, and its exchanges are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loadtests.comparison.model import QuantileCurve, QuantilePoint
from loadtests.recording.histogram import Histogram
from loadtests.results.metrics import has_enough_beyond

__all__ = ["CURVE_QUANTILES", "quantile_curve"]

#: Even steps of 5 up to 85, then ten steps for each further nine.
CURVE_QUANTILES = (
    *range(5, 90, 5),
    *(round(100 - 10 ** (1 - step / 10), 4) for step in range(31)),
)
DRAWS = 500
SEED = 20260101
#: A band over fewer runs would look narrower than it is.
FEWEST_RUNS = 5
Array = NDArray[np.float64]


def quantile_curve(
    latency: Literal["service", "response"], a: Sequence[Histogram], b: Sequence[Histogram], paired: bool
) -> QuantileCurve | None:
    """The curve of both sides; None if a side has no such latency."""
    a, b = [each for each in a if each.counts], [each for each in b if each.counts]
    if not a or not b or (paired and len(a) != len(b)):
        return None
    lows, highs = _band(_table(a), _table(b), paired)
    fewest = min(sum(each.total for each in side) for side in (a, b))
    values = zip(CURVE_QUANTILES, _pooled(a), _pooled(b), lows, highs, strict=True)
    points = tuple(_point(*each, fewest) for each in values)
    return QuantileCurve(latency, points, tuple(map(_curve, a)), tuple(map(_curve, b)))


def _point(
    quantile: float, a_us: float, b_us: float, low: float | None, high: float | None, fewest: int
) -> QuantilePoint:
    enough = has_enough_beyond(fewest, quantile)
    return QuantilePoint(quantile, a_us, b_us, b_us / a_us - 1 if a_us else 0.0, low, high, enough)


def _curve(histogram: Histogram) -> tuple[float, ...]:
    found = histogram.percentiles(CURVE_QUANTILES)
    return tuple(found[quantile] / 1000 for quantile in CURVE_QUANTILES)


def _pooled(runs: Sequence[Histogram]) -> tuple[float, ...]:
    together = Histogram()
    for run in runs:
        together.add(run.counts)
    return _curve(together)


def _table(runs: Sequence[Histogram]) -> tuple[Array, Array]:
    """The buckets of a side, and for each of its runs the number of exchanges in or below each bucket."""
    buckets = sorted(set().union(*(run.counts for run in runs)))
    counts = np.array([[run.counts.get(bucket, 0) for bucket in buckets] for run in runs], dtype=float)
    return np.array(buckets, dtype=float), np.cumsum(counts, axis=1)


def _band(
    a: tuple[Array, Array], b: tuple[Array, Array], paired: bool
) -> tuple[Sequence[float | None], Sequence[float | None]]:
    fewest = min(len(a[1]), len(b[1]))
    if fewest < FEWEST_RUNS:
        nothing = [None] * len(CURVE_QUANTILES)
        return nothing, nothing
    draw = np.random.default_rng(SEED)
    a_weights = _weights(draw, len(a[1]))
    b_weights = a_weights if paired else _weights(draw, len(b[1]))
    changes = _resampled(b, b_weights) / np.maximum(_resampled(a, a_weights), 1) - 1
    low, high = np.quantile(changes, [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()


def _weights(draw: np.random.Generator, runs: int) -> Array:
    """The number of times that each run is drawn, for each draw."""
    return draw.multinomial(runs, np.full(runs, 1 / runs), size=DRAWS).astype(float)


def _resampled(table: tuple[Array, Array], weights: Array) -> Array:
    """The latency at each quantile, for each draw."""
    buckets, cumulative = table
    ranks = weights @ cumulative
    targets = np.maximum(1.0, np.floor(np.array(CURVE_QUANTILES) / 100 * ranks[:, -1:] + 0.5))
    places = np.array([np.searchsorted(row, rank) for row, rank in zip(ranks, targets, strict=True)])
    latencies: Array = buckets[places]
    return latencies
