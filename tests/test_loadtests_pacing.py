"""When exchanges are due."""

from __future__ import annotations

import pytest

from loadtests.pacing import Schedule


def test_ticks_come_at_their_period_after_the_phase() -> None:
    schedule = Schedule(2.0, 0.25, 100.0)

    assert schedule.wait_s(100.0) == 0.5
    assert schedule.wait_s(100.5) == 2.0
    assert schedule.wait_s(103.0) == 1.5


def test_a_missed_tick_is_not_forgotten() -> None:
    """After a stall of three periods three ticks are due at once, and then the schedule is where it would have been."""
    schedule = Schedule(1.0, 0.0, 0.0)

    assert [schedule.wait_s(3.5) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("period_s", [0, -1])
def test_a_period_must_be_positive(period_s: float) -> None:
    with pytest.raises(ValueError, match=f"period_s is {period_s}"):
        Schedule(period_s, 0.0, 0.0)
