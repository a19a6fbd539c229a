"""The fitted slope and its interval."""

from __future__ import annotations

import random

import pytest

from loadtests.inference.regression import fitted_slope


def test_a_straight_line_is_found_exactly() -> None:
    slope = fitted_slope([(x, 7 + 3 * x) for x in (0, 10, 20, 50)])

    assert slope is not None
    assert (slope.low, slope.value, slope.high) == pytest.approx((3, 3, 3))


def test_the_interval_is_that_of_a_textbook() -> None:
    """Five points, worked out by hand: slope 0.6, its standard error sqrt(2.4 / 3 / 10), t of 3 degrees 3.182."""
    slope = fitted_slope([(1, 2), (2, 4), (3, 5), (4, 4), (5, 5)])

    assert slope is not None
    assert slope.value == pytest.approx(0.6)
    assert slope.low == pytest.approx(0.6 - 3.1824 * 0.08**0.5, abs=1e-4)
    assert slope.high == pytest.approx(0.6 + 3.1824 * 0.08**0.5, abs=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 1,000 noisy lines about 950; 20 more or less is three standard deviations."""
    dice = random.Random(1)
    slopes = [fitted_slope([(x, 2 * x + dice.gauss(0, 5)) for x in range(6)]) for _ in range(1000)]

    held = sum(slope.low <= 2 <= slope.high for slope in slopes if slope and slope.low is not None and slope.high)
    assert 930 <= held <= 970


def test_two_points_have_a_slope_and_no_interval() -> None:
    slope = fitted_slope([(0, 1), (2, 5)])

    assert slope is not None
    assert (slope.value, slope.low, slope.high) == (2, None, None)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)]])
def test_points_that_make_no_line_have_no_slope(points: list[tuple[float, float]]) -> None:
    assert fitted_slope(points) is None
