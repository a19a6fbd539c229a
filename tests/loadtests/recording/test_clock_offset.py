"""Clocks of two hosts, compared by messages."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from loadtests.recording.clock_offset import READINGS, Clock, Reading

MS = 10**6


def reading(offset_ns: int, there_ns: int, back_ns: int, sent_ns: int = 10**15) -> Reading:
    return Reading(sent_ns, sent_ns + there_ns + offset_ns, sent_ns + there_ns + back_ns)


@given(st.integers(-(10**15), 10**15), st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1))
def test_the_true_offset_is_within_the_uncertainty(offset_ns: int, ways: list[tuple[int, int]]) -> None:
    clock = Clock()
    for there_ns, back_ns in ways:
        clock.take(reading(offset_ns, there_ns, back_ns))
        best = min(sum(way) for way in ways[max(0, len(ways) - READINGS) :])

        assert abs(clock.offset_ns - offset_ns) <= 2 * clock.uncertainty_ns + 1
    assert clock.uncertainty_ns <= best // 2 + 1


def test_the_quickest_message_says_it_best() -> None:
    chance, clock = random.Random(3), Clock()
    for _ in range(10):
        clock.take(reading(5000 * MS, chance.randrange(1, 20) * MS, chance.randrange(1, 20) * MS))
    clock.take(reading(5000 * MS, MS // 10, MS // 10))

    assert clock.offset_ns == 5000 * MS
    assert clock.uncertainty_ns == MS // 10


def test_an_offset_that_could_be_none_is_none() -> None:
    clock = Clock()
    clock.take(reading(0, 3 * MS, MS))

    assert clock.offset_ns == 0
    assert clock.uncertainty_ns == 2 * MS


def test_old_readings_are_forgotten() -> None:
    """A clock that drifts is followed."""
    clock = Clock()
    clock.take(reading(5000 * MS, 1, 1))
    for _ in range(READINGS):
        clock.take(reading(5001 * MS, 100, 100))

    assert clock.offset_ns == 5001 * MS
