"""Sleeping until a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import gevent
import pytest
from greenlet import greenlet

from loadtests.client.precise_timer import Alarm

MS = 10**6


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    yield alarm
    alarm.close()


def test_no_sleeper_is_woken_early_and_all_are_woken_in_order(alarm: Alarm) -> None:
    begin_ns = time.monotonic_ns()
    woken: list[int] = []

    def sleep(after_ms: int) -> None:
        alarm.sleep_until(begin_ns + after_ms * MS)
        assert time.monotonic_ns() >= begin_ns + after_ms * MS
        woken.append(after_ms)

    times = [7, 3, 25, 3, 12, 1, 0, -5]
    sleepers = [gevent.spawn(sleep, each) for each in times]
    gevent.joinall(sleepers, timeout=60, raise_error=True)

    assert woken == sorted(times)


def test_sleep_is_more_precise_than_that_of_the_loop(alarm: Alarm) -> None:
    """gevent.sleep() rounds up to the next millisecond. A busy machine makes some of the sleeps late, but not all."""
    late_ns: list[int] = []
    while len(late_ns) < 1000 and sum(each < 400_000 for each in late_ns) < 5:
        due_ns = time.monotonic_ns() + 1_370_000
        alarm.sleep_until(due_ns)
        late_ns.append(time.monotonic_ns() - due_ns)

    assert min(late_ns) >= 0
    assert sum(each < 400_000 for each in late_ns) == 5


def test_a_killed_sleeper_is_not_woken_and_does_not_delay_others(alarm: Alarm) -> None:
    due_ns = time.monotonic_ns() + 20 * MS
    first, second = gevent.spawn(alarm.sleep_until, due_ns - MS), gevent.spawn(alarm.sleep_until, due_ns)
    gevent.sleep(0)
    first.kill()
    gevent.joinall([second], timeout=60, raise_error=True)

    assert second.successful()
    assert time.monotonic_ns() >= due_ns


def test_a_sleeper_may_sleep_again_at_once(alarm: Alarm) -> None:
    """Even for a time before that of all others."""
    begin_ns = time.monotonic_ns()
    ticks: list[int] = []

    def tick(every_ms: int) -> None:
        for number in range(1, 11):
            alarm.sleep_until(begin_ns + number * every_ms * MS)
            ticks.append(every_ms)

    gevent.joinall([gevent.spawn(tick, 2), gevent.spawn(tick, 7)], timeout=60, raise_error=True)

    assert ticks.count(2) == ticks.count(7) == 10
    assert time.monotonic_ns() - begin_ns >= 70 * MS


def test_after_the_loop_was_busy_all_due_sleepers_are_woken_in_one_iteration(alarm: Alarm) -> None:
    """With one for each iteration, a swarm that was blocked for ten milliseconds needs as long again to catch up."""
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
    time.sleep(0.01)  # blocks the loop
    gevent.joinall(sleepers, timeout=60, raise_error=True)
    watcher.stop()
    watcher.close()

    assert len(set(woken_in)) == 1


def test_an_expiration_that_was_read_elsewhere_still_wakes(alarm: Alarm) -> None:
    due_ns = time.monotonic_ns() + MS
    sleepers = [gevent.spawn(alarm.sleep_until, due_ns + each * MS) for each in range(3)]
    gevent.sleep(0)
    time.sleep(0.01)
    assert os.read(alarm._fd, 8)
    gevent.get_hub().loop.update_now()
    gevent.joinall(sleepers, timeout=60, raise_error=True)

    assert all(sleeper.successful() for sleeper in sleepers)


def test_a_timer_that_cannot_be_set_raises_in_every_sleeper(alarm: Alarm) -> None:
    """For example because its descriptor now belongs to another file."""
    due_ns = time.monotonic_ns() + 20 * MS
    sleepers = [gevent.spawn(alarm.sleep_until, due_ns + each) for each in range(3)]
    gevent.sleep(0)
    kept = os.dup(alarm._fd)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), alarm._fd)
    sleepers.append(gevent.spawn(alarm.sleep_until, due_ns - MS))
    gevent.joinall(sleepers, timeout=60)
    os.close(kept)

    assert [type(sleeper.exception) for sleeper in sleepers] == [OSError] * 4
    with pytest.raises(OSError, match="timerfd_settime failed"):
        alarm.sleep_until(due_ns)


def test_a_greenlet_that_ends_with_an_exception_does_not_delay_others(
    alarm: Alarm, capsys: pytest.CaptureFixture[str]
) -> None:
    due_ns = time.monotonic_ns() + 2 * MS

    def fail() -> None:
        alarm.sleep_until(due_ns)
        raise ValueError("as expected")

    hub = gevent.get_hub()
    plain = greenlet(fail, hub)  # its exception reaches the hub
    hub.loop.run_callback(plain.switch)
    sleepers = [gevent.spawn(alarm.sleep_until, due_ns + each) for each in (1, 10 * MS)]
    gevent.joinall(sleepers, timeout=60, raise_error=True)

    assert all(sleeper.successful() for sleeper in sleepers)
    assert "ValueError: as expected" in capsys.readouterr().err


def test_sleeping_until_a_time_that_has_passed_lets_the_loop_run(alarm: Alarm) -> None:
    done: list[bool] = []

    def rush() -> None:
        while not done:
            alarm.sleep_until(1)

    rushing = gevent.spawn(rush)
    gevent.sleep(0.02)
    done.append(True)
    rushing.join(60)

    assert rushing.successful()


def test_closing_it_ends_all_sleepers() -> None:
    alarm = Alarm()
    sleeper = gevent.spawn(alarm.sleep_until, time.monotonic_ns() + 600_000 * MS)
    gevent.sleep(0)
    alarm.close()
    sleeper.join(60)

    assert isinstance(sleeper.value, gevent.GreenletExit)
    with pytest.raises(gevent.GreenletExit):
        alarm.sleep_until(0)
