"""The statistics, held to published examples, to SciPy's own permutations, and to their definitions."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loadtests.inference import rank_tests as inference
from loadtests.inference.rank_tests import (
    Looks,
    critical_rank_of_pairs,
    critical_rank_of_sets,
    holm,
    most_looks,
    noise_floor,
    pairs_shift,
    sets_shift,
    single_shift,
    smallest_p_of_pairs,
    smallest_p_of_sets,
)

# R, ?wilcox.test, from Hollander and Wolfe (1973), page 29: Hamilton depression scale, first and second visit.
FIRST = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
SECOND = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
# R, ?wilcox.test, from the same book, page 69: permeability of the chorioamnion at term, and at 12 to 26 weeks.
AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLIER = [1.15, 0.88, 0.90, 0.74, 1.21]


def test_pairs_have_the_values_of_rs_depression_example() -> None:
    """R prints V = 40, p = 0.01953 for the one-sided test; Hollander and Wolfe: shift -0.46, and -0.786 to -0.010."""
    shift = pairs_shift([after - before for before, after in zip(FIRST, SECOND, strict=True)])

    assert shift.p == pytest.approx(2 * 0.01953125)
    assert shift.estimate == pytest.approx(-0.46)
    assert shift.interval == pytest.approx((-0.786, -0.010))


def test_sets_have_the_values_of_rs_permeability_example() -> None:
    """R prints W = 35, p = 0.1272 for the one-sided test; Hollander and Wolfe: shift 0.305, and -0.15 to 0.76."""
    shift = sets_shift(EARLIER, AT_TERM)

    assert shift.p == pytest.approx(2 * 0.1272, abs=1e-4)
    assert shift.estimate == pytest.approx(0.305)
    assert shift.interval == pytest.approx((-0.15, 0.76))


def test_pairs_have_the_values_of_scipys_maize_example() -> None:
    """scipy.stats.wilcoxon, Examples: Darwin's maize, whose differences tie: statistic 24 of 120 by exact ranks."""
    differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]

    assert pairs_shift(differences).p == pytest.approx(0.041259765625)


def test_sets_have_the_values_of_scipys_diabetes_example() -> None:
    """scipy.stats.mannwhitneyu, Examples: age at which diabetes was diagnosed, U = 17, p = 0.1111 exactly."""
    males, females = [19, 22, 16, 29, 24], [20, 11, 17, 12]

    assert sets_shift(males, females).p == pytest.approx(0.1111111111111111)


@pytest.mark.parametrize(
    ("pairs", "alpha", "rank"),
    [
        (5, 0.05, 0),
        (6, 0.05, 1),
        (7, 0.05, 3),
        (8, 0.05, 4),
        (10, 0.05, 9),
        (15, 0.05, 26),
        (20, 0.05, 53),
        (9, 0.01, 2),
    ],
)
def test_walsh_averages_are_counted_off_as_the_published_tables_say(pairs: int, alpha: float, rank: int) -> None:
    """Critical values of the signed-rank statistic: the table's T, which still is significant, plus one."""
    assert critical_rank_of_pairs(pairs, alpha) == rank


@pytest.mark.parametrize(
    ("a", "b", "alpha", "rank"),
    [(3, 3, 0.05, 0), (4, 4, 0.05, 1), (5, 5, 0.05, 3), (8, 8, 0.05, 14), (10, 10, 0.05, 24), (20, 20, 0.05, 128)],
)
def test_differences_are_counted_off_as_the_published_tables_say(a: int, b: int, alpha: float, rank: int) -> None:
    """Critical values of Mann and Whitney's U: the table's U, which still is significant, plus one."""
    assert critical_rank_of_sets(a, b, alpha) == rank


@pytest.mark.parametrize("alpha", [0.05, 0.00625])
def test_the_approximation_is_close_to_the_exact_rank(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = critical_rank_of_sets.__wrapped__
    by_normal = [rank(count, count, alpha) for count in (51, 60)]
    monkeypatch.setattr(inference, "MOST_COUNTED", 60)
    counted = [rank(count, count, alpha) for count in (51, 60)]

    assert by_normal == pytest.approx(counted, rel=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_ties_of_pairs_are_counted_out(differences: list[int]) -> None:
    """SciPy's permutations of the signs give the same, for as few as it can go through."""
    nonzero = [each for each in differences if each]
    expected = 1.0
    if len(nonzero) > 1:  # SciPy does not permute a single one
        everything = stats.PermutationMethod(n_resamples=10**4)
        expected = float(stats.wilcoxon(nonzero, method=everything).pvalue)

    assert pairs_shift(differences).p == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=5), st.lists(st.integers(0, 4), min_size=2, max_size=5))
