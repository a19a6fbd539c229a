"""When a worker has served long enough."""

from __future__ import annotations

import random

import pytest

from gserver.config.settings import Settings
from gserver.worker.recycling import RecyclingLimits

MIB = 1 << 20


def make_limits(messages: int = 0, age_s: float = 0, rss_bytes: int = 0) -> RecyclingLimits:
    return RecyclingLimits(messages, age_s, rss_bytes)


@pytest.mark.parametrize("used", [0, 1, 10**18])
def test_without_limits_nothing_wears_out(used: int) -> None:
    wear = RecyclingLimits.of(Settings(), random.Random(1))

    assert wear == make_limits()
    assert wear.reason(used, used, used) is None


@pytest.mark.parametrize(
    ("wear", "used", "reason"),
    [
        (make_limits(messages=100), (100, 0.0, 0), "it has handled 100 messages (limit 100)"),
        (make_limits(messages=100), (170, 0.0, 0), "it has handled 170 messages (limit 100)"),
        (make_limits(age_s=60), (0, 60.0, 0), "it is 60 s old (limit 60 s)"),
        (make_limits(age_s=60), (0, 61.2, 0), "it is 61 s old (limit 60 s)"),
        (make_limits(rss_bytes=MIB), (0, 0.0, MIB), "it uses 1 MiB of memory (limit 1 MiB)"),
        (make_limits(rss_bytes=MIB * 512), (0, 0.0, MIB * 700), "it uses 700 MiB of memory (limit 512 MiB)"),
    ],
)
def test_a_limit_that_is_reached_is_a_reason(wear: RecyclingLimits, used: tuple[int, float, int], reason: str) -> None:
    assert wear.reason(*used) == reason


@pytest.mark.parametrize(
    ("wear", "used"),
    [
        (make_limits(messages=100), (99, 1e9, 10**12)),
        (make_limits(age_s=60), (10**9, 59.99, 10**12)),
        (make_limits(rss_bytes=MIB), (10**9, 1e9, MIB - 1)),
        (make_limits(100, 60, MIB), (99, 59.99, MIB - 1)),
    ],
)
def test_below_its_limits_a_worker_stays(wear: RecyclingLimits, used: tuple[int, float, int]) -> None:
    assert wear.reason(*used) is None


@pytest.mark.parametrize(
    ("used", "word"), [((100, 60.0, MIB), "messages"), ((99, 60.0, MIB), "old"), ((99, 59.0, MIB), "memory")]
)
def test_one_reason_is_enough(used: tuple[int, float, int], word: str) -> None:
    reason = make_limits(100, 60, MIB).reason(*used)

    assert reason is not None
    assert word in reason


@pytest.mark.parametrize(("rss_bytes", "minds"), [(0, False), (1, True), (MIB, True)])
def test_memory_is_looked_at_only_where_it_is_limited(rss_bytes: int, minds: bool) -> None:
    assert make_limits(1, 1.0, rss_bytes).checks_memory is minds


def test_without_jitter_the_limits_are_those_of_the_settings() -> None:
    settings = Settings(max_requests=1000, worker_max_age=3600, worker_max_rss=512 * MIB)

    assert RecyclingLimits.of(settings, random.Random(1)) == make_limits(1000, 3600, 512 * MIB)


def test_the_jitter_is_added_to_each_limit_within_its_bounds() -> None:
    settings = Settings(
        max_requests=1000,
        max_requests_jitter=50,
        worker_max_age=3600,
        worker_max_age_jitter=600,
        worker_max_rss=512 * MIB,
        worker_max_rss_jitter=64 * MIB,
    )
    drawn = [RecyclingLimits.of(settings, random.Random(seed)) for seed in range(200)]

    assert all(1000 <= wear.messages <= 1050 for wear in drawn)
    assert all(3600 <= wear.age_s <= 4200 for wear in drawn)
    assert all(512 * MIB <= wear.rss_bytes <= 576 * MIB for wear in drawn)
    assert len({wear.messages for wear in drawn}) > 20
    assert len({wear.age_s for wear in drawn}) > 150
    assert len({wear.rss_bytes for wear in drawn}) > 150


def test_each_limit_has_its_own_share_of_jitter() -> None:
    settings = Settings(max_requests=1000, max_requests_jitter=1000, worker_max_age=1000, worker_max_age_jitter=1000)
    drawn = [RecyclingLimits.of(settings, random.Random(seed)) for seed in range(20)]

    assert any(abs(wear.messages - wear.age_s) > 100 for wear in drawn)


def test_jitter_without_a_limit_limits_nothing() -> None:
    settings = Settings(max_requests_jitter=50, worker_max_age_jitter=600, worker_max_rss_jitter=64 * MIB)

    for seed in range(20):
        assert RecyclingLimits.of(settings, random.Random(seed)) == make_limits()


def test_the_same_dice_draw_the_same_limits() -> None:
    settings = Settings(max_requests=10, max_requests_jitter=10**6)

    assert RecyclingLimits.of(settings, random.Random(7)) == RecyclingLimits.of(settings, random.Random(7))
    assert RecyclingLimits.of(settings, random.Random(7)) != RecyclingLimits.of(settings, random.Random(8))


def test_the_smallest_limits_are_limits() -> None:
    settings = Settings(max_requests=1, worker_max_age=0.001, worker_max_rss=1)
    wear = RecyclingLimits.of(settings, random.Random(1))

    assert wear.reason(0, 0.0, 0) is None
    assert wear.reason(1, 0.0, 0) is not None
    assert wear.reason(0, 0.001, 0) is not None
    assert wear.reason(0, 0.0, 1) is not None
