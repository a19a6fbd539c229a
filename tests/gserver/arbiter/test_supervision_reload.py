"""Supervision without processes: reloads that succeed, fail, or are replaced by another one."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import (
    FIRST_PAUSE_S,
    KILL_STAGE_S,
    STOP_ACCEPTING_S,
    YOUNG_S,
    Policy,
    ReloadFailed,
    Stage,
    Supervision,
)
from tests.helpers.supervision import LATER, act, describe, make_reloading, make_serving, serving

SETTLE_S = 3.0


def make_failed(step: str) -> Supervision:
    """A reload of workers 1 and 2, whose first new worker 3 has just died at LATER + 1; nothing is decided yet."""
    supervision = make_reloading(2, Policy(settle_s=SETTLE_S if step == "ready" else 0.0))
    if step != "booting":
        supervision.became_ready(3, LATER + 1)
        act(supervision, LATER + 1, [4] if step == "serving" else [])
    assert supervision[3].stage is Stage(step)
    supervision.exited(3, LATER + 1)
    return supervision


# Success


def test_one_new_worker_serves_before_one_old_drains() -> None:
    supervision = make_serving(3)
    supervision.begin_reload(3, LATER)

    assert supervision.is_reloading
    assert act(supervision, LATER, [4]) == ["fork 4"]
    supervision.became_ready(4, LATER)
    assert act(supervision, LATER, [5]) == ["go 4", "drain 1", "fork 5"]
    supervision.became_ready(5, LATER)
    assert act(supervision, LATER, [6]) == ["go 5", "drain 2", "fork 6"]
    supervision.became_ready(6, LATER)
    assert act(supervision, LATER) == ["go 6", "drain 3", "reloaded"]
    assert not supervision.is_reloading
    assert serving(supervision) == [4, 5, 6]


def test_a_reload_is_done_before_the_old_workers_have_ended() -> None:
    supervision = make_reloading(1)
    supervision.became_ready(2, LATER)

    assert act(supervision, LATER) == ["go 2", "drain 1", "reloaded"]
    assert 1 in supervision

    supervision.exited(1, LATER + 1)

    assert act(supervision, LATER + 1) == []


def test_after_the_first_surge_at_a_time_are_replaced() -> None:
    supervision = make_reloading(5, Policy(surge=3))
    supervision.became_ready(6, LATER)
    assert act(supervision, LATER, [7, 8, 9]) == ["go 6", "drain 1", "fork 7", "fork 8", "fork 9"]
    supervision.became_ready(8, LATER)
    assert act(supervision, LATER, [10]) == ["go 8", "drain 2", "fork 10"]
    for pid in (7, 9, 10):
        supervision.became_ready(pid, LATER)
    assert sorted(act(supervision, LATER)) == ["drain 3", "drain 4", "drain 5", "go 10", "go 7", "go 9", "reloaded"]
    assert serving(supervision) == [6, 7, 8, 9, 10]


def test_a_surge_over_the_number_of_workers_is_no_more_than_they_are() -> None:
    supervision = make_reloading(2, Policy(surge=100))
    supervision.became_ready(3, LATER)

    assert act(supervision, LATER, [4]) == ["go 3", "drain 1", "fork 4"]


def test_the_first_new_worker_must_settle_before_it_serves() -> None:
    supervision = make_reloading(2, Policy(settle_s=SETTLE_S))
    supervision.became_ready(3, LATER + 1)

    assert supervision.wakes_at(LATER + 1, {}) == LATER + 1 + SETTLE_S
    assert act(supervision, LATER + 1) == []
    assert act(supervision, LATER + 0.9 + SETTLE_S) == []
    assert act(supervision, LATER + 1 + SETTLE_S, [4]) == ["go 3", "drain 1", "fork 4"]


def test_only_the_first_must_settle() -> None:
    supervision = make_reloading(2, Policy(settle_s=SETTLE_S))
    supervision.became_ready(3, LATER)
    act(supervision, LATER + SETTLE_S, [4])
    supervision.became_ready(4, LATER + SETTLE_S)

    assert act(supervision, LATER + SETTLE_S) == ["go 4", "drain 2", "reloaded"]


def test_a_reload_to_more_workers() -> None:
    supervision = make_serving(1)
    supervision.begin_reload(3, LATER)
    assert act(supervision, LATER, [2]) == ["fork 2"]
    supervision.became_ready(2, LATER)
    assert act(supervision, LATER, [3]) == ["go 2", "fork 3"]
    supervision.became_ready(3, LATER)
    assert act(supervision, LATER, [4]) == ["go 3", "fork 4"]
    supervision.became_ready(4, LATER)

    assert act(supervision, LATER) == ["go 4", "drain 1", "reloaded"]


def test_a_reload_to_fewer_workers_drains_no_worker_before_a_new_one_serves() -> None:
    supervision = make_serving(4)
    supervision.begin_reload(2, LATER)

    assert act(supervision, LATER, [5]) == ["fork 5"]
    assert serving(supervision) == [1, 2, 3, 4]


def test_a_failed_reload_to_fewer_workers_costs_none() -> None:
    supervision = make_serving(4)
    supervision.begin_reload(2, LATER)
    act(supervision, LATER, [5])
    supervision.exited(5, LATER + 1)
    act(supervision, LATER + 1)

    assert supervision.target == 4
    assert serving(supervision) == [1, 2, 3, 4]


def test_a_reload_without_workers_is_done_at_once() -> None:
    supervision = make_serving(1)
    supervision.target = 0
    act(supervision, LATER)
    supervision.exited(1, LATER)
    supervision.begin_reload(0, LATER)

    assert act(supervision, LATER) == ["reloaded"]


def test_a_reload_before_the_first_worker_serves_starts_with_another() -> None:
    supervision = Supervision(2)
    act(supervision, 0.0, [1])
    supervision.begin_reload(2, 0.1)

    assert act(supervision, 0.1, [2]) == ["kill 1", "fork 2"]

    supervision.exited(1, 0.2)
    supervision.became_ready(2, 0.3)

    assert act(supervision, 0.3, [3]) == ["go 2", "fork 3"]


def test_a_worker_to_be_recycled_is_replaced_by_the_reload() -> None:
    supervision = make_reloading(2)
    supervision.request_recycling(2)
    supervision.became_ready(3, LATER)
    act(supervision, LATER, [4])
    supervision.became_ready(4, LATER)

    assert act(supervision, LATER)[-1] == "reloaded"
    assert serving(supervision) == [3, 4]


# An old worker ends meanwhile


def test_an_old_worker_that_crashes_during_a_reload_does_not_end_it() -> None:
    supervision = make_reloading(3)
    supervision.exited(1, LATER)

    assert act(supervision, LATER) == []
    assert supervision.is_reloading

    supervision.became_ready(4, LATER)

    assert act(supervision, LATER, [5]) == ["go 4", "fork 5"]
    assert serving(supervision) == [2, 3, 4]


def test_a_reload_goes_on_when_all_old_workers_have_crashed() -> None:
    supervision = make_reloading(2)
    supervision.exited(1, LATER)
    supervision.exited(2, LATER)
    assert act(supervision, LATER) == []
    supervision.became_ready(3, LATER)
    assert act(supervision, LATER, [4]) == ["go 3", "fork 4"]
    supervision.became_ready(4, LATER)

    assert act(supervision, LATER) == ["go 4", "reloaded"]


def test_a_reload_goes_on_after_a_fork_that_failed() -> None:
    supervision = make_serving(2)
    supervision.begin_reload(2, LATER)
    assert [describe(action) for action in supervision.decide(LATER, {})] == ["fork"]
    supervision.could_not_spawn(LATER)

    assert act(supervision, LATER) == []
    assert supervision.wakes_at(LATER, {}) == LATER + FIRST_PAUSE_S
    assert act(supervision, LATER + FIRST_PAUSE_S, [3]) == ["fork 3"]


# Failure


@pytest.mark.parametrize(("step", "forked"), [("booting", []), ("ready", []), ("serving", [4])])
def test_a_reload_fails_with_a_new_worker_that_dies(step: str, forked: list[int]) -> None:
    supervision = make_failed(step)

    actions = supervision.decide(LATER + 1, {})

    assert isinstance(actions[0], ReloadFailed)
    assert "3" in actions[0].why
    assert step in actions[0].why
    assert [describe(action) for action in actions[1:]] == [f"kill {pid}" for pid in forked]
    assert not supervision.is_reloading
    assert supervision.decide(LATER + 1, {}) == []


@pytest.mark.parametrize("step", ["booting", "ready"])
def test_after_a_failed_reload_the_old_workers_go_on(step: str) -> None:
    supervision = make_failed(step)
    act(supervision, LATER + 1)

    assert serving(supervision) == [1, 2]
    assert act(supervision, LATER * 2) == []
    assert supervision.wakes_at(LATER * 2, {}) is None


def test_what_a_reload_lost_after_go_is_replaced() -> None:
    supervision = make_failed("serving")
    act(supervision, LATER + 1)
    supervision.exited(4, LATER + 1)
    supervision.exited(1, LATER + 1)

    assert serving(supervision) == [2]
    assert act(supervision, LATER + 1) == []
    assert supervision.wakes_at(LATER + 1, {}) == LATER + 1 + FIRST_PAUSE_S
    assert act(supervision, LATER + 1 + FIRST_PAUSE_S, [5]) == ["fork 5"]

    supervision.became_ready(5, LATER + 2)

    assert act(supervision, LATER + 2) == ["go 5"]


@pytest.mark.parametrize("step", ["booting", "ready", "serving"])
@pytest.mark.parametrize("target", [1, 2, 5])
def test_the_target_goes_back_with_a_failed_reload(step: str, target: int) -> None:
    supervision = make_failed(step)
    supervision.begin_reload(target, LATER)
    supervision.decide(LATER, {})
    supervision.spawned(9, LATER)
    supervision.exited(9, LATER)

    assert supervision.target == 2


def test_after_a_failed_reload_another_begins_at_once() -> None:
    supervision = make_failed("booting")
    act(supervision, LATER + 1)
    supervision.begin_reload(2, LATER + 1)

    assert act(supervision, LATER + 1, [4]) == ["fork 4"]
    supervision.became_ready(4, LATER + 1)
    assert act(supervision, LATER + 1, [5]) == ["go 4", "drain 1", "fork 5"]


def test_what_a_failed_reload_starts_next_is_alone_until_it_serves() -> None:
    supervision = make_failed("booting")
    act(supervision, LATER + 1)
    supervision.exited(1, LATER * 2)
    supervision.exited(2, LATER * 2)

    assert act(supervision, LATER * 2, [4]) == ["fork 4"]


def test_several_new_workers_that_end_together_are_one_failure() -> None:
    supervision = make_reloading(4, Policy(surge=2))
    supervision.became_ready(5, LATER)
    act(supervision, LATER, [6, 7])
    supervision.exited(6, LATER)
    supervision.exited(7, LATER)

    assert act(supervision, LATER) == ["failed"]


def test_a_new_worker_that_has_ended_gets_no_kill() -> None:
    supervision = make_reloading(1)
    supervision.begin_reload(1, LATER + 1)
    supervision.exited(2, LATER + 1)

    assert act(supervision, LATER + 1, [3]) == ["fork 3"]


@pytest.mark.parametrize("surge", [1, 2])
def test_a_reload_fails_with_a_new_worker_that_boots_too_long(surge: int) -> None:
    supervision = make_serving(3, Policy(surge=surge, ready_timeout_s=5.0))
    supervision.begin_reload(3, LATER)
    act(supervision, LATER, [4])

    assert supervision.wakes_at(LATER, {}) == LATER + 5
    assert act(supervision, LATER + 4.9) == []
    assert act(supervision, LATER + 5) == ["failed", "dump 4"]
    assert act(supervision, LATER + 5 + KILL_STAGE_S) == ["abort 4"]
    assert act(supervision, LATER + 5 + 2 * KILL_STAGE_S) == ["kill 4"]

    supervision.exited(4, LATER + 8)

    assert act(supervision, LATER * 2) == []
    assert serving(supervision) == [1, 2, 3]


def test_of_new_workers_that_boot_too_long_one_must_dump_its_stacks() -> None:
    supervision = make_reloading(3, Policy(surge=2, ready_timeout_s=5.0))
    supervision.became_ready(4, LATER)
    act(supervision, LATER, [5, 6])

    assert act(supervision, LATER + 5) == ["failed", "kill 6", "dump 5"]


def test_a_reload_fails_with_a_new_worker_that_is_overdue_while_it_settles() -> None:
    supervision = make_reloading(1, Policy(settle_s=SETTLE_S))
    supervision.became_ready(2, LATER)

    assert act(supervision, LATER + 1, deadlines={2: LATER + 1}) == ["failed", "dump 2"]
    assert not supervision.is_reloading


def test_a_reload_fails_with_a_new_worker_that_is_overdue_after_go() -> None:
    supervision = make_reloading(2)
    supervision.became_ready(3, LATER)
    act(supervision, LATER, [4])

    assert act(supervision, LATER + 1, deadlines={3: LATER + 1}) == ["failed", "kill 4", "dump 3"]
    assert serving(supervision) == [2, 3]


def test_a_failed_reload_to_more_workers_leaves_those_from_before() -> None:
    supervision = make_serving(2)
    supervision.begin_reload(4, LATER)
    act(supervision, LATER, [3])
    supervision.became_ready(3, LATER)
    act(supervision, LATER, [4])
    supervision.exited(4, LATER + 1)

    assert act(supervision, LATER + 1) == ["failed", "drain 3"]
    assert serving(supervision) == [1, 2]


def test_a_worker_that_works_does_not_go_for_one_that_is_overdue() -> None:
    supervision = make_serving(1)
    supervision.begin_reload(2, LATER)
    act(supervision, LATER, [2])
    supervision.became_ready(2, LATER)
    act(supervision, LATER, [3])
    act(supervision, LATER + 1, deadlines={2: LATER + 1})

    assert supervision.target == 1
    assert 1 in serving(supervision)


def test_a_new_worker_that_is_killed_while_it_settles_is_no_reason_to_wake_all_the_time() -> None:
    supervision = make_reloading(1, Policy(settle_s=SETTLE_S))
    supervision.became_ready(2, LATER)
    deadlines = {2: LATER + 1}
    assert act(supervision, LATER + 1, deadlines=deadlines) == ["failed", "dump 2"]

    assert supervision.wakes_at(LATER + 1, deadlines) == LATER + 1 + KILL_STAGE_S


# A reload overtakes another


def test_a_second_reload_dismisses_what_the_first_has_started() -> None:
    supervision = make_reloading(2)
    supervision.begin_reload(2, LATER + 1)

    assert act(supervision, LATER + 1, [4]) == ["kill 3", "fork 4"]

    supervision.exited(3, LATER + 1)

    assert supervision.is_reloading
    assert act(supervision, LATER + 1) == []


def test_a_second_reload_replaces_what_the_first_has_finished() -> None:
    supervision = make_reloading(2)
    supervision.became_ready(3, LATER)
    act(supervision, LATER, [4])
    supervision.begin_reload(2, LATER + 1)
    assert act(supervision, LATER + 1, [5]) == ["kill 4", "fork 5"]
    supervision.became_ready(5, LATER + 1)
    assert act(supervision, LATER + 1, [6]) == ["go 5", "drain 2", "fork 6"]
    supervision.became_ready(6, LATER + 1)

    assert act(supervision, LATER + 1) == ["go 6", "drain 3", "reloaded"]


def test_the_target_goes_back_to_that_before_all_reloads() -> None:
    supervision = make_serving(2)
    for number, target in enumerate((3, 5, 1)):
        supervision.begin_reload(target, LATER + number)
        supervision.decide(LATER + number, {})
        supervision.spawned(10 + number, LATER + number)
    supervision.exited(12, LATER + 5)

    assert supervision.target == 2


def test_after_a_reload_the_target_to_go_back_to_is_its_own() -> None:
    supervision = make_serving(1)
    supervision.begin_reload(2, LATER)
    for pid in (2, 3):
        act(supervision, LATER, [pid])
        supervision.became_ready(pid, LATER)
    assert act(supervision, LATER)[-1] == "reloaded"
    supervision.begin_reload(3, LATER * 2)
    act(supervision, LATER * 2, [4])
    supervision.exited(4, LATER * 2 + YOUNG_S)

    assert supervision.target == 2


def test_a_reload_is_done_only_when_no_old_worker_accepts_any_more() -> None:
    supervision = make_reloading(1)
    supervision.became_ready(2, LATER)
    assert [describe(action) for action in supervision.decide(LATER, {})] == ["go 2", "drain 1"]

    assert supervision.decide(LATER, {}) == []

    supervision.stopped_accepting(1, LATER)

    assert [describe(action) for action in supervision.decide(LATER, {})] == ["reloaded"]


def test_a_reload_does_not_wait_for_ever_for_an_old_worker_to_stop_accepting() -> None:
    supervision = make_reloading(1)
    supervision.became_ready(2, LATER)
    supervision.decide(LATER, {})

    assert supervision.wakes_at(LATER, {}) == LATER + STOP_ACCEPTING_S
    assert [describe(action) for action in supervision.decide(LATER + STOP_ACCEPTING_S, {})] == ["reloaded"]
