"""Supervision without processes: start, crashes, more and fewer workers, and recycling."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import (
    FIRST_PAUSE_S,
    KILL_STAGE_S,
    LONGEST_PAUSE_S,
    YOUNG_S,
    Policy,
    Spawn,
    Stage,
    Supervision,
)
from tests.helpers.supervision import LATER, act, make_serving, serving

PATIENCE_S = 30.0


# Starting


def test_the_first_worker_starts_alone() -> None:
    supervision = Supervision(4)

    assert act(supervision, 0.0, [1]) == ["fork 1"]
    assert supervision.wakes_at(0.0, {}) is None


def test_the_others_start_when_the_first_is_ready() -> None:
    supervision = Supervision(4)
    act(supervision, 0.0, [1])
    supervision.became_ready(1, 1.0)

    assert act(supervision, 1.0, [2, 3, 4]) == ["go 1", "fork 2", "fork 3", "fork 4"]
    assert not supervision.is_complete


def test_each_may_serve_as_soon_as_it_is_ready() -> None:
    supervision = Supervision(3)
    act(supervision, 0.0, [1])
    supervision.became_ready(1, 0.0)
    act(supervision, 0.0, [2, 3])
    supervision.became_ready(3, 0.5)

    assert act(supervision, 0.5) == ["go 3"]

    supervision.became_ready(2, 0.6)

    assert act(supervision, 0.6) == ["go 2"]
    assert supervision.is_complete


def test_at_the_first_start_no_worker_must_settle() -> None:
    supervision = Supervision(1, Policy(settle_s=60.0))
    act(supervision, 0.0, [1])
    supervision.became_ready(1, 0.1)

    assert act(supervision, 0.1) == ["go 1"]


def test_ready_is_reported_once() -> None:
    supervision = make_serving(1)
    supervision.became_ready(1, LATER)

    assert act(supervision, LATER) == []
    assert supervision[1].stage is Stage.SERVING
    assert supervision[1].since == 0.0


def test_an_application_that_never_gets_ready_cannot_start() -> None:
    supervision = Supervision(2)
    act(supervision, 0.0, [1])

    assert not supervision.cannot_start

    supervision.exited(1, 0.5)

    assert supervision.cannot_start


def test_an_application_that_takes_too_long_to_get_ready_cannot_start() -> None:
    supervision = Supervision(2, Policy(ready_timeout_s=5.0))
    act(supervision, 0.0, [1])
    for now in (5.0, 5.0 + KILL_STAGE_S, 5.0 + 2 * KILL_STAGE_S):
        assert len(act(supervision, now)) == 1

    supervision.exited(1, 7.5)

    assert supervision.cannot_start


def test_a_fork_that_failed_does_not_mean_that_the_application_cannot_start() -> None:
    supervision = Supervision(1)
    supervision.could_not_spawn(0.0)

    assert not supervision.cannot_start


def test_workers_that_die_young_later_are_no_reason_to_stop() -> None:
    supervision = make_serving(2)
    supervision.exited(1, 0.1)
    supervision.exited(2, 0.1)

    assert not supervision.cannot_start


def test_a_preload_process_goes_on_as_its_first_worker() -> None:
    supervision = Supervision(2)
    act(supervision, 0.0, [1])
    supervision.renamed(1, 7, 0.0)
    supervision.became_ready(7, 0.5)

    assert 1 not in supervision
    assert act(supervision, 0.5, [8]) == ["go 7", "fork 8"]


def test_nobody_is_forked_while_waiting_for_a_reload() -> None:
    supervision = Supervision(1)
    act(supervision, 0.0, [1])
    supervision.exited(1, 0.1)
    supervision.wait_for_reload()

    assert act(supervision, 1e6) == []
    assert supervision.wakes_at(1e6, {}) is None

    supervision.begin_reload(1, 1e6)

    assert act(supervision, 1e6, [2]) == ["fork 2"]


def test_waiting_for_a_reload_outlasts_the_death_of_another_worker() -> None:
    supervision = make_serving(2)
    supervision.wait_for_reload()
    supervision.exited(1, 0.1)
    supervision.could_not_spawn(0.1)

    assert supervision.wakes_at(0.1, {}) is None
    assert act(supervision, LATER) == []


# Crashes


def test_a_worker_that_lived_is_replaced_at_once() -> None:
    supervision = make_serving(2)

    assert supervision.exited(1, YOUNG_S) is not None
    assert act(supervision, YOUNG_S, [3]) == ["fork 3"]
    assert supervision.wakes_at(YOUNG_S, {}) is None


def test_a_worker_that_died_young_is_replaced_after_a_pause() -> None:
    supervision = make_serving(2)
    supervision.exited(1, 0.1)

    assert act(supervision, 0.1) == []
    assert supervision.wakes_at(0.1, {}) == 0.1 + FIRST_PAUSE_S
    assert act(supervision, 0.1 + FIRST_PAUSE_S, [3]) == ["fork 3"]


def test_the_pause_doubles_up_to_a_bound() -> None:
    supervision = Supervision(1)
    now, pauses = 0.0, []
    for pid in range(1, 12):
        assert act(supervision, now, [pid]) == [f"fork {pid}"]
        supervision.exited(pid, now)
        wakes_at = supervision.wakes_at(now, {})
        assert wakes_at is not None
        assert act(supervision, (now + wakes_at) / 2) == []
        pauses.append(wakes_at - now)
        now = wakes_at

    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses[-1] == LONGEST_PAUSE_S == max(pauses)


@pytest.mark.parametrize("ends", ["a worker that lived", "a reload"])
def test_the_pause_begins_anew_after(ends: str) -> None:
    supervision = make_serving(2)
    for _ in range(5):
        supervision.could_not_spawn(0.0)
    if ends == "a reload":
        supervision.begin_reload(2, LATER)
    else:
        supervision.exited(1, LATER)
    assert act(supervision, LATER, [3]) == ["fork 3"]
    supervision.exited(3, LATER)

    assert supervision.pause_s == FIRST_PAUSE_S


def test_a_fork_that_failed_is_tried_again_after_a_pause() -> None:
    supervision = make_serving(1)
    supervision.target = 2
    assert supervision.decide(0.0, {}) == [Spawn(0)]
    supervision.could_not_spawn(0.0)

    assert act(supervision, 0.0) == []
    assert supervision.wakes_at(0.0, {}) == FIRST_PAUSE_S
    assert act(supervision, FIRST_PAUSE_S, [2]) == ["fork 2"]


def test_a_worker_that_was_asked_to_end_slows_nothing_down() -> None:
    supervision = make_serving(2)
    supervision.target = 1
    act(supervision, 0.0)
    supervision.exited(1, 0.1)
    supervision.target = 2

    assert act(supervision, 0.1, [3]) == ["fork 3"]


@pytest.mark.parametrize("pid", [99, 0, -1])
def test_other_processes_are_not_recorded(pid: int) -> None:
    supervision = make_serving(1)
    supervision.became_ready(pid, 0.0)
    supervision.request_recycling(pid)

    assert supervision.exited(pid, 0.0) is None
    assert pid not in supervision
    assert len(supervision) == 1
    assert act(supervision, LATER, deadlines={pid: 0.0}) == []


def test_a_worker_ends_once() -> None:
    supervision = make_serving(1)

    assert supervision.exited(1, LATER) is not None
    assert supervision.exited(1, LATER) is None


# More and fewer


def test_more_workers_are_forked_at_once() -> None:
    supervision = make_serving(1)
    supervision.target = 3

    assert act(supervision, 0.0, [2, 3]) == ["fork 2", "fork 3"]


def test_of_too_many_workers_the_oldest_drain() -> None:
    supervision = make_serving(4)
    supervision.target = 2

    assert act(supervision, 0.0) == ["drain 1", "drain 2"]


def test_a_worker_to_be_recycled_goes_before_an_older_one() -> None:
    supervision = make_serving(3)
    supervision.request_recycling(2)
    supervision.target = 2

    assert act(supervision, 0.0) == ["drain 2"]


def test_more_workers_wait_for_the_first() -> None:
    supervision = Supervision(1)
    act(supervision, 0.0, [1])
    supervision.target = 3

    assert act(supervision, 0.0) == []

    supervision.became_ready(1, 0.0)

    assert act(supervision, 0.0, [2, 3]) == ["go 1", "fork 2", "fork 3"]


def test_of_workers_that_start_those_that_are_too_many_are_killed() -> None:
    supervision = Supervision(3)
    act(supervision, 0.0, [1])
    supervision.became_ready(1, 0.0)
    act(supervision, 0.0, [2, 3])
    supervision.target = 2

    assert act(supervision, 0.1) == ["kill 3"]

    supervision.exited(3, 0.2)

    assert act(supervision, 0.2) == []
    assert supervision.wakes_at(0.2, {}) is None


def test_without_a_target_everybody_goes_and_more_can_come_back() -> None:
    supervision = make_serving(2)
    supervision.target = 0

    assert act(supervision, 0.0) == ["drain 1", "drain 2"]

    supervision.exited(1, 0.1)
    supervision.exited(2, 0.1)
    supervision.target = 1

    assert act(supervision, 0.1, [3]) == ["fork 3"]


def test_a_worker_that_drains_too_long_is_killed() -> None:
    supervision = make_serving(2, Policy(drain_limit_s=PATIENCE_S))
    supervision.target = 1
    act(supervision, 0.0)

    assert supervision.wakes_at(0.0, {}) == PATIENCE_S
    assert act(supervision, PATIENCE_S - 0.1) == []
    assert act(supervision, PATIENCE_S) == ["kill 1"]
    assert act(supervision, LATER) == []


# Worn workers


def test_a_worker_to_be_recycled_drains_when_its_follower_serves() -> None:
    supervision = make_serving(2)
    supervision.request_recycling(1)

    assert act(supervision, LATER, [3]) == ["fork 3"]
    assert act(supervision, LATER + 5) == []

    supervision.became_ready(3, LATER + 6)

    assert act(supervision, LATER + 6) == ["go 3", "drain 1"]
    assert serving(supervision) == [2, 3]


def test_workers_to_be_recycled_are_replaced_surge_at_a_time() -> None:
    supervision = make_serving(4, Policy(surge=2))
    for pid in (1, 2, 3):
        supervision.request_recycling(pid)

    assert act(supervision, LATER, [5, 6]) == ["fork 5", "fork 6"]

    supervision.became_ready(5, LATER)

    assert act(supervision, LATER, [7]) == ["go 5", "drain 1", "fork 7"]


def test_a_worker_can_request_recycling_before_it_serves() -> None:
    supervision = Supervision(1)
    act(supervision, 0.0, [1])
    supervision.request_recycling(1)
    supervision.became_ready(1, 0.0)

    assert act(supervision, 0.0, [2]) == ["go 1", "fork 2"]


def test_a_worker_to_be_recycled_stays_until_a_follower_serves_even_if_some_die() -> None:
    supervision = make_serving(1)
    supervision.request_recycling(1)
    act(supervision, LATER, [2])
    supervision.exited(2, LATER)

    assert act(supervision, LATER) == []
    assert supervision.wakes_at(LATER, {}) == LATER + FIRST_PAUSE_S
    assert act(supervision, LATER + FIRST_PAUSE_S, [3]) == ["fork 3"]
    assert serving(supervision) == [1]
