from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ratios import Spread, median, ratios, spread


def test_a_ratio_is_taken_in_each_round() -> None:
    assert ratios([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]


def test_there_is_no_ratio_without_both_values_or_with_a_divisor_of_0() -> None:
    assert ratios([1.0, 1.0, None, 1.0], [0.0, -5.0, 2.0, None]) == [None, None, None, None]


def test_different_numbers_of_rounds_are_an_error() -> None:
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_a_spread_has_the_median_and_the_quartiles() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)


def test_the_spread_of_one_value_is_that_value() -> None:
    assert spread([2.5]) == Spread(2.5, 2.5, 2.5)


def test_rounds_without_a_value_do_not_count() -> None:
    assert spread([None, 1.0, None, 3.0]) == Spread(2.0, 1.5, 2.5)
    assert median([None, 7.0]) == 7.0


def test_without_any_value_there_is_no_median() -> None:
    assert spread([None, None]) is None
    assert median([]) is None


@given(st.lists(st.integers(1, 1_000_000), min_size=1))
def test_the_quartiles_enclose_the_median_and_lie_within_the_values(values: list[int]) -> None:
    found = spread([float(value) for value in values])

    assert found is not None
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


@given(st.floats(0.1, 10), st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1))
def test_a_slower_machine_changes_no_ratio(slowness: float, pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    slowed = ratios([each * slowness for each in ours], [each * slowness for each in theirs])

    assert slowed == pytest.approx(ratios(ours, theirs))
