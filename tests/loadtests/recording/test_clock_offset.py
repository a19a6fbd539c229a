"""The offset between the clocks of two hosts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from loadtests.recording.clock_offset import READINGS, ClockOffset, Reading

MS = 10**6


def reading(offset_ns: int, there_ns: int, back_ns: int, sent_ns: int = 10**15) -> Reading:
    return Reading(sent_ns, sent_ns + there_ns + offset_ns, sent_ns + there_ns + back_ns)


@given(st.integers(-(10**15), 10**15), st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1))
def test_the_true_offset_is_within_the_uncertainty(offset_ns: int, ways: list[tuple[int, int]]) -> None:
    clock = ClockOffset()
    for there_ns, back_ns in ways:
        clock.add(reading(offset_ns, there_ns, back_ns))
        best = min(sum(way) for way in ways[max(0, len(ways) - READINGS) :])

        assert abs(clock.offset_ns - offset_ns) <= 2 * clock.uncertainty_ns + 1
    assert clock.uncertainty_ns <= best // 2 + 1


def test_the_quickest_message_gives_the_offset() -> None:
    chance, clock = random.Random(3), ClockOffset()
    for _ in range(10):
        clock.add(reading(5000 * MS, chance.randrange(1, 20) * MS, chance.randrange(1, 20) * MS))
    clock.add(reading(5000 * MS, MS // 10, MS // 10))

    assert clock.offset_ns == 5000 * MS
    assert clock.uncertainty_ns == MS // 10


def test_an_offset_within_its_uncertainty_is_0() -> None:
    clock = ClockOffset()
    clock.add(reading(0, 3 * MS, MS))

    assert clock.offset_ns == 0
    assert clock.uncertainty_ns == 2 * MS


def test_old_readings_are_forgotten() -> None:
    """The offset follows a clock that drifts."""
    clock = ClockOffset()
    clock.add(reading(5000 * MS, 1, 1))
    for _ in range(READINGS):
        clock.add(reading(5001 * MS, 100, 100))

    assert clock.offset_ns == 5001 * MS


@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(st.integers(10_000, 500 * MS), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_between_two_hosts_the_offset_is_wrong_by_no_more_than_its_uncertainty(
    offset_ns: int, messages: list[tuple[int, float]]
) -> None:
    """However unevenly the way there and the way back share the time."""
    clock, now_ns = ClockOffset(60 * 10**9, may_be_same_clock=False), 10**12
    for took_ns, share in messages:
        there_ns = int(took_ns * share)
        clock.add(reading(offset_ns, there_ns, took_ns - there_ns, sent_ns=now_ns))
        now_ns += took_ns

    assert abs(clock.offset_ns - offset_ns) <= clock.uncertainty_ns + 1
    assert clock.uncertainty_ns == (min(took for took, _ in messages) + 1) // 2
    assert clock.readings == len(messages)


def test_readings_older_than_the_window_are_not_used() -> None:
    clock = ClockOffset(60 * 10**9, may_be_same_clock=False)
    clock.add(Reading(0, 5000 * MS, MS // 10))
    clock.add(Reading(100_000 * MS, 105_100 * MS, 100_200 * MS))

    assert clock.offset_ns == 5000 * MS
    assert clock.uncertainty_ns == 100 * MS
