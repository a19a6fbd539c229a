from __future__ import annotations

import numpy as np
import pytest

from loadtests.inference.change_points import ChangePoint, change_points, fewest

ALPHA = 0.05


def noise(runs: int, seed: int) -> list[float]:
    """Skewed noise with outliers, as latencies have."""
    return list(np.random.default_rng(seed).lognormal(0, 0.5, runs))


@pytest.mark.parametrize("runs", [12, 40])
def test_false_changes_are_at_most_as_frequent_as_alpha(runs: int) -> None:
    """Of 200 at 5 % about ten are; more than 17 would be chance once in a hundred."""
    wrong = sum(bool(change_points(noise(runs, seed), ALPHA)) for seed in range(200))

    assert wrong <= 17


def test_a_level_that_changes_is_found_where_it_does_in_nine_series_of_ten() -> None:
    """By three deviations, in the middle of 16."""
    found = 0
    for seed in range(50):
        values = np.random.default_rng(seed).normal(100, 1, 16)
        values[8:] += 3
        points = change_points(list(values), 0.01)
        found += len(points) == 1 and abs(points[0].at - 8) <= 1

    assert found >= 45


def test_each_of_several_changes_is_found_with_the_levels_beside_it() -> None:
    levels = [10.0] * 10 + [12.0] * 10 + [9.0] * 10
    values = [level + 0.01 * (place * 7 % 10) for place, level in enumerate(levels)]
    first, second = change_points(values)

    assert (first.at, second.at) == (10, 20)
    assert first.before == pytest.approx(10, abs=0.1)
    assert first.after == second.before == pytest.approx(12, abs=0.1)
    assert second.after == pytest.approx(9, abs=0.1)
    assert first.change == pytest.approx(0.2, abs=0.01)
    assert first.p <= 0.01


def test_an_outlier_is_no_change() -> None:
    values = noise(20, 1)
    values[9] = 1e9

    assert change_points(values) == []


def test_what_never_varies_never_changes() -> None:
    assert change_points([0.0] * 50) == []
    assert change_points([]) == change_points([1.0]) == []


def test_the_same_series_gives_the_same_answer() -> None:
    values = [*noise(10, 1), *(2 + value for value in noise(10, 2))]

    assert change_points(values) == change_points(values) != []


def test_the_clearest_change_needs_this_many_runs() -> None:
    for alpha in (0.05, 0.02, 0.05 / 9):
        least = fewest(alpha)
        clear = [place + 100 * (place >= least // 2) for place in range(least)]
        shorter = [place + 100 * (place >= least // 2) for place in range(1, least - 1)]

        assert change_points(clear, alpha * 1.2)
        assert not change_points(shorter, alpha)


def test_a_change_from_zero_has_no_percentage() -> None:
    assert ChangePoint(3, 0.0, 1.0, 0.01).change is None
