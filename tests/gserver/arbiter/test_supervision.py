"""The book of workers, without any process: starting, crashing, more and fewer, and workers that are worn."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STROKE_S,
    YOUNG_S,
    Children,
    Policy,
    Spawn,
    Stage,
)
from tests.helpers.supervision_driver import LATER, act, make_serving, serving

PATIENCE_S = 30.0


# Starting


def test_the_first_worker_starts_alone() -> None:
    children = Children(4)

    assert act(children, 0.0, [1]) == ["fork 1"]
    assert children.wakes_at(0.0, {}) is None


def test_the_others_start_when_the_first_is_ready() -> None:
    children = Children(4)
    act(children, 0.0, [1])
    children.became_ready(1, 1.0)

    assert act(children, 1.0, [2, 3, 4]) == ["go 1", "fork 2", "fork 3", "fork 4"]
    assert not children.is_complete


def test_each_may_serve_as_soon_as_it_is_ready() -> None:
    children = Children(3)
    act(children, 0.0, [1])
    children.became_ready(1, 0.0)
    act(children, 0.0, [2, 3])
    children.became_ready(3, 0.5)

    assert act(children, 0.5) == ["go 3"]

    children.became_ready(2, 0.6)

    assert act(children, 0.6) == ["go 2"]
    assert children.is_complete


def test_at_the_first_start_nobody_settles() -> None:
    children = Children(1, Policy(settle_s=60.0))
    act(children, 0.0, [1])
    children.became_ready(1, 0.1)

    assert act(children, 0.1) == ["go 1"]


def test_ready_is_heard_once() -> None:
    children = make_serving(1)
    children.became_ready(1, LATER)

    assert act(children, LATER) == []
    assert children[1].stage is Stage.SERVING
    assert children[1].since == 0.0


def test_an_application_that_never_gets_ready_cannot_start() -> None:
    children = Children(2)
    act(children, 0.0, [1])

    assert not children.cannot_start

    children.exited(1, 0.5)

    assert children.cannot_start


def test_an_application_that_takes_too_long_to_get_ready_cannot_start() -> None:
    children = Children(2, Policy(ready_timeout_s=5.0))
    act(children, 0.0, [1])
    for now in (5.0, 5.0 + STROKE_S, 5.0 + 2 * STROKE_S):
        assert len(act(children, now)) == 1

    children.exited(1, 7.5)

    assert children.cannot_start


def test_a_fork_that_failed_says_nothing_about_the_application() -> None:
    children = Children(1)
    children.could_not_spawn(0.0)

    assert not children.cannot_start


def test_workers_that_die_young_later_are_no_reason_to_stop() -> None:
    children = make_serving(2)
    children.exited(1, 0.1)
    children.exited(2, 0.1)

    assert not children.cannot_start


def test_a_mold_goes_on_as_its_first_worker() -> None:
    children = Children(2)
    act(children, 0.0, [1])
    children.renamed(1, 7, 0.0)
    children.became_ready(7, 0.5)

    assert 1 not in children
    assert act(children, 0.5, [8]) == ["go 7", "fork 8"]


def test_nobody_is_forked_while_waiting_for_a_reload() -> None:
    children = Children(1)
    act(children, 0.0, [1])
    children.exited(1, 0.1)
    children.wait_for_reload()

    assert act(children, 1e6) == []
    assert children.wakes_at(1e6, {}) is None

    children.begin_reload(1, 1e6)

    assert act(children, 1e6, [2]) == ["fork 2"]


def test_waiting_for_a_reload_outlasts_the_death_of_another_worker() -> None:
    children = make_serving(2)
    children.wait_for_reload()
    children.exited(1, 0.1)
    children.could_not_spawn(0.1)

    assert children.wakes_at(0.1, {}) is None
    assert act(children, LATER) == []


# Crashes


def test_a_worker_that_lived_is_replaced_at_once() -> None:
    children = make_serving(2)

    assert children.exited(1, YOUNG_S) is not None
    assert act(children, YOUNG_S, [3]) == ["fork 3"]
    assert children.wakes_at(YOUNG_S, {}) is None


def test_a_worker_that_died_young_is_replaced_after_a_pause() -> None:
    children = make_serving(2)
    children.exited(1, 0.1)

    assert act(children, 0.1) == []
    assert children.wakes_at(0.1, {}) == 0.1 + FIRST_PAUSE_S
    assert act(children, 0.1 + FIRST_PAUSE_S, [3]) == ["fork 3"]


def test_the_pause_doubles_up_to_a_bound() -> None:
    children = Children(1)
    now, pauses = 0.0, []
    for pid in range(1, 12):
        assert act(children, now, [pid]) == [f"fork {pid}"]
        children.exited(pid, now)
        wakes_at = children.wakes_at(now, {})
        assert wakes_at is not None
        assert act(children, (now + wakes_at) / 2) == []
        pauses.append(wakes_at - now)
        now = wakes_at

    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses[-1] == LONGEST_PAUSE_S == max(pauses)


@pytest.mark.parametrize("ends", ["a worker that lived", "a reload"])
def test_the_pause_begins_anew_after(ends: str) -> None:
    children = make_serving(2)
    for _ in range(5):
        children.could_not_spawn(0.0)
    if ends == "a reload":
        children.begin_reload(2, LATER)
    else:
        children.exited(1, LATER)
    assert act(children, LATER, [3]) == ["fork 3"]
    children.exited(3, LATER)

    assert children.pause_s == FIRST_PAUSE_S


def test_a_fork_that_failed_is_tried_again_after_a_pause() -> None:
    children = make_serving(1)
    children.target = 2
    assert children.decide(0.0, {}) == [Spawn(0)]
    children.could_not_spawn(0.0)

    assert act(children, 0.0) == []
    assert children.wakes_at(0.0, {}) == FIRST_PAUSE_S
    assert act(children, FIRST_PAUSE_S, [2]) == ["fork 2"]


def test_a_worker_that_was_asked_to_end_slows_nothing_down() -> None:
    children = make_serving(2)
    children.target = 1
    act(children, 0.0)
    children.exited(1, 0.1)
    children.target = 2

    assert act(children, 0.1, [3]) == ["fork 3"]


@pytest.mark.parametrize("pid", [99, 0, -1])
def test_a_strange_process_is_none_of_ours(pid: int) -> None:
    children = make_serving(1)
    children.became_ready(pid, 0.0)
    children.is_worn(pid)

    assert children.exited(pid, 0.0) is None
    assert pid not in children
    assert len(children) == 1
    assert act(children, LATER, deadlines={pid: 0.0}) == []


def test_a_worker_ends_once() -> None:
    children = make_serving(1)

    assert children.exited(1, LATER) is not None
    assert children.exited(1, LATER) is None


# More and fewer


def test_more_workers_are_forked_at_once() -> None:
    children = make_serving(1)
    children.target = 3

    assert act(children, 0.0, [2, 3]) == ["fork 2", "fork 3"]


def test_of_too_many_workers_the_oldest_drain() -> None:
    children = make_serving(4)
    children.target = 2

    assert act(children, 0.0) == ["drain 1", "drain 2"]


def test_a_worn_worker_goes_before_an_older_one() -> None:
    children = make_serving(3)
    children.is_worn(2)
    children.target = 2

    assert act(children, 0.0) == ["drain 2"]


def test_more_workers_wait_for_the_first() -> None:
    children = Children(1)
    act(children, 0.0, [1])
    children.target = 3

    assert act(children, 0.0) == []

    children.became_ready(1, 0.0)

    assert act(children, 0.0, [2, 3]) == ["go 1", "fork 2", "fork 3"]


def test_of_workers_that_start_those_that_are_too_many_are_killed() -> None:
    children = Children(3)
    act(children, 0.0, [1])
    children.became_ready(1, 0.0)
    act(children, 0.0, [2, 3])
    children.target = 2

    assert act(children, 0.1) == ["kill 3"]

    children.exited(3, 0.2)

    assert act(children, 0.2) == []
    assert children.wakes_at(0.2, {}) is None


def test_without_a_target_everybody_goes_and_more_can_come_back() -> None:
    children = make_serving(2)
    children.target = 0

    assert act(children, 0.0) == ["drain 1", "drain 2"]

    children.exited(1, 0.1)
    children.exited(2, 0.1)
    children.target = 1

    assert act(children, 0.1, [3]) == ["fork 3"]


def test_a_worker_that_drains_too_long_is_killed() -> None:
    children = make_serving(2, Policy(drain_patience_s=PATIENCE_S))
    children.target = 1
    act(children, 0.0)

    assert children.wakes_at(0.0, {}) == PATIENCE_S
    assert act(children, PATIENCE_S - 0.1) == []
    assert act(children, PATIENCE_S) == ["kill 1"]
    assert act(children, LATER) == []


# Worn workers


def test_a_worn_worker_drains_when_its_follower_serves() -> None:
    children = make_serving(2)
    children.is_worn(1)

    assert act(children, LATER, [3]) == ["fork 3"]
    assert act(children, LATER + 5) == []

    children.became_ready(3, LATER + 6)

    assert act(children, LATER + 6) == ["go 3", "drain 1"]
    assert serving(children) == [2, 3]


def test_worn_workers_are_replaced_surge_at_a_time() -> None:
    children = make_serving(4, Policy(surge=2))
    for pid in (1, 2, 3):
        children.is_worn(pid)

    assert act(children, LATER, [5, 6]) == ["fork 5", "fork 6"]

    children.became_ready(5, LATER)

    assert act(children, LATER, [7]) == ["go 5", "drain 1", "fork 7"]


def test_a_worker_can_be_worn_before_it_serves() -> None:
    children = Children(1)
    act(children, 0.0, [1])
    children.is_worn(1)
    children.became_ready(1, 0.0)

    assert act(children, 0.0, [2]) == ["go 1", "fork 2"]


def test_a_worn_worker_stays_until_a_follower_serves_even_if_some_die() -> None:
    children = make_serving(1)
    children.is_worn(1)
    act(children, LATER, [2])
    children.exited(2, LATER)

    assert act(children, LATER) == []
    assert children.wakes_at(LATER, {}) == LATER + FIRST_PAUSE_S
    assert act(children, LATER + FIRST_PAUSE_S, [3]) == ["fork 3"]
    assert serving(children) == [1]
