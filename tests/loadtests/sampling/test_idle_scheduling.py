"""The sampler yields to all other processes, until it starves. In a thread of its own, which has its own policy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from loadtests.host import kernel_counters
from loadtests.sampling.idle_scheduling import LONGEST_WAIT_S, IdleScheduling


def policies_after(waits_s: list[float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The policy at first, and after each sample that has waited so long."""
    so_far = 0.0

    def waited() -> Iterator[float]:
        nonlocal so_far
        yield so_far
        for wait_s in waits_s:
            so_far += wait_s
            yield so_far

    counted = waited()
    monkeypatch.setattr(kernel_counters, "waited", lambda: next(counted))
    policies: list[int] = []

    def sample() -> None:
        scheduling = IdleScheduling()
        policies.append(os.sched_getscheduler(0))
        for _ in waits_s:
            scheduling.sampled()
            policies.append(os.sched_getscheduler(0))

    in_a_thread(sample)
    return policies


def in_a_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_a_sampler_that_gets_its_core_stays_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    waits_s = [LONGEST_WAIT_S / 2] * 5

    assert policies_after(waits_s, monkeypatch) == [os.SCHED_IDLE] * 6


def test_one_that_starves_gets_the_normal_policy_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = policies_after([0, LONGEST_WAIT_S * 2], monkeypatch)

    assert policies == [os.SCHED_IDLE, os.SCHED_IDLE, os.SCHED_OTHER]


def test_without_counted_waits_the_policy_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_counters, "waited", lambda: None)
    policies: list[int] = []

    def sample() -> None:
        scheduling = IdleScheduling()
        scheduling.sampled()
        policies.append(os.sched_getscheduler(0))

    in_a_thread(sample)

    assert policies == [os.SCHED_OTHER]


def test_a_policy_that_the_kernel_refuses_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, policy: int, parameter: os.sched_param) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)

    assert not IdleScheduling().is_active
