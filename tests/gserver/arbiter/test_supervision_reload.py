"""The book of workers, without any process: reloads that succeed, fail, or are overtaken."""

from __future__ import annotations

import pytest

from gserver.arbiter.supervision import DEAF_S, FIRST_PAUSE_S, STROKE_S, YOUNG_S, Children, Policy, ReloadFailed, Stage
from tests.helpers.supervision_driver import LATER, act, describe, make_reloading, make_serving, serving

SETTLE_S = 3.0


def make_failed(step: str) -> Children:
    """A reload of workers 1 and 2, whose first follower 3 has just died at LATER + 1; nothing is decided yet."""
    children = make_reloading(2, Policy(settle_s=SETTLE_S if step == "ready" else 0.0))
    if step != "booting":
        children.became_ready(3, LATER + 1)
        act(children, LATER + 1, [4] if step == "serving" else [])
    assert children[3].stage is Stage(step)
    children.exited(3, LATER + 1)
    return children


# Success


def test_one_new_worker_serves_before_one_old_drains() -> None:
    children = make_serving(3)
    children.begin_reload(3, LATER)

    assert children.is_reloading
    assert act(children, LATER, [4]) == ["fork 4"]
    children.became_ready(4, LATER)
    assert act(children, LATER, [5]) == ["go 4", "drain 1", "fork 5"]
    children.became_ready(5, LATER)
    assert act(children, LATER, [6]) == ["go 5", "drain 2", "fork 6"]
    children.became_ready(6, LATER)
    assert act(children, LATER) == ["go 6", "drain 3", "reloaded"]
    assert not children.is_reloading
    assert serving(children) == [4, 5, 6]


def test_a_reload_is_done_before_the_old_workers_have_ended() -> None:
    children = make_reloading(1)
    children.became_ready(2, LATER)

    assert act(children, LATER) == ["go 2", "drain 1", "reloaded"]
    assert 1 in children

    children.exited(1, LATER + 1)

    assert act(children, LATER + 1) == []


def test_after_the_first_surge_at_a_time_are_replaced() -> None:
    children = make_reloading(5, Policy(surge=3))
    children.became_ready(6, LATER)
    assert act(children, LATER, [7, 8, 9]) == ["go 6", "drain 1", "fork 7", "fork 8", "fork 9"]
    children.became_ready(8, LATER)
    assert act(children, LATER, [10]) == ["go 8", "drain 2", "fork 10"]
    for pid in (7, 9, 10):
        children.became_ready(pid, LATER)
    assert sorted(act(children, LATER)) == ["drain 3", "drain 4", "drain 5", "go 10", "go 7", "go 9", "reloaded"]
    assert serving(children) == [6, 7, 8, 9, 10]


def test_a_surge_over_the_number_of_workers_is_no_more_than_they_are() -> None:
    children = make_reloading(2, Policy(surge=100))
    children.became_ready(3, LATER)

    assert act(children, LATER, [4]) == ["go 3", "drain 1", "fork 4"]


def test_the_first_new_worker_must_settle_before_it_serves() -> None:
    children = make_reloading(2, Policy(settle_s=SETTLE_S))
    children.became_ready(3, LATER + 1)

    assert children.wakes_at(LATER + 1, {}) == LATER + 1 + SETTLE_S
    assert act(children, LATER + 1) == []
    assert act(children, LATER + 0.9 + SETTLE_S) == []
    assert act(children, LATER + 1 + SETTLE_S, [4]) == ["go 3", "drain 1", "fork 4"]


def test_only_the_first_must_settle() -> None:
    children = make_reloading(2, Policy(settle_s=SETTLE_S))
    children.became_ready(3, LATER)
    act(children, LATER + SETTLE_S, [4])
    children.became_ready(4, LATER + SETTLE_S)

    assert act(children, LATER + SETTLE_S) == ["go 4", "drain 2", "reloaded"]


