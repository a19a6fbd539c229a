"""Separate cores for server and generator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loadtests.host.cpu_affinity import Cores, on_cores, split_cores


@pytest.mark.parametrize(
    ("available", "workers", "cores"),
    [
        ([0], 1, Cores()),
        ([0, 1], 1, Cores((0,), (1,))),
        ([0, 1], 6, Cores((0,), (1,))),
        ([2, 3, 5, 7], 1, Cores((2,), (3, 5, 7))),
        ([2, 3, 5, 7], 4, Cores((2, 3), (5, 7))),
    ],
)
def test_a_core_for_each_worker_and_half_of_them_for_the_generator(
    available: list[int], workers: int, cores: Cores
) -> None:
    assert split_cores(available, workers) == cores


def test_both_sets_of_cores_are_shown() -> None:
    assert Cores((0, 1), (2,)).shown() == "server on 0,1, generator on 2"
    assert Cores().shown() == "not pinned"


def test_a_process_and_its_children_run_on_the_given_cores_and_this_process_does_not() -> None:
    before = os.sched_getaffinity(0)
    chosen = max(before)
    with on_cores([chosen]):
        command = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert shown == f"{{{chosen}}}\n"
    assert os.sched_getaffinity(0) == before
