"""The load over time: stages, phases, and the search for a limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.workloads.stages import COOLDOWN, MEASURE, RAMP, WARMUP, Course, Objective, Search, Stage, Step

HOLD = [Stage(RAMP, 10, 5), Stage(WARMUP, 10, 5, 2), Stage(MEASURE, 10, 5, 4), Stage(COOLDOWN, 10, 5, 1)]


def follow(course: Course, users: dict[int, int], last: int = 200) -> int:
    """Step through the seconds from 100 on; return the second in which the course ends."""
    now = 0
    for second in range(100, last):
        now = users.get(second, now)
        if course.at(second, now) is None:
            return second
    raise AssertionError("it has no end")


def test_the_phases_follow_each_other_in_whole_seconds() -> None:
    course = Course(HOLD)

    assert follow(course, {102: 10}) == 110
    assert course.phases == {RAMP: [100, 103], WARMUP: [103, 105], MEASURE: [105, 109], COOLDOWN: [109, 110]}


def test_after_a_late_ramp_the_measure_phase_is_not_shorter() -> None:
    course = Course(HOLD)
    follow(course, {101: 9, 150: 10})

    assert course.phases[RAMP] == [100, 151]
    assert course.phases[MEASURE] == [153, 157]


def test_lost_users_do_not_make_a_phase_longer() -> None:
    course = Course(HOLD)

    assert follow(course, {102: 10, 104: 5}) == 110
    assert course.phases == {RAMP: [100, 103], WARMUP: [103, 105], MEASURE: [105, 109], COOLDOWN: [109, 110]}


def test_a_second_that_was_missed_changes_nothing() -> None:
    course = Course(HOLD)
    for second in (100, 102, 104, 106, 108, 111):
        course.at(second, 10 if second >= 102 else 0)

    assert course.phases == {RAMP: [100, 103], WARMUP: [103, 105], MEASURE: [105, 109], COOLDOWN: [109, 110]}


def test_the_phases_of_an_interrupted_run_end_with_the_last_second() -> None:
    course = Course(HOLD)
    for second in range(100, 107):
        course.at(second, 10)

    assert course.phases[MEASURE] == [103, 107]
    assert COOLDOWN not in course.phases


def test_stages_of_one_phase_are_one_span() -> None:
    course = Course([Stage(RAMP, 5, 5, 3), Stage(RAMP, 10, 5, 3), Stage(MEASURE, 10, 5, 2)])
    follow(course, {101: 5, 107: 10})

    assert course.phases == {RAMP: [100, 111], MEASURE: [111, 113]}


def test_stages_may_be_added_later() -> None:
    course = Course([Stage(RAMP, 5, 5, 1)])
    assert follow(course, {100: 5}) == 102
    course.add(Stage(MEASURE, 5, 5, 2))

    assert course.at(102, 5) == Stage(MEASURE, 5, 5, 2)
    assert course.at(104, 5) is None
    assert course.phases[MEASURE] == [102, 104]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6))
def test_every_hold_has_its_length_and_every_second_is_in_a_phase(steps: list[tuple[int, int, int]]) -> None:
    """Each step: sockets, whole seconds to start them, and whole seconds to hold them."""
    stages = [Stage(f"phase {place}", sockets, 1, hold) for place, (sockets, _, hold) in enumerate(steps)]
    course, users, stage, delay = Course(stages), 0, None, 0
    for second in range(100, 300):
        if (now := course.at(second, users)) is not stage and now is not None:
            stage, delay = now, steps[stages.index(now)][1]
        if now is None:
            break
        users, delay = (now.sockets, 0) if delay == 0 else (users, delay - 1)

    spans = list(course.phases.values())
    assert len(spans) == len(stages)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    assert all(end - start >= stage.hold_s for (start, end), stage in zip(spans, stages, strict=True))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64))
def test_a_search_ends_within_a_tenth_of_the_limit(limit: int, most: int, first: int) -> None:
    search, tried = Search(min(first, most), most), 0
    while (sockets := search.next()) is not None:
        search.take(sockets, sockets <= limit)
        tried += 1
        assert tried < 40

    truth = min(limit, most)
    assert search.best <= truth
    assert truth <= max(search.best * 1.1, search.best + 1)


def test_a_search_without_any_success_ends_with_0() -> None:
    search = Search(16, 1000)
    while (sockets := search.next()) is not None:
        search.take(sockets, False)

    assert search.best == 0


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (Step(1, 100, 99, 20.0, 0.1), ""),
        (Step(1, 100, 99, 20.1, 0.1), "p99 20.1 ms (limit 20 ms)"),
        (Step(1, 100, 99, 1234.5, 0.1), "p99 1.23 s (limit 20 ms)"),
        (Step(1, 100, 99, 20.0, 0.2), "0.20% of exchanges failed (limit 0.1%)"),
        (Step(1, 1000, 900, 1.0, 0.0), "900 of 1,000 scheduled exchanges/s were made"),
    ],
)
def test_an_objective_explains_why_a_step_does_not_meet_it(step: Step, says: str) -> None:
    assert Objective(20, 0.1).broken(step) == says
