"""Latency by quantile, of all runs of a side together, and the band of its change."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.comparison.model import QuantilePoint
from loadtests.comparison.quantile_curves import CURVE_QUANTILES, quantile_curve
from loadtests.recording.histogram import Histogram


def histograms(
    draw: np.random.Generator, runs: int, scale: float, size: int = 3000, noise: float = 0.02
) -> list[Histogram]:
    """Runs that differ from each other, with exchanges that vary within a run."""
    made = []
    for _ in range(runs):
        histogram = Histogram()
        level = 200_000 * scale * np.exp(draw.normal(0, noise))
        for latency in draw.lognormal(np.log(level), 0.5, size=size):
            histogram.record(int(latency))
        made.append(histogram)
    return made


def point(points: tuple[QuantilePoint, ...], quantile: float) -> QuantilePoint:
    return next(each for each in points if each.quantile == quantile)


def test_the_quantiles_go_from_the_fast_to_the_tail() -> None:
    assert list(CURVE_QUANTILES) == sorted(set(CURVE_QUANTILES))
    assert {50, 90, 99, 99.9, 99.99} <= set(CURVE_QUANTILES)


@pytest.mark.parametrize("paired", [True, False])
def test_a_change_is_seen_at_every_quantile_within_its_band(paired: bool) -> None:
    draw = np.random.default_rng(1)
    curve = quantile_curve("service", histograms(draw, 8, 1.0), histograms(draw, 8, 1.2), paired)

    assert curve
    for quantile in (25, 50, 90, 99):
        found = point(curve.points, quantile)
        assert found.low is not None
        assert found.high is not None
        assert 0 < found.low < found.change < found.high
        assert found.low < 0.2 < found.high
    assert len(curve.a_runs) == len(curve.b_runs) == 8
    assert len(curve.a_runs[0]) == len(curve.points) == len(CURVE_QUANTILES)


def test_percentiles_are_those_of_all_runs_together_and_no_average() -> None:
    """Nine runs of 1 ms and one of 100 ms: of all exchanges the 89th percentile is 1 ms and the 91st 100 ms."""
    quick, slow = Histogram(), Histogram()
    for _ in range(100):
        quick.record(1_000_000)
        slow.record(100_000_000)
    curve = quantile_curve("service", [quick] * 9 + [slow], [quick] * 10, False)

    assert curve
    assert point(curve.points, 85).a_us == pytest.approx(1000, rel=0.01)
    assert point(curve.points, 92.0567).a_us == pytest.approx(100_000, rel=0.01)


def test_the_band_is_of_runs_and_does_not_narrow_with_exchanges() -> None:
    widths = []
    for size in (1000, 8000):
        draw = np.random.default_rng(2)
        a, b = histograms(draw, 6, 1.0, size, 0.1), histograms(draw, 6, 1.0, size, 0.1)
        curve = quantile_curve("service", a, b, False)
        assert curve
        found = point(curve.points, 50)
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)

    assert min(widths) > 0.07


def test_a_quantile_with_few_exchanges_beyond_it_is_marked() -> None:
    draw = np.random.default_rng(1)
    curve = quantile_curve("service", histograms(draw, 1, 1.0, 3000), histograms(draw, 5, 1.0, 3000), False)

    assert curve
    assert point(curve.points, 99).enough
    assert not point(curve.points, 99.9).enough
    assert point(curve.points, 50).low is None  # one run: no band


def test_a_side_without_that_latency_has_no_curve() -> None:
    full = histograms(np.random.default_rng(1), 2, 1.0, 10)

    assert quantile_curve("response", full, [Histogram(), Histogram()], False) is None
    assert quantile_curve("response", full, [full[0], Histogram()], True) is None


def test_the_same_runs_have_the_same_band_each_time() -> None:
    a, b = (histograms(np.random.default_rng(seed), 5, 1.0, 100) for seed in (1, 2))

    assert quantile_curve("service", a, b, False) == quantile_curve("service", a, b, False)
