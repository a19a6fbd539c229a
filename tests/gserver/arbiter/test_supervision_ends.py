"""The book of workers, without any process: workers that are not heard of, and the end."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import (
    AMNESTY_S,
    BIRTH_S,
    FIRST_PAUSE_S,
    JUMP_S,
    STROKE_S,
    Children,
    Policy,
    ReloadFailed,
    Stage,
)
from tests.helpers.supervision_driver import LATER, act, describe, make_reloading, make_serving, serving

PATIENCE_S = 10.0
DUE_AT = 20.0


def make_struck(strokes: int) -> Children:
    """Workers 1 and 2 serve; 1 was not heard of at DUE_AT, and has had so many strokes by now: the last at
    DUE_AT + strokes - 1."""
    children = make_serving(2)
    for number in range(strokes):
        act(children, DUE_AT + number * STROKE_S, deadlines={1: DUE_AT})
    return children


# Heartbeats


def test_who_is_complete_sleeps_until_the_first_heartbeat_is_due() -> None:
    children = make_serving(3)

    assert children.wakes_at(0.0, {}) is None
    assert children.wakes_at(0.0, {1: 12.0, 2: 11.0, 3: 13.0, 99: 1.0}) == 11.0


def test_the_strokes_come_in_order_a_second_apart() -> None:
    children = make_serving(2)
    deadlines = {1: DUE_AT, 2: LATER}

    assert act(children, DUE_AT - 0.1, deadlines=deadlines) == []
    for number, word in enumerate(["dump 1", "abort 1", "kill 1"]):
        due_at = DUE_AT + number * STROKE_S
        assert children.wakes_at(due_at - 0.1, deadlines) == due_at
        assert act(children, due_at - 0.1, deadlines=deadlines) == []
        assert act(children, due_at, deadlines=deadlines) == [word]
    assert act(children, DUE_AT + 10, deadlines=deadlines) == []
    assert children.wakes_at(DUE_AT + 10, deadlines) == LATER


def test_a_worker_that_was_struck_is_replaced_when_it_has_ended() -> None:
    children = make_struck(2)
    children.exited(1, DUE_AT + 2)

    assert act(children, DUE_AT + 2, [3]) == ["fork 3"]


def test_a_deadline_that_moves_on_strikes_nobody() -> None:
    children = make_serving(1)

    for now in range(100):
        assert act(children, float(now), deadlines={1: now + 0.5}) == []


@pytest.mark.parametrize("timeout_s", [0.0, 5.0])
def test_a_worker_that_boots_has_the_time_it_takes_to_boot(timeout_s: float) -> None:
    children = Children(1, Policy(ready_timeout_s=timeout_s))
    act(children, 0.0, [1])

    assert children.wakes_at(0.0, {1: 1.0}) == (timeout_s or None)
    assert act(children, 4.0, deadlines={1: 1.0}) == []


def test_all_that_are_overdue_are_struck() -> None:
    children = make_serving(3)

    assert act(children, DUE_AT, deadlines={1: DUE_AT, 2: 0.0, 3: DUE_AT + 1}) == ["dump 1", "dump 2"]


# Time that stood still


def test_after_an_unplanned_sleep_everybody_gets_time_to_be_heard_of() -> None:
    children = make_serving(1)
    children.wakes_at(0.0, {1: DUE_AT})
    woke_at = DUE_AT + JUMP_S + 1.0

    assert act(children, woke_at, deadlines={1: DUE_AT}) == []
    assert children.wakes_at(woke_at, {1: DUE_AT}) == woke_at + AMNESTY_S
    assert act(children, woke_at + AMNESTY_S - 0.1, deadlines={1: DUE_AT}) == []
    assert act(children, woke_at + AMNESTY_S, deadlines={1: DUE_AT}) == ["dump 1"]


def test_an_arbiter_that_stands_still_while_it_acts_has_slept_too() -> None:
    """It was stopped between two decisions of one turn, and had planned nothing since the first of them."""
    children = make_serving(1)
    act(children, DUE_AT - 2.0, deadlines={1: DUE_AT})

    assert act(children, DUE_AT + JUMP_S + 1.0, deadlines={1: DUE_AT}) == []


def test_after_an_unplanned_sleep_who_boots_gets_more_time_too() -> None:
    children = Children(1, Policy(ready_timeout_s=5.0))
    act(children, 0.0, [1])
    children.wakes_at(0.0, {})

    assert act(children, 1000.0) == []

    children.became_ready(1, 1000.1)

    assert act(children, 1000.1) == ["go 1"]


def test_a_small_delay_is_no_amnesty() -> None:
    children = make_serving(1)
    children.wakes_at(0.0, {1: DUE_AT})

    assert act(children, DUE_AT + JUMP_S, deadlines={1: DUE_AT}) == ["dump 1"]


def test_who_had_nothing_planned_did_not_sleep_too_long() -> None:
    children = make_serving(1)
    assert children.wakes_at(0.0, {}) is None

    assert act(children, 1e6, deadlines={1: DUE_AT}) == ["dump 1"]


# Draining


def test_a_worker_that_drains_is_killed_when_patience_ends() -> None:
    children = make_serving(2, Policy(drain_patience_s=PATIENCE_S))
    children.target = 1
    act(children, LATER)

    assert children.wakes_at(LATER, {}) == LATER + PATIENCE_S
    assert act(children, LATER + PATIENCE_S - 0.1) == []
    assert act(children, LATER + PATIENCE_S) == ["kill 1"]
    assert children.wakes_at(LATER + PATIENCE_S, {}) is None


def test_a_worker_that_is_not_heard_of_while_it_drains_is_struck_before_patience_ends() -> None:
    children = make_serving(2, Policy(drain_patience_s=PATIENCE_S))
    children.target = 1
    act(children, LATER)
    deadlines = {1: LATER + 1}

    assert children.wakes_at(LATER, deadlines) == LATER + 1
    assert act(children, LATER + 1, deadlines=deadlines) == ["dump 1"]
    assert act(children, LATER + 1 + STROKE_S, deadlines=deadlines) == ["abort 1"]
    assert act(children, LATER + 1 + 2 * STROKE_S, deadlines=deadlines) == ["kill 1"]
    assert act(children, LATER + PATIENCE_S, deadlines=deadlines) == []


def test_the_strokes_go_on_when_a_struck_worker_becomes_superfluous() -> None:
    children = make_struck(1)
    children.target = 1
    assert act(children, DUE_AT) == ["drain 1"]

    assert children.wakes_at(DUE_AT, {}) == DUE_AT + STROKE_S
    assert act(children, DUE_AT + STROKE_S) == ["abort 1"]


@pytest.mark.parametrize("strokes", [1, 2, 3])
def test_a_superfluous_worker_that_does_not_even_end_when_killed_is_left_alone(strokes: int) -> None:
    children = make_struck(strokes)
    children.target = 1
    act(children, DUE_AT + 2)
    for now in range(30, 100):
        act(children, float(now))

    assert act(children, LATER) == []
    assert serving(children) == [2]


# Stopping


def test_when_it_stops_whoever_outlasts_patience_is_killed() -> None:
    children = make_serving(2)
    children.stop(LATER, PATIENCE_S)

    assert children.is_stopping
    assert act(children, LATER) == []
    assert {child.stage for child in children} == {Stage.DRAINING}
    assert children.wakes_at(LATER, {}) == LATER + PATIENCE_S
    assert act(children, LATER + PATIENCE_S) == ["kill 1", "kill 2"]


def test_when_it_stops_nobody_is_forked() -> None:
    children = make_serving(2)
    children.stop(LATER, PATIENCE_S)
    children.exited(1, LATER)
    children.target = 5

    assert act(children, LATER) == []
    assert len(children) == 1

    children.exited(2, LATER)

    assert children.wakes_at(LATER, {}) is None


def test_when_it_stops_nobody_begins_to_serve() -> None:
    children = Children(1)
    act(children, 0.0, [1])
    children.stop(0.1, PATIENCE_S)
    children.became_ready(1, 0.2)

    assert act(children, 0.2) == []


def test_when_it_stops_during_a_pause_nobody_wakes_to_fork() -> None:
    children = make_serving(2)
    children.exited(1, 0.1)
    children.stop(0.2, PATIENCE_S)

    assert children.wakes_at(0.2, {}) == 0.2 + PATIENCE_S


def test_a_second_stop_shortens_patience() -> None:
    children = make_serving(1)
    children.stop(LATER, PATIENCE_S)
    children.stop(LATER + 1, 0.5)

    assert children.wakes_at(LATER + 1, {}) == LATER + 1.5
    assert act(children, LATER + 1.5) == ["kill 1"]

    children.stop(LATER + 2, 0.5)

    assert act(children, LATER * 2) == []


@pytest.mark.parametrize("stops", [1, 2])
def test_a_stop_ends_a_reload_as_failed_once(stops: int) -> None:
    children = make_reloading(2)
    for _ in range(stops):
        children.stop(LATER + 1, PATIENCE_S)

    actions = children.decide(LATER + 1, {})

    assert [type(action) for action in actions] == [ReloadFailed]
    assert not children.is_reloading


def test_a_new_worker_that_ends_after_a_stop_fails_no_reload() -> None:
    children = make_reloading(1)
    children.stop(LATER, PATIENCE_S)
    act(children, LATER)
    children.exited(2, LATER)

    assert act(children, LATER) == []


@pytest.mark.parametrize("strokes", [1, 2, 3])
def test_a_worker_that_was_struck_already_is_killed_at_the_latest_when_patience_ends(strokes: int) -> None:
    children = make_struck(strokes)
    children.stop(DUE_AT + 2.5, PATIENCE_S)
    words = []
    for tenth in range(25, 25 + int(PATIENCE_S) * 10 + 1):
        words += act(children, DUE_AT + tenth / 10)

    assert "kill 2" in words
    assert strokes == 3 or "kill 1" in words
    assert act(children, LATER) == []


def test_a_worker_that_is_not_heard_of_after_a_stop_is_struck() -> None:
    children = make_serving(1)
    children.stop(LATER, PATIENCE_S)

    assert act(children, LATER + 1, deadlines={1: LATER + 1}) == ["dump 1"]


def test_a_worker_that_drains_of_itself_is_replaced_at_once_and_has_the_same_patience() -> None:
    children = make_serving(2, Policy(drain_patience_s=5.0))
    children.is_deaf(1, LATER)

    assert act(children, LATER, [3]) == ["drain 1", "fork 3"]
    assert children[1].stage is Stage.DRAINING
    assert children.wakes_at(LATER, {}) == LATER + 5.0
    assert act(children, LATER + 5.0) == ["kill 1"]
    children.exited(1, LATER + 5.1)
    assert children.pause_s == 0.0


def test_a_worker_that_drains_of_itself_as_soon_as_it_serves_is_followed_after_a_pause() -> None:
    children = make_serving(1)
    children.is_deaf(1, 0.1)

    assert act(children, 0.1) == ["drain 1"]
    assert children.wakes_at(0.1, {}) == 0.1 + FIRST_PAUSE_S
    assert act(children, 0.1 + FIRST_PAUSE_S, [2]) == ["fork 2"]


def test_a_worker_that_a_mold_does_not_fork_in_time_is_given_up() -> None:
    children = make_serving(1)
    children.exited(1, LATER)
    act(children, LATER, [-2])

    assert children[-2].is_unborn
    assert children.wakes_at(LATER, {}) == LATER + BIRTH_S
    assert [describe(each) for each in children.decide(LATER + BIRTH_S, {})][:1] == ["dump -2"]


def test_a_worker_that_is_born_has_the_time_of_every_worker() -> None:
    children = make_serving(1, Policy(ready_timeout_s=30.0))
    children.exited(1, LATER)
    act(children, LATER, [-2])
    children.renamed(-2, 7, LATER + 1.0)

    assert not children[7].is_unborn
    assert children.wakes_at(LATER + 1.0, {}) == LATER + 30.0


def test_while_a_mold_is_made_nobody_else_is_forked() -> None:
    children = make_serving(3)
    for pid in (1, 2, 3):
        children.exited(pid, LATER)
    children.is_molding = True

    assert act(children, LATER, [4]) == ["fork 4"]
    children.is_molding = False
    assert act(children, LATER, [5, 6]) == ["fork 5", "fork 6"]


def test_a_reload_that_fails_for_a_worker_without_a_process_names_no_process() -> None:
    children = make_reloading(1)
    children.renamed(2, -2, LATER)
    children.exited(-2, LATER)
    failed = [each for each in children.decide(LATER, {}) if isinstance(each, ReloadFailed)]

    assert failed == [ReloadFailed("a new worker ended while it was booting")]
