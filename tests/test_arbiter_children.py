"""The book of workers, without any process."""

from __future__ import annotations

from gserver.arbiter.children import FIRST_PAUSE_S, LONGEST_PAUSE_S, YOUNG_S, Children


def make_started(target: int) -> Children:
    """Children whose workers 1..target have long been ready, at time 0."""
    children = Children(target)
    for pid in range(1, target + 1):
        children.spawned(pid, 0.0)
        children.became_ready(pid)
    return children


def test_first_worker_starts_alone() -> None:
    children = Children(4)

    assert children.to_spawn(0.0) == 1


def test_the_others_start_when_the_first_is_ready() -> None:
    children = Children(4)
    children.spawned(1, 0.0)

    assert children.to_spawn(0.0) == 0

    children.became_ready(1)

    assert children.to_spawn(0.0) == 3


def test_a_worker_that_lived_is_replaced_at_once() -> None:
    children = make_started(2)

    assert children.exited(1, YOUNG_S) is not None
    assert children.to_spawn(YOUNG_S) == 1
    assert children.wakes_at(YOUNG_S) is None


def test_a_worker_that_died_young_is_replaced_after_a_pause() -> None:
    children = make_started(2)
    children.exited(1, 0.1)

    assert children.to_spawn(0.1) == 0
    assert children.wakes_at(0.1) == 0.1 + FIRST_PAUSE_S
    assert children.to_spawn(0.1 + FIRST_PAUSE_S) == 1


def test_the_pause_doubles_up_to_a_bound_and_ends_with_a_worker_that_lives() -> None:
    children = make_started(1)
    now, pauses = 0.0, []
    for pid in range(1, 12):
        children.exited(pid, now)
        wakes_at = children.wakes_at(now)
        assert wakes_at is not None
        pauses.append(wakes_at - now)
        now = wakes_at
        children.spawned(pid + 1, now)

    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses[-1] == LONGEST_PAUSE_S

    children.became_ready(12)
    children.exited(12, now + YOUNG_S)

    assert children.to_spawn(now + YOUNG_S) == 1


def test_an_application_that_never_gets_ready_cannot_start() -> None:
    children = Children(2)
    children.spawned(1, 0.0)

    assert not children.cannot_start

    children.exited(1, 0.5)

    assert children.cannot_start


def test_workers_that_die_young_later_are_no_reason_to_stop() -> None:
    children = make_started(2)
    children.exited(1, 0.1)
    children.exited(2, 0.1)

    assert not children.cannot_start


def test_a_strange_process_is_none_of_ours() -> None:
    children = make_started(1)

    assert children.exited(99, 0.0) is None
    assert len(children) == 1
    assert children.pids == [1]
