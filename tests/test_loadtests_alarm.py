"""Sleeping until a moment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import gevent
import pytest

from loadtests.alarm import Alarm

MS = 10**6


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    yield alarm
    alarm.close()


def test_nobody_is_woken_early_and_all_in_order(alarm: Alarm) -> None:
    begin_ns = time.monotonic_ns()
    woken: list[int] = []

    def sleep(after_ms: int) -> None:
        alarm.sleep_until(begin_ns + after_ms * MS)
        assert time.monotonic_ns() >= begin_ns + after_ms * MS
        woken.append(after_ms)

    times = [7, 3, 25, 3, 12, 1, 0, -5]
    sleepers = [gevent.spawn(sleep, each) for each in times]
    gevent.joinall(sleepers, timeout=20, raise_error=True)

    assert woken == sorted(times)


def test_sleep_ends_more_exactly_than_the_loop_can(alarm: Alarm) -> None:
    """gevent.sleep() rounds up to the next millisecond; here the best tenth of the moments is far from that."""
    late_ns = []
    for _ in range(50):
        due_ns = time.monotonic_ns() + 1_370_000
        alarm.sleep_until(due_ns)
        late_ns.append(time.monotonic_ns() - due_ns)

    assert min(late_ns) >= 0
    assert statistics.quantiles(late_ns, n=10)[0] < 400_000


def test_a_sleeper_that_is_killed_is_not_woken_and_keeps_nobody_asleep(alarm: Alarm) -> None:
    due_ns = time.monotonic_ns() + 20 * MS
    first, second = gevent.spawn(alarm.sleep_until, due_ns - MS), gevent.spawn(alarm.sleep_until, due_ns)
    gevent.sleep(0)
    first.kill()
    gevent.joinall([second], timeout=20, raise_error=True)

    assert second.successful()
    assert time.monotonic_ns() >= due_ns


def test_a_sleeper_may_sleep_again_at_once(alarm: Alarm) -> None:
    """And sets the alarm for a moment before everybody else's."""
    begin_ns = time.monotonic_ns()
    ticks: list[int] = []

    def tick(every_ms: int) -> None:
        for number in range(1, 11):
            alarm.sleep_until(begin_ns + number * every_ms * MS)
            ticks.append(every_ms)

    gevent.joinall([gevent.spawn(tick, 2), gevent.spawn(tick, 7)], timeout=20, raise_error=True)

    assert ticks.count(2) == ticks.count(7) == 10
    assert time.monotonic_ns() - begin_ns >= 70 * MS


def test_after_the_loop_was_busy_all_that_are_due_are_woken_in_one_turn(alarm: Alarm) -> None:
    """One a turn, and a swarm that was held up for ten milliseconds takes as long again to catch up."""
    turns = [0]
    woken_in: list[int] = []

    def sleep(due_ns: int) -> None:
        alarm.sleep_until(due_ns)
        woken_in.append(turns[0])

    def count() -> None:
        turns[0] += 1

    due_ns = time.monotonic_ns() + 2 * MS
    sleepers = [gevent.spawn(sleep, due_ns + each) for each in range(20)]
    gevent.sleep(0)
    watcher = gevent.get_hub().loop.prepare()
    watcher.start(count)
    time.sleep(0.01)  # the loop is kept from its work
    gevent.joinall(sleepers, timeout=20, raise_error=True)
    watcher.stop()
    watcher.close()

    assert len(set(woken_in)) == 1