def test_a_reload_to_more_workers() -> None:
    children = make_serving(1)
    children.begin_reload(3, LATER)
    assert act(children, LATER, [2]) == ["fork 2"]
    children.became_ready(2, LATER)
    assert act(children, LATER, [3]) == ["go 2", "fork 3"]
    children.became_ready(3, LATER)
    assert act(children, LATER, [4]) == ["go 3", "fork 4"]
    children.became_ready(4, LATER)

    assert act(children, LATER) == ["go 4", "drain 1", "reloaded"]


def test_a_reload_to_fewer_workers_lets_nobody_go_before_a_new_one_serves() -> None:
    children = make_serving(4)
    children.begin_reload(2, LATER)

    assert act(children, LATER, [5]) == ["fork 5"]
    assert serving(children) == [1, 2, 3, 4]


def test_a_failed_reload_to_fewer_workers_costs_none() -> None:
    children = make_serving(4)
    children.begin_reload(2, LATER)
    act(children, LATER, [5])
    children.exited(5, LATER + 1)
    act(children, LATER + 1)

    assert children.target == 4
    assert serving(children) == [1, 2, 3, 4]


def test_a_reload_of_nobody_is_done_at_once() -> None:
    children = make_serving(1)
    children.target = 0
    act(children, LATER)
    children.exited(1, LATER)
    children.begin_reload(0, LATER)

    assert act(children, LATER) == ["reloaded"]


def test_a_reload_before_the_first_worker_serves_starts_with_another() -> None:
    children = Children(2)
    act(children, 0.0, [1])
    children.begin_reload(2, 0.1)

    assert act(children, 0.1, [2]) == ["kill 1", "fork 2"]

    children.exited(1, 0.2)
    children.became_ready(2, 0.3)

    assert act(children, 0.3, [3]) == ["go 2", "fork 3"]


def test_a_worn_worker_is_replaced_by_the_reload() -> None:
    children = make_reloading(2)
    children.is_worn(2)
    children.became_ready(3, LATER)
    act(children, LATER, [4])
    children.became_ready(4, LATER)

    assert act(children, LATER)[-1] == "reloaded"
    assert serving(children) == [3, 4]


# An old worker ends meanwhile


def test_an_old_worker_that_crashes_during_a_reload_does_not_end_it() -> None:
    children = make_reloading(3)
    children.exited(1, LATER)

    assert act(children, LATER) == []
    assert children.is_reloading

    children.became_ready(4, LATER)

    assert act(children, LATER, [5]) == ["go 4", "fork 5"]
    assert serving(children) == [2, 3, 4]


def test_a_reload_goes_on_when_all_old_workers_have_crashed() -> None:
    children = make_reloading(2)
    children.exited(1, LATER)
    children.exited(2, LATER)
    assert act(children, LATER) == []
    children.became_ready(3, LATER)
    assert act(children, LATER, [4]) == ["go 3", "fork 4"]
    children.became_ready(4, LATER)

    assert act(children, LATER) == ["go 4", "reloaded"]


def test_a_reload_goes_on_after_a_fork_that_failed() -> None:
    children = make_serving(2)
    children.begin_reload(2, LATER)
    assert [describe(action) for action in children.decide(LATER, {})] == ["fork"]
    children.could_not_spawn(LATER)

    assert act(children, LATER) == []
    assert children.wakes_at(LATER, {}) == LATER + FIRST_PAUSE_S
    assert act(children, LATER + FIRST_PAUSE_S, [3]) == ["fork 3"]


# Failure


@pytest.mark.parametrize(("step", "forked"), [("booting", []), ("ready", []), ("serving", [4])])
def test_a_reload_fails_with_a_new_worker_that_dies(step: str, forked: list[int]) -> None:
    children = make_failed(step)

    actions = children.decide(LATER + 1, {})

    assert isinstance(actions[0], ReloadFailed)
    assert "3" in actions[0].why
    assert step in actions[0].why
    assert [describe(action) for action in actions[1:]] == [f"kill {pid}" for pid in forked]
    assert not children.is_reloading
    assert children.decide(LATER + 1, {}) == []


@pytest.mark.parametrize("step", ["booting", "ready"])
def test_after_a_failed_reload_the_old_workers_go_on(step: str) -> None:
    children = make_failed(step)
    act(children, LATER + 1)

    assert serving(children) == [1, 2]
    assert act(children, LATER * 2) == []
    assert children.wakes_at(LATER * 2, {}) is None


