"""The accept balance: the rule itself, and its effect with many workers."""

from __future__ import annotations

import random

import pytest

from gserver.worker.accept_balance import LONGEST_PAUSE_S, SECONDS_PER_CONNECTION, SLACK_SHARE, pause_before_accept
from gserver.worker.worker_server import STILL_THERE_S

#: What the fullest worker may hold of what the emptiest holds.
FAIR = 1.15
#: What one accept takes a worker, and the time between two bursts, in seconds.
ACCEPT_S = 0.0001
BETWEEN_BURSTS_S = 0.02


def let_arrive(held: list[int], bursts: list[int], dice: random.Random) -> float:
    """Let bursts of connections arrive at workers that hold `held`; return how long the slowest burst was queued.

    The first worker comes first twice as often as the second, and so on, as where the kernel has its favourites. One
    that pauses is deaf for as long, and takes one if it comes back and finds it still there.
    """
    weights = [2.0**-index for index in range(len(held))]
    deaf_until = [-1.0] * len(held)
    now = slowest = 0.0
    for burst in bursts:
        began_at = now
        while burst:
            awake = [index for index in range(len(held)) if deaf_until[index] <= now]
            if not awake:
                now = min(deaf_until)
                continue
            worker = dice.choices(awake, [weights[index] for index in awake])[0]
            is_back = now - deaf_until[worker] < STILL_THERE_S
            pause = 0.0 if is_back else pause_before_accept(held[worker], min(held))
            deaf_until[worker] = now + pause if pause else -1.0
            if not pause:
                held[worker] += 1
                burst -= 1
                now += ACCEPT_S
        slowest = max(slowest, now - began_at)
        now += BETWEEN_BURSTS_S
    return slowest


def make_bursts(total: int, size: int) -> list[int]:
    return [size] * (total // size) + [total % size]


# The rule


@pytest.mark.parametrize("own", [0, 1, 10**9])
def test_a_single_worker_never_pauses(own: int) -> None:
    assert pause_before_accept(own, None) == 0.0


@pytest.mark.parametrize("own", [0, 1, 15, 16, 17, 1000, 10**9])
def test_the_one_with_the_fewest_never_pauses(own: int) -> None:
    assert pause_before_accept(own, own) == 0.0


@pytest.mark.parametrize(("own", "fewest"), [(0, 1), (0, 10**9), (99, 100)])
def test_a_worker_below_the_fewest_never_pauses(own: int, fewest: int) -> None:
    assert pause_before_accept(own, fewest) == 0.0


@pytest.mark.parametrize(("fewest", "slack"), [(0, 1), (1, 1), (SLACK_SHARE * 2 - 1, 1), (SLACK_SHARE * 100, 100)])
def test_being_ahead_by_little_is_not_worth_a_pause(fewest: int, slack: int) -> None:
    assert pause_before_accept(fewest + slack, fewest) == 0.0
    assert pause_before_accept(fewest + slack + 1, fewest) == pytest.approx(SECONDS_PER_CONNECTION)


@pytest.mark.parametrize("fewest", [0, 7, 100, 5000])
def test_the_further_ahead_the_longer_the_pause(fewest: int) -> None:
    pauses = [pause_before_accept(own, fewest) for own in range(fewest, fewest * 2 + 100)]

    assert pauses == sorted(pauses)
    assert len(set(pauses)) > 10


@pytest.mark.parametrize(("own", "fewest"), [(1000, 0), (10**12, 0), (10**12, 10**6)])
def test_a_pause_has_a_bound(own: int, fewest: int) -> None:
    assert pause_before_accept(own, fewest) == LONGEST_PAUSE_S


def test_a_pause_is_never_negative() -> None:
    assert min(pause_before_accept(own, fewest) for own in range(60) for fewest in range(60)) == 0.0


# What comes of it


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("burst", [1, 30, 250])
def test_the_fullest_worker_holds_little_more_than_the_emptiest(workers: int, burst: int, seed: int) -> None:
    held = [0] * workers
    total = workers * 120

    let_arrive(held, make_bursts(total, burst), random.Random(seed))

    assert sum(held) == total
    assert max(held) <= FAIR * min(held), held


@pytest.mark.parametrize("seed", range(3))
def test_it_stays_fair_with_many_connections(seed: int) -> None:
    held = [0] * 4

    let_arrive(held, [500] * 16, random.Random(seed))

    assert max(held) <= FAIR * min(held), held


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_a_worker_that_starts_with_none_catches_up(workers: int) -> None:
    held = [0] + [200] * (workers - 1)

    let_arrive(held, [20] * 12, random.Random(workers))

    assert max(held) <= FAIR * min(held), held


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_a_burst_waits_for_one_worker_no_longer_than_that_one_takes(workers: int) -> None:
    held = [0] + [1000] * (workers - 1)

    waited = let_arrive(held, [50] * 4, random.Random(workers))

    assert waited <= 50 * ACCEPT_S + LONGEST_PAUSE_S


def test_a_client_does_not_wait_for_a_worker_that_never_comes() -> None:
    """The one with the fewest is stuck: the others take all that comes, each after a pause at most."""
    held, now, longest = [1000, 1000], 0.0, 0.0
    for _ in range(100):
        pauses = [pause_before_accept(own, 0) for own in held]
        longest = max(longest, min(pauses))
        held[pauses.index(min(pauses))] += 1
        now += min(pauses)

    assert sum(held) == 2100
    assert longest <= LONGEST_PAUSE_S
