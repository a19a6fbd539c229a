"""The token bucket: its burst, its rate, and the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.token_bucket import TokenBucket


def test_a_bucket_begins_full_and_gives_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=3)

    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(5.09)
    assert bucket.take(5.11)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_take_that_fails_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=3)

    assert bucket.take(0.0, 1)
    assert not bucket.take(0.0, 3)
    assert bucket.take(0.0, 2)
    assert not bucket.take(0.0)


def test_more_than_a_burst_is_taken_from_a_full_bucket_and_owed() -> None:
    bucket = TokenBucket(rate=1, burst=3)

    assert bucket.take(0.0, 5)
    assert not bucket.take(4.9, 5)
    assert bucket.take(5.1, 5)


def test_a_negative_balance_is_refilled_at_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)

    assert bucket.spend(0.0, 5) == 0
    assert bucket.spend(0.0, 20) == pytest.approx(2)
    assert bucket.spend(1.0, 0) == pytest.approx(1)
    assert not bucket.take(1.9, 0)
    assert bucket.take(2.1, 1)
    assert bucket.spend(1000.0, 0) == 0
    assert bucket.spend(1000.0, 6) == pytest.approx(0.1)


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    bucket.take(100.0, 2)

    assert not bucket.take(50.0)
    assert not bucket.take(100.5)  # half a second after the latest time, not fifty
    assert bucket.take(101.0)


@given(
    st.floats(0.1, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 3)), max_size=50),
)
def test_never_more_is_taken_than_the_burst_and_the_time_since_then(
    rate: float, burst: float, takes: list[tuple[float, float]]
) -> None:
    bucket, now, latest, taken = TokenBucket(rate, burst), 0.0, 0.0, 0.0
    bucket.take(now, 0)
    for step, amount in takes:
        now += step
        latest = max(latest, now)
        taken += amount if bucket.take(now, amount) else 0
        assert taken <= (max(burst, 3) + latest * rate) * (1 + 1e-9) + 1e-6