def test_what_a_reload_lost_after_go_is_replaced() -> None:
    children = make_failed("serving")
    act(children, LATER + 1)
    children.exited(4, LATER + 1)
    children.exited(1, LATER + 1)

    assert serving(children) == [2]
    assert act(children, LATER + 1) == []
    assert children.wakes_at(LATER + 1, {}) == LATER + 1 + FIRST_PAUSE_S
    assert act(children, LATER + 1 + FIRST_PAUSE_S, [5]) == ["fork 5"]

    children.became_ready(5, LATER + 2)

    assert act(children, LATER + 2) == ["go 5"]


@pytest.mark.parametrize("step", ["booting", "ready", "serving"])
@pytest.mark.parametrize("target", [1, 2, 5])
def test_the_target_goes_back_with_a_failed_reload(step: str, target: int) -> None:
    children = make_failed(step)
    children.begin_reload(target, LATER)
    children.decide(LATER, {})
    children.spawned(9, LATER)
    children.exited(9, LATER)

    assert children.target == 2


def test_after_a_failed_reload_another_begins_at_once() -> None:
    children = make_failed("booting")
    act(children, LATER + 1)
    children.begin_reload(2, LATER + 1)

    assert act(children, LATER + 1, [4]) == ["fork 4"]
    children.became_ready(4, LATER + 1)
    assert act(children, LATER + 1, [5]) == ["go 4", "drain 1", "fork 5"]


def test_what_a_failed_reload_starts_next_is_alone_until_it_serves() -> None:
    children = make_failed("booting")
    act(children, LATER + 1)
    children.exited(1, LATER * 2)
    children.exited(2, LATER * 2)

    assert act(children, LATER * 2, [4]) == ["fork 4"]


def test_several_new_workers_that_end_together_are_one_failure() -> None:
    children = make_reloading(4, Policy(surge=2))
    children.became_ready(5, LATER)
    act(children, LATER, [6, 7])
    children.exited(6, LATER)
    children.exited(7, LATER)

    assert act(children, LATER) == ["failed"]


def test_nothing_is_said_to_a_newcomer_that_ended_before_it_was_dismissed() -> None:
    children = make_reloading(1)
    children.begin_reload(1, LATER + 1)
    children.exited(2, LATER + 1)

    assert act(children, LATER + 1, [3]) == ["fork 3"]


@pytest.mark.parametrize("surge", [1, 2])
def test_a_reload_fails_with_a_new_worker_that_boots_too_long(surge: int) -> None:
    children = make_serving(3, Policy(surge=surge, ready_timeout_s=5.0))
    children.begin_reload(3, LATER)
    act(children, LATER, [4])

    assert children.wakes_at(LATER, {}) == LATER + 5
    assert act(children, LATER + 4.9) == []
    assert act(children, LATER + 5) == ["failed", "dump 4"]
    assert act(children, LATER + 5 + STROKE_S) == ["abort 4"]
    assert act(children, LATER + 5 + 2 * STROKE_S) == ["kill 4"]

    children.exited(4, LATER + 8)

    assert act(children, LATER * 2) == []
    assert serving(children) == [1, 2, 3]


def test_of_new_workers_that_boot_too_long_one_is_asked_where_it_stands() -> None:
    children = make_reloading(3, Policy(surge=2, ready_timeout_s=5.0))
    children.became_ready(4, LATER)
    act(children, LATER, [5, 6])

    assert act(children, LATER + 5) == ["failed", "kill 6", "dump 5"]


def test_a_reload_fails_with_a_new_worker_that_is_not_heard_of_while_it_settles() -> None:
    children = make_reloading(1, Policy(settle_s=SETTLE_S))
    children.became_ready(2, LATER)

    assert act(children, LATER + 1, deadlines={2: LATER + 1}) == ["failed", "dump 2"]
    assert not children.is_reloading


