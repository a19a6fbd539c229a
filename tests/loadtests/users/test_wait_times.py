"""Wait times: when exchanges are due."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.users.wait_times import Burst, Closed, Paced, Schedule, closed, paced

MS = 10**6


class AnyUser:
    """A user; any object with attributes can have a schedule."""

    ten_a_second = paced(10)
    at_once = closed(depth=3)


def test_ticks_come_at_their_period_after_the_phase() -> None:
    schedule = Schedule(2000, 0.25, 10_000)

    assert [schedule.next_ns() for _ in range(3)] == [10_500, 12_500, 14_500]


@given(st.floats(0.01, 100_000), st.floats(0, 0.999), st.integers(0, 10**18))
def test_a_schedule_does_not_drift(rate: float, phase: float, start_ns: int) -> None:
    """The thousandth tick is exact, within the accuracy of floats."""
    schedule = Schedule(1e9 / rate, phase, start_ns)
    ticks = [schedule.next_ns() for _ in range(1000)]

    assert ticks[999] == pytest.approx(start_ns + (phase + 999) * 1e9 / rate, abs=1 + start_ns / 2**50)


def test_a_missed_tick_is_not_dropped() -> None:
    """After a stall of three periods the missed ticks are due at once, with a wait time of 0."""
    user = AnyUser()
    user.ten_a_second()
    stalled_ns = time.monotonic_ns() - 350 * MS
    user.schedule = Schedule(100 * MS, 0.0, stalled_ns)  # type: ignore[attr-defined]
    waits = [user.ten_a_second() for _ in range(5)]

    assert waits[:4] == [0, 0, 0, 0]
    assert 0 < waits[4] <= 0.05


def test_each_user_has_a_phase_of_its_own() -> None:
    random.seed(5)
    waits = sorted(AnyUser().ten_a_second() for _ in range(1000))

    assert 0 <= waits[0] < 0.005
    assert 0.095 < waits[-1] <= 0.1
    assert all(b - a < 0.002 for a, b in itertools.pairwise(waits)), "spread over the period"


def test_wait_times_are_themselves_on_a_class_and_callable_on_a_user() -> None:
    assert isinstance(AnyUser.ten_a_second, Paced)
    assert AnyUser.ten_a_second.rate == 10
    assert isinstance(AnyUser.at_once, Closed)
    assert AnyUser.at_once.depth == 3
    assert AnyUser().at_once() == 0


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_must_be_positive_and_finite(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate is {rate}, must be more than 0"):
        paced(rate)


def test_a_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth is 0, must be at least 1"):
        closed(0)


def test_a_period_must_be_positive() -> None:
    with pytest.raises(ValueError, match="period_ns is 0"):
        Schedule(0, 0.0, 0)


@given(st.integers(1, 300), st.randoms())
def test_a_burst_is_spread_evenly_over_a_second(size: int, chance: random.Random) -> None:
    """The second has one share for each user."""
    burst = Burst()
    places = [burst.join() for _ in range(size)]
    waits = [burst.wait_s(place, chance.random) for place in places]

    assert [int(wait * size - 1e-9) for wait in waits] == pytest.approx(range(size), abs=1)
    assert min(waits) >= 0
    assert max(waits) <= 1
