"""`loadtests ab` with real servers: equal sides are not reported as different, and a slower handler as worse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.exit_status import EXIT_FAILURE

pytestmark = pytest.mark.longhaul

#: --force: the results must hold on a busy host too, where ab would otherwise repeat most runs.
SMALL = ["--profile", "echo", "--users", "50", "--rate", "20", "--duration", "2", "--force"]
QUICK, SLOWER = ("gserver:tests.helpers.slower:quick", "gserver:tests.helpers.slower:slower")
#: The smallest number with which the test can report a difference.
PAIRS = ["--pairs", "9"]
COMPARISONS = int(os.environ.get("COMPARISONS", "20"))


def ab(results: Path, *words: str) -> int:
    command = [sys.executable, "-m", "loadtests", "ab", *words, *SMALL, *PAIRS, "--results", str(results)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(results / "cache")}
    return subprocess.run(command, env=environment, capture_output=True, timeout=1800, check=False).returncode


def answers_in(folder: Path) -> dict[str, str]:
    """Return headline figure -> answer, from `loadtests compare FOLDER --json`."""
    command = [sys.executable, "-m", "loadtests", "compare", str(folder), "--json", "--force"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return {figure["name"]: figure["answer"] for figure in report["figures"] if figure["answer"]}


def test_equal_sides_differ_in_one_of_twenty_comparisons_at_most(tmp_path: Path) -> None:
    different = 0
    for seed in range(COMPARISONS):
        ab(tmp_path / str(seed), QUICK, "--aa", "--seed", str(seed))
        (folder,) = (tmp_path / str(seed)).glob("*-ab-*")
        answers = answers_in(folder)
        print(seed, answers)
        different += bool(set(answers.values()) & {"worse", "better"})

        assert len(answers) == 9
    assert different <= max(1, COMPARISONS // 20)


def test_a_sleep_of_100_microseconds_in_the_handler_is_reported_as_worse(tmp_path: Path) -> None:
    assert ab(tmp_path, QUICK, SLOWER, "--seed", "1") == EXIT_FAILURE
    (folder,) = tmp_path.glob("*-ab-*")
    answers = answers_in(folder)

    assert answers["service_p50"] == answers["server_cpu_per_exchange"] == "worse"
    assert "better" not in answers.values()