def test_ties_of_sets_are_counted_out(a: list[int], b: list[int]) -> None:
    """Of all ways to share out the values: so many lie as far from the middle in either direction, twice the rarer."""
    doubled = np.rint(2 * stats.rankdata(a + b)).astype(int)
    sums = np.array([sum(doubled[list(chosen)]) for chosen in combinations(range(len(doubled)), len(a))])
    seen = doubled[: len(a)].sum()
    expected = min(1.0, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))

    assert sets_shift(a, b).p == pytest.approx(expected)


def test_equal_values_are_tied() -> None:
    assert pairs_shift([0.0] * 8).tied
    assert pairs_shift([0.0] * 8).p == 1
    assert pairs_shift([0.0] * 8).interval == (0, 0)
    assert sets_shift([2.0] * 4, [2.0] * 4).tied
    assert not sets_shift([2.0] * 4, [2.0] * 3 + [3.0]).tied


@pytest.mark.parametrize("pairs", range(1, 12))
def test_the_smallest_p_is_that_of_one_direction(pairs: int) -> None:
    same_direction = [1.0 + each for each in range(pairs)]

    assert pairs_shift(same_direction).p == pytest.approx(smallest_p_of_pairs(pairs))
    apart = [100.0 + each for each in range(4)]
    assert sets_shift(same_direction, apart).p == pytest.approx(smallest_p_of_sets(pairs, 4))


def test_five_pairs_and_three_runs_have_no_interval() -> None:
    """The smallest p that five pairs can have is 0.0625, and that of three runs on each side 0.1."""
    assert pairs_shift([1, 2, 3, 4, 5]).interval is None
    assert pairs_shift([1, 2, 3, 4, 5, 6]).interval == (1, 6)
    assert sets_shift([1, 2, 3], [4, 5, 6]).interval is None
    assert sets_shift([1, 2, 3, 4], [5, 6, 7, 8]).interval == (1, 7)


@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_an_interval_holds_the_true_shift_as_often_as_it_says(alpha: float) -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        interval = pairs_shift(draw.standard_t(3, size=10) + 2.0, alpha).interval
        assert interval
        held += interval[0] <= 2.0 <= interval[1]

    assert held / 200 >= 1 - alpha - 0.04


def test_holm_has_the_values_of_rs_p_adjust() -> None:
    """R: p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm") is 0.04 0.06 0.06 0.06; each keeps its name and place."""
    assert holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02}) == pytest.approx(
        {"c": 0.06, "a": 0.04, "d": 0.06, "b": 0.06}
    )
    assert holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


def test_the_noise_floor_is_exceeded_by_one_in_twenty() -> None:
    assert noise_floor([each / 100 for each in range(-50, 51)]) == pytest.approx(0.48)
    assert noise_floor([0.0, -0.03]) == 0.03


def test_a_single_difference_is_as_unlikely_as_the_floor_says() -> None:
    assert single_shift(0.02, 0.02, 20).p == pytest.approx(0.05)
    assert single_shift(0.02, 0.02, 20).interval == (0.0, 0.04)
    assert single_shift(0.01, 0.02, 20).p > 0.05 > single_shift(-0.03, 0.02, 20).p
    assert single_shift(0.06, 0.02, 5).p > single_shift(0.06, 0.02, 50).p
    assert single_shift(0.0, 0.0, 20).tied


@pytest.mark.parametrize(("most", "looks"), [(1, 1), (10, 1), (10, 2), (12, 3), (20, 3), (21, 4), (3, 3)])
def test_the_looks_spend_alpha_and_no_more(most: int, looks: int) -> None:
    plan = Looks(most, looks)

    assert plan.at[-1] == most
    assert sorted(set(plan.at)) == list(plan.at)
    assert math.fsum(plan.alpha_at(look) for look in plan.at) == pytest.approx(0.05)
    spent = [plan.alpha_at(look) for look in plan.at]
    assert spent[-1] > 0.9 * max(spent)


def test_pairs_that_end_between_looks_take_the_place_of_the_next() -> None:
    plan = Looks(20, 3)

    assert plan.at == (10, 15, 20)
    assert plan.alpha_at(12) == plan.alpha_at(15)
    assert plan.alpha_at(3) == plan.alpha_at(10)
    assert plan.alpha_at(25) == plan.alpha_at(20)


@pytest.mark.parametrize(("most", "looks"), [(0, 1), (5, 0), (2, 3)])
def test_looks_that_make_no_sense_are_one_line(most: int, looks: int) -> None:
    with pytest.raises(ValueError, match=f"{looks} looks at {most} pairs"):
        Looks(most, looks)


@pytest.mark.parametrize(
    ("pairs", "figures", "looks"),
    [(1, 8, 0), (8, 8, 0), (9, 8, 2), (10, 8, 3), (40, 8, 3), (6, 1, 2), (9, 9, 1), (2, 1, 0)],
)
def test_the_last_look_can_still_find_a_difference(pairs: int, figures: int, looks: int) -> None:
    assert most_looks(pairs, 3, figures) == looks