def test_a_reload_fails_with_a_new_worker_that_is_not_heard_of_after_go() -> None:
    children = make_reloading(2)
    children.became_ready(3, LATER)
    act(children, LATER, [4])

    assert act(children, LATER + 1, deadlines={3: LATER + 1}) == ["failed", "kill 4", "dump 3"]
    assert serving(children) == [2, 3]


def test_a_failed_reload_to_more_workers_leaves_those_from_before() -> None:
    children = make_serving(2)
    children.begin_reload(4, LATER)
    act(children, LATER, [3])
    children.became_ready(3, LATER)
    act(children, LATER, [4])
    children.exited(4, LATER + 1)

    assert act(children, LATER + 1) == ["failed", "drain 3"]
    assert serving(children) == [1, 2]


def test_a_worker_that_works_does_not_go_for_one_that_is_not_heard_of() -> None:
    children = make_serving(1)
    children.begin_reload(2, LATER)
    act(children, LATER, [2])
    children.became_ready(2, LATER)
    act(children, LATER, [3])
    act(children, LATER + 1, deadlines={2: LATER + 1})

    assert children.target == 1
    assert 1 in serving(children)


def test_a_new_worker_that_is_struck_while_it_settles_is_no_reason_to_wake_all_the_time() -> None:
    children = make_reloading(1, Policy(settle_s=SETTLE_S))
    children.became_ready(2, LATER)
    deadlines = {2: LATER + 1}
    assert act(children, LATER + 1, deadlines=deadlines) == ["failed", "dump 2"]

    assert children.wakes_at(LATER + 1, deadlines) == LATER + 1 + STROKE_S


# A reload overtakes another


def test_a_second_reload_dismisses_what_the_first_has_started() -> None:
    children = make_reloading(2)
    children.begin_reload(2, LATER + 1)

    assert act(children, LATER + 1, [4]) == ["kill 3", "fork 4"]

    children.exited(3, LATER + 1)

    assert children.is_reloading
    assert act(children, LATER + 1) == []


def test_a_second_reload_replaces_what_the_first_has_finished() -> None:
    children = make_reloading(2)
    children.became_ready(3, LATER)
    act(children, LATER, [4])
    children.begin_reload(2, LATER + 1)
    assert act(children, LATER + 1, [5]) == ["kill 4", "fork 5"]
    children.became_ready(5, LATER + 1)
    assert act(children, LATER + 1, [6]) == ["go 5", "drain 2", "fork 6"]
    children.became_ready(6, LATER + 1)

    assert act(children, LATER + 1) == ["go 6", "drain 3", "reloaded"]


def test_the_target_goes_back_to_that_before_all_reloads() -> None:
    children = make_serving(2)
    for number, target in enumerate((3, 5, 1)):
        children.begin_reload(target, LATER + number)
        children.decide(LATER + number, {})
        children.spawned(10 + number, LATER + number)
    children.exited(12, LATER + 5)

    assert children.target == 2


def test_after_a_reload_the_target_to_go_back_to_is_its_own() -> None:
    children = make_serving(1)
    children.begin_reload(2, LATER)
    for pid in (2, 3):
        act(children, LATER, [pid])
        children.became_ready(pid, LATER)
    assert act(children, LATER)[-1] == "reloaded"
    children.begin_reload(3, LATER * 2)
    act(children, LATER * 2, [4])
    children.exited(4, LATER * 2 + YOUNG_S)

    assert children.target == 2


def test_a_reload_is_done_only_when_no_old_worker_accepts_any_more() -> None:
    children = make_reloading(1)
    children.became_ready(2, LATER)
    assert [describe(action) for action in children.decide(LATER, {})] == ["go 2", "drain 1"]

    assert children.decide(LATER, {}) == []

    children.is_deaf(1, LATER)

    assert [describe(action) for action in children.decide(LATER, {})] == ["reloaded"]


def test_a_reload_does_not_wait_for_ever_for_an_old_worker_to_stop_accepting() -> None:
    children = make_reloading(1)
    children.became_ready(2, LATER)
    children.decide(LATER, {})

    assert children.wakes_at(LATER, {}) == LATER + DEAF_S
    assert [describe(action) for action in children.decide(LATER + DEAF_S, {})] == ["reloaded"]
