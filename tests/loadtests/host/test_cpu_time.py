"""The CPU time of process trees in which processes start and end."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.host.cpu_time import used_between, used_over


def process(pid: int, parent: int, own: float, children: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"pid": pid, "parent_pid": parent, "started_s": float(pid), "cpu_s": own, "children_cpu_s": children, **more}


def sample(*processes: dict[str, Any]) -> dict[str, Any]:
    return {"processes": list(processes)}


def test_the_cpu_time_of_all_processes_is_added() -> None:
    used = used_between(sample(process(1, 0, 10), process(2, 1, 5)), sample(process(1, 0, 11), process(2, 1, 5.5)))

    assert used.seconds == pytest.approx(1.5)
    assert used.lost == ""


def test_a_child_in_no_sample_is_in_its_parents_account() -> None:
    used = used_between(sample(process(1, 0, 10, 3.0)), sample(process(1, 0, 10, 3.25)))

    assert used.seconds == pytest.approx(0.25)
    assert used.lost == ""


def test_a_child_that_was_sampled_and_ended_is_counted_once() -> None:
    """It used 0.4 s in total, of which 0.3 s are in samples."""
    steps = [
        sample(process(1, 0, 10)),
        sample(process(1, 0, 10), process(2, 1, 0.3)),
        sample(process(1, 0, 10, 0.4)),
    ]

    assert used_over(steps).seconds == pytest.approx(0.4)
    assert used_between(steps[0], steps[2]).seconds == pytest.approx(0.4)
    assert used_between(steps[1], steps[2]).seconds == pytest.approx(0.1)
    assert used_over(steps).lost == ""


def test_a_zombie_keeps_its_account() -> None:
    steps = [
        sample(process(1, 0, 10), process(2, 1, 0.3)),
        sample(process(1, 0, 10), process(2, 1, 0.4, has_ended=True)),
        sample(process(1, 0, 10, 0.4)),
    ]

    assert used_over(steps).seconds == pytest.approx(0.1)
    assert used_over(steps).lost == ""


def test_a_family_that_ends_together_is_in_its_nearest_ancestors_account() -> None:
    before = sample(process(1, 0, 10), process(2, 1, 1.0, 0.5), process(3, 2, 2.0))
    used = used_between(before, sample(process(1, 0, 10, 4.0)))

    assert used.seconds == pytest.approx(0.5)
    assert used.lost == ""


def test_ticks_that_are_rounded_down_are_made_up_for_later_and_are_no_loss() -> None:
    """Each child uses 4 ms; half of them are sampled after 2 ms. The account has ticks of 10 ms."""
    steps = []
    for step in range(100):
        seen = [process(100 + step, 1, 0.002)] if step % 2 else []
        steps.append(sample(process(1, 0, 0.0, int(0.4 * step) / 100), *seen))
    used = used_over(steps)

    assert used.seconds == pytest.approx(0.4, abs=0.02)
    assert used.lost == ""


def test_the_cpu_time_of_a_process_without_a_parent_is_lost_and_not_subtracted() -> None:
    """Its parent is process 1, which is not in the tree."""
    before = sample(process(10, 5, 10), process(12, 1, 0.75))
    used = used_between(before, sample(process(10, 5, 10.5)))

    assert used.seconds == pytest.approx(0.5)
    assert used.lost == "the CPU time of process 12, which ended, is in no account of a parent"


def test_the_cpu_time_of_a_child_that_is_not_waited_for_is_lost() -> None:
    used = used_between(sample(process(1, 0, 10), process(2, 1, 0.3)), sample(process(1, 0, 10.25)))

    assert used.seconds == pytest.approx(0.25)
    assert "process 2" in used.lost


def test_if_sigchld_is_ignored_the_cpu_time_is_a_lower_bound() -> None:
    before = sample(process(1, 0, 10, ignores_children=True))
    used = used_between(before, sample(process(1, 0, 11, ignores_children=True)))

    assert used.seconds == pytest.approx(1)
    assert used.lost == "process 1 ignores SIGCHLD, so the kernel keeps no account of its children that ended"


def test_a_reused_process_id_is_another_process() -> None:
    before = sample(process(1, 0, 10), process(2, 1, 3.0))
    again = {**process(2, 1, 0.5), "started_s": 99.0}
    used = used_between(before, sample(process(1, 0, 10, 3.25), again))

    assert used.seconds == pytest.approx(0.75)


def test_samples_of_older_runs_have_ticks_and_no_parents() -> None:
    def old(pid: int, user: float, system: float) -> dict[str, Any]:
        return {"pid": pid, "cpu_user_s": user, "cpu_system_s": system}

    used = used_between(sample(old(1, 1.0, 1.0), old(2, 5.0, 5.0)), sample(old(1, 1.5, 1.25)))

    assert used.seconds == pytest.approx(0.75)


def test_the_generators_tree_is_counted_in_the_same_way() -> None:
    before, after = ({"generator": [process(1, 0, own)]} for own in (1.0, 1.75))

    assert used_between(before, after, "generator").seconds == pytest.approx(0.75)


def test_one_sample_has_no_cpu_time() -> None:
    assert used_over([sample(process(1, 0, 10))]).seconds == 0
