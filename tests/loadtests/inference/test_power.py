"""The predicted number of pairs, checked by simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtests.inference.power import MOST, needed_pairs, needed_runs, power_of_pairs, power_of_sets, power_tables

PAGE = Path(__file__).parents[3] / "docs" / "comparing.md"
ALPHA = 0.05 / 8
TRIALS = 2000


@pytest.mark.parametrize(("difference", "noise"), [(0.05, 0.02), (0.05, 0.03), (0.05, 0.05), (0.03, 0.03)])
def test_as_many_pairs_as_predicted_find_the_difference_nine_times_in_ten(difference: float, noise: float) -> None:
    needed = needed_pairs(math.log1p(difference), noise, ALPHA)
    assert needed
    draw = np.random.default_rng(1)
    found = stats.wilcoxon(draw.normal(math.log1p(difference), noise, size=(TRIALS, needed)), axis=1, method="exact")

    assert (found.pvalue <= ALPHA).mean() > 0.86
    fewer = draw.normal(math.log1p(difference), noise, size=(TRIALS, max(1, needed * 2 // 3)))
    assert (stats.wilcoxon(fewer, axis=1, method="exact").pvalue <= ALPHA).mean() < 0.86


@pytest.mark.parametrize(("difference", "noise"), [(0.05, 0.02), (0.05, 0.03), (0.03, 0.02)])
def test_as_many_runs_as_predicted_find_the_difference_nine_times_in_ten(difference: float, noise: float) -> None:
    needed = needed_runs(math.log1p(difference), noise, ALPHA)
    assert needed
    draw = np.random.default_rng(1)
    a = draw.normal(0, noise, size=(TRIALS, needed))
    b = draw.normal(math.log1p(difference), noise, size=(TRIALS, needed))
    found = (stats.mannwhitneyu(a, b, axis=1, method="exact").pvalue <= ALPHA).mean()

    assert 0.86 < found < 0.97


def test_without_noise_only_the_attainable_p_counts() -> None:
    """2 / 2^n for pairs, 2 / C(2n, n) for sets."""
    assert needed_pairs(0.05, 0.0, ALPHA) == 9
    assert needed_runs(0.05, 0.0, ALPHA) == 6
    assert needed_pairs(0.05, 0.0, 0.05) == 6
    assert needed_runs(0.05, 0.0, 0.05) == 4


def test_more_than_the_largest_number_is_none() -> None:
    assert needed_pairs(0.001, 0.1, ALPHA) is None
    assert needed_runs(0.001, 0.1, ALPHA) is None


@pytest.mark.parametrize("power", [power_of_pairs, power_of_sets])
def test_power_without_a_difference_is_the_error_rate(power: object) -> None:
    assert callable(power)
    assert power(20, 0.0, 0.05) == pytest.approx(0.025, abs=0.004)  # of one direction
    assert power(3, 5.0, 0.05) == 0
    assert power(MOST, 1.0, 0.05) == pytest.approx(1.0)


def test_the_page_has_the_tables_that_the_code_makes() -> None:
    assert power_tables() in PAGE.read_text(), "run: python -m loadtests.inference.power"
