"""The processes and cores of a run. Whole runs are in tests/integration/test_run.py."""

from __future__ import annotations

import os

import pytest

from loadtests.host.cpu_affinity import Cores
from loadtests.orchestration import runner
from loadtests.orchestration.runner import Options
from loadtests.workloads.profiles import PROFILES

LIMIT = 20_000


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_server_and_generator_have_a_core_each() -> None:
    spread = runner._spread(PROFILES["c2k"], Options(), LIMIT, workers=2)

    assert (spread.processes, spread.cores) == (1, Cores(server=(0,), generator=(1,)))


def test_with_more_processes_than_cores_the_kernel_chooses() -> None:
    spread = runner._spread(PROFILES["c100k"], Options(), LIMIT, workers=6)

    assert spread.processes == 6
    assert spread.cores == Cores()


@pytest.mark.parametrize(("options", "workers"), [(Options(pin=False), 1), (Options(), 0)])
def test_without_pinning_or_without_a_server_here_nothing_is_pinned(options: Options, workers: int) -> None:
    assert runner._spread(PROFILES["c2k"], options, LIMIT, workers).cores == Cores()


def test_a_master_leaves_the_processes_to_its_workers() -> None:
    options = Options(master=("127.0.0.1", 5557), expect_workers=3)

    spread = runner._spread(PROFILES["c2k"], options, LIMIT, workers=2)

    assert (spread.master, spread.workers, spread.processes) == (("127.0.0.1", 5557), 3, 1)
