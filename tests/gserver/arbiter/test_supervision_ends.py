"""Supervision without processes: missed deadlines, and the stop."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import (
    FIRST_PAUSE_S,
    JUMP_GRACE_S,
    JUMP_S,
    KILL_STAGE_S,
    PRELOAD_FORK_S,
    Policy,
    ReloadFailed,
    Stage,
    Supervision,
)
from tests.helpers.supervision import LATER, act, describe, make_reloading, make_serving, serving

PATIENCE_S = 10.0
DUE_AT = 20.0


def make_struck(kill_stages_done: int) -> Supervision:
    """Workers 1 and 2 serve; 1 missed its deadline DUE_AT and has gone through so many kill stages: the last at
    DUE_AT + strokes - 1."""
    supervision = make_serving(2)
    for number in range(kill_stages_done):
        act(supervision, DUE_AT + number * KILL_STAGE_S, deadlines={1: DUE_AT})
    return supervision


# Heartbeats


def test_with_all_workers_serving_it_sleeps_until_the_first_heartbeat_is_due() -> None:
    supervision = make_serving(3)

    assert supervision.wakes_at(0.0, {}) is None
    assert supervision.wakes_at(0.0, {1: 12.0, 2: 11.0, 3: 13.0, 99: 1.0}) == 11.0


def test_the_kill_stages_come_in_order_a_second_apart() -> None:
    supervision = make_serving(2)
    deadlines = {1: DUE_AT, 2: LATER}

    assert act(supervision, DUE_AT - 0.1, deadlines=deadlines) == []
    for number, word in enumerate(["dump 1", "abort 1", "kill 1"]):
        due_at = DUE_AT + number * KILL_STAGE_S
        assert supervision.wakes_at(due_at - 0.1, deadlines) == due_at
        assert act(supervision, due_at - 0.1, deadlines=deadlines) == []
        assert act(supervision, due_at, deadlines=deadlines) == [word]
    assert act(supervision, DUE_AT + 10, deadlines=deadlines) == []
    assert supervision.wakes_at(DUE_AT + 10, deadlines) == LATER


def test_a_worker_that_an_operator_has_killed_goes_through_all_stages_before_its_deadline() -> None:
    supervision = make_serving(2)
    supervision.request_kill(1, 5.0)
    supervision.request_kill(99, 5.0)  # it has ended meanwhile
    deadlines = {1: LATER, 2: LATER}

    assert supervision.wakes_at(5.0, deadlines) == 5.0
    assert sorted(act(supervision, 5.0, [3], deadlines=deadlines)) == ["dump 1", "fork 3"]
    assert act(supervision, 5.0 + KILL_STAGE_S, deadlines=deadlines) == ["abort 1"]
    supervision.exited(1, 6.5)
    assert act(supervision, 6.5, deadlines=deadlines) == []  # the one that replaces it boots already


def test_a_worker_that_is_being_killed_is_replaced_when_it_has_ended() -> None:
    supervision = make_struck(2)
    supervision.exited(1, DUE_AT + 2)

    assert act(supervision, DUE_AT + 2, [3]) == ["fork 3"]


def test_a_deadline_that_moves_on_kills_no_worker() -> None:
    supervision = make_serving(1)

    for now in range(100):
        assert act(supervision, float(now), deadlines={1: now + 0.5}) == []


@pytest.mark.parametrize("timeout_s", [0.0, 5.0])
def test_a_worker_that_boots_has_the_time_it_takes_to_boot(timeout_s: float) -> None:
    supervision = Supervision(1, Policy(ready_timeout_s=timeout_s))
    act(supervision, 0.0, [1])

    assert supervision.wakes_at(0.0, {1: 1.0}) == (timeout_s or None)
    assert act(supervision, 4.0, deadlines={1: 1.0}) == []


def test_all_that_are_overdue_are_killed() -> None:
    supervision = make_serving(3)

    assert act(supervision, DUE_AT, deadlines={1: DUE_AT, 2: 0.0, 3: DUE_AT + 1}) == ["dump 1", "dump 2"]


# Time that stood still


def test_after_an_unplanned_sleep_all_workers_get_time_for_a_heartbeat() -> None:
    supervision = make_serving(1)
    supervision.wakes_at(0.0, {1: DUE_AT})
    woke_at = DUE_AT + JUMP_S + 1.0

    assert act(supervision, woke_at, deadlines={1: DUE_AT}) == []
    assert supervision.wakes_at(woke_at, {1: DUE_AT}) == woke_at + JUMP_GRACE_S
    assert act(supervision, woke_at + JUMP_GRACE_S - 0.1, deadlines={1: DUE_AT}) == []
    assert act(supervision, woke_at + JUMP_GRACE_S, deadlines={1: DUE_AT}) == ["dump 1"]


def test_an_arbiter_that_stands_still_while_it_acts_has_slept_too() -> None:
    """It was stopped between two decisions of one turn, and had planned nothing since the first of them."""
    supervision = make_serving(1)
    act(supervision, DUE_AT - 2.0, deadlines={1: DUE_AT})

    assert act(supervision, DUE_AT + JUMP_S + 1.0, deadlines={1: DUE_AT}) == []


def test_after_an_unplanned_sleep_booting_workers_get_more_time_too() -> None:
    supervision = Supervision(1, Policy(ready_timeout_s=5.0))
    act(supervision, 0.0, [1])
    supervision.wakes_at(0.0, {})

    assert act(supervision, 1000.0) == []

    supervision.became_ready(1, 1000.1)

    assert act(supervision, 1000.1) == ["go 1"]


def test_a_small_delay_gives_no_grace_time() -> None:
    supervision = make_serving(1)
    supervision.wakes_at(0.0, {1: DUE_AT})

    assert act(supervision, DUE_AT + JUMP_S, deadlines={1: DUE_AT}) == ["dump 1"]


def test_without_a_planned_wakeup_no_sleep_is_too_long() -> None:
    supervision = make_serving(1)
    assert supervision.wakes_at(0.0, {}) is None

    assert act(supervision, 1e6, deadlines={1: DUE_AT}) == ["dump 1"]


# Draining


def test_a_worker_that_drains_is_killed_at_the_drain_limit() -> None:
    supervision = make_serving(2, Policy(drain_limit_s=PATIENCE_S))
    supervision.target = 1
    act(supervision, LATER)

    assert supervision.wakes_at(LATER, {}) == LATER + PATIENCE_S
    assert act(supervision, LATER + PATIENCE_S - 0.1) == []
    assert act(supervision, LATER + PATIENCE_S) == ["kill 1"]
    assert supervision.wakes_at(LATER + PATIENCE_S, {}) is None


def test_a_worker_that_is_overdue_while_it_drains_is_killed_before_the_drain_limit() -> None:
    supervision = make_serving(2, Policy(drain_limit_s=PATIENCE_S))
    supervision.target = 1
    act(supervision, LATER)
    deadlines = {1: LATER + 1}

    assert supervision.wakes_at(LATER, deadlines) == LATER + 1
    assert act(supervision, LATER + 1, deadlines=deadlines) == ["dump 1"]
    assert act(supervision, LATER + 1 + KILL_STAGE_S, deadlines=deadlines) == ["abort 1"]
    assert act(supervision, LATER + 1 + 2 * KILL_STAGE_S, deadlines=deadlines) == ["kill 1"]
    assert act(supervision, LATER + PATIENCE_S, deadlines=deadlines) == []


def test_the_kill_stages_go_on_when_a_worker_being_killed_becomes_superfluous() -> None:
    supervision = make_struck(1)
    supervision.target = 1
    assert act(supervision, DUE_AT) == ["drain 1"]

    assert supervision.wakes_at(DUE_AT, {}) == DUE_AT + KILL_STAGE_S
    assert act(supervision, DUE_AT + KILL_STAGE_S) == ["abort 1"]


@pytest.mark.parametrize("kill_stages_done", [1, 2, 3])
def test_a_superfluous_worker_that_does_not_even_end_when_killed_is_left_alone(kill_stages_done: int) -> None:
    supervision = make_struck(kill_stages_done)
    supervision.target = 1
    act(supervision, DUE_AT + 2)
    for now in range(30, 100):
        act(supervision, float(now))

    assert act(supervision, LATER) == []
    assert serving(supervision) == [2]


# Stopping


def test_at_a_stop_workers_that_exceed_the_drain_limit_are_killed() -> None:
    supervision = make_serving(2)
    supervision.stop(LATER, PATIENCE_S)

    assert supervision.is_stopping
    assert act(supervision, LATER) == []
    assert {child.stage for child in supervision} == {Stage.DRAINING}
    assert supervision.wakes_at(LATER, {}) == LATER + PATIENCE_S
    assert act(supervision, LATER + PATIENCE_S) == ["kill 1", "kill 2"]


def test_when_it_stops_nobody_is_forked() -> None:
    supervision = make_serving(2)
    supervision.stop(LATER, PATIENCE_S)
    supervision.exited(1, LATER)
    supervision.target = 5

    assert act(supervision, LATER) == []
    assert len(supervision) == 1

    supervision.exited(2, LATER)

    assert supervision.wakes_at(LATER, {}) is None


def test_when_it_stops_nobody_begins_to_serve() -> None:
    supervision = Supervision(1)
    act(supervision, 0.0, [1])
    supervision.stop(0.1, PATIENCE_S)
    supervision.became_ready(1, 0.2)

    assert act(supervision, 0.2) == []


def test_when_it_stops_during_a_pause_nobody_wakes_to_fork() -> None:
    supervision = make_serving(2)
    supervision.exited(1, 0.1)
    supervision.stop(0.2, PATIENCE_S)

    assert supervision.wakes_at(0.2, {}) == 0.2 + PATIENCE_S


def test_a_second_stop_shortens_the_drain_limit() -> None:
    supervision = make_serving(1)
    supervision.stop(LATER, PATIENCE_S)
    supervision.stop(LATER + 1, 0.5)

    assert supervision.wakes_at(LATER + 1, {}) == LATER + 1.5
    assert act(supervision, LATER + 1.5) == ["kill 1"]

    supervision.stop(LATER + 2, 0.5)

    assert act(supervision, LATER * 2) == []


@pytest.mark.parametrize("stops", [1, 2])
def test_a_stop_ends_a_reload_as_failed_once(stops: int) -> None:
    supervision = make_reloading(2)
    for _ in range(stops):
        supervision.stop(LATER + 1, PATIENCE_S)

    actions = supervision.decide(LATER + 1, {})

    assert [type(action) for action in actions] == [ReloadFailed]
    assert not supervision.is_reloading


def test_a_new_worker_that_ends_after_a_stop_fails_no_reload() -> None:
    supervision = make_reloading(1)
    supervision.stop(LATER, PATIENCE_S)
    act(supervision, LATER)
    supervision.exited(2, LATER)

    assert act(supervision, LATER) == []


@pytest.mark.parametrize("kill_stages_done", [1, 2, 3])
def test_a_worker_that_is_being_killed_already_is_killed_at_the_latest_at_the_drain_limit(
    kill_stages_done: int,
) -> None:
    supervision = make_struck(kill_stages_done)
    supervision.stop(DUE_AT + 2.5, PATIENCE_S)
    words = []
    for tenth in range(25, 25 + int(PATIENCE_S) * 10 + 1):
        words += act(supervision, DUE_AT + tenth / 10)

    assert "kill 2" in words
    assert kill_stages_done == 3 or "kill 1" in words
    assert act(supervision, LATER) == []


def test_a_worker_that_is_overdue_after_a_stop_is_killed() -> None:
    supervision = make_serving(1)
    supervision.stop(LATER, PATIENCE_S)

    assert act(supervision, LATER + 1, deadlines={1: LATER + 1}) == ["dump 1"]


def test_a_worker_that_drains_of_itself_is_replaced_at_once_and_has_the_same_drain_limit() -> None:
    supervision = make_serving(2, Policy(drain_limit_s=5.0))
    supervision.stopped_accepting(1, LATER)

    assert act(supervision, LATER, [3]) == ["drain 1", "fork 3"]
    assert supervision[1].stage is Stage.DRAINING
    assert supervision.wakes_at(LATER, {}) == LATER + 5.0
    assert act(supervision, LATER + 5.0) == ["kill 1"]
    supervision.exited(1, LATER + 5.1)
    assert supervision.pause_s == 0.0


def test_a_worker_that_drains_of_itself_as_soon_as_it_serves_is_followed_after_a_pause() -> None:
    supervision = make_serving(1)
    supervision.stopped_accepting(1, 0.1)

    assert act(supervision, 0.1) == ["drain 1"]
    assert supervision.wakes_at(0.1, {}) == 0.1 + FIRST_PAUSE_S
    assert act(supervision, 0.1 + FIRST_PAUSE_S, [2]) == ["fork 2"]


def test_a_worker_that_a_preload_process_does_not_fork_in_time_is_given_up() -> None:
    supervision = make_serving(1)
    supervision.exited(1, LATER)
    act(supervision, LATER, [-2])

    assert supervision[-2].is_pending
    assert supervision.wakes_at(LATER, {}) == LATER + PRELOAD_FORK_S
    assert [describe(each) for each in supervision.decide(LATER + PRELOAD_FORK_S, {})][:1] == ["dump -2"]


def test_a_worker_that_is_forked_has_the_time_of_every_worker() -> None:
    supervision = make_serving(1, Policy(ready_timeout_s=30.0))
    supervision.exited(1, LATER)
    act(supervision, LATER, [-2])
    supervision.renamed(-2, 7, LATER + 1.0)

    assert not supervision[7].is_pending
    assert supervision.wakes_at(LATER + 1.0, {}) == LATER + 30.0


def test_while_a_preload_process_boots_no_worker_is_forked() -> None:
    supervision = make_serving(3)
    for pid in (1, 2, 3):
        supervision.exited(pid, LATER)
    supervision.is_preloading = True

    assert act(supervision, LATER, [4]) == ["fork 4"]
    supervision.is_preloading = False
    assert act(supervision, LATER, [5, 6]) == ["fork 5", "fork 6"]


def test_a_reload_that_fails_for_a_worker_without_a_process_names_no_process() -> None:
    supervision = make_reloading(1)
    supervision.renamed(2, -2, LATER)
    supervision.exited(-2, LATER)
    failed = [each for each in supervision.decide(LATER, {}) if isinstance(each, ReloadFailed)]

    assert failed == [ReloadFailed("a new worker ended while it was booting")]
