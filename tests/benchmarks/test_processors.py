from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.processors import Placement, pinned, place


def test_server_and_load_have_a_processor_each() -> None:
    assert place({2, 5, 7}, 1) == Placement(frozenset({2}), frozenset({7}))


def test_where_there_is_only_one_they_share_it_and_that_is_said() -> None:
    placement = place({3}, 1)

    assert placement == Placement(frozenset({3}), frozenset({3}))
    assert str(placement) == "server and load share processor 3, the only one"


def test_a_server_of_several_workers_shares_its_processors_with_the_load() -> None:
    placement = place({0, 1, 2}, 2)

    assert placement == Placement(frozenset({0, 1}), frozenset({0, 1}))
    assert str(placement) == "server on processor 0 and 1, load on 0 and 1"


def test_more_processors_than_there_are_is_no_place() -> None:
    assert place({0}, 2) is None


def test_what_is_started_within_runs_where_it_is_told_and_this_process_goes_on_as_before() -> None:
    before = os.sched_getaffinity(0)
    chosen = {max(before)}
    with pinned(chosen):
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )

    assert shown.stdout.strip() == str(chosen)
    assert os.sched_getaffinity(0) == before
