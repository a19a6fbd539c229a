"""Which workers may join a swarm."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.recording.swarm_membership import MOST_NOTICES, Identity, Roster, title

VERSIONS = {"gserver": "1.0", "loadtests": "1.0 (abc)", "locust": "2.5"}
OWN = Identity(VERSIONS, "own.py", "d1" * 32)


def introduction(process: str = "web-7", **changes: Any) -> dict[str, Any]:
    return {"process": process, **OWN.to_json(), **changes}


def introduced(*workers: str, **changes: Any) -> Roster:
    roster = Roster()
    for worker in workers:
        roster.introduce(worker, introduction(**changes))
    return roster


def test_a_worker_of_the_same_versions_and_file_joins() -> None:
    roster = introduced("web_1")

    assert roster.admit("web_1", "2.5", OWN) == ""
    assert roster.processes == {"web_1": "web-7"}
    assert roster.notices == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"versions": {**VERSIONS, "locust": "2.4"}}, "locust 2.4 at the worker, 2.5 at the master"),
        ({"versions": {**VERSIONS, "gserver": "2.0"}}, "gserver 2.0 at the worker, 1.0 at the master"),
        ({"versions": {"gserver": "1.0", "locust": "2.5"}}, "loadtests missing at the worker, 1.0 (abc) at the master"),
        (
            {"file": "other.py", "digest": "e2" * 32},
            "Locust file other.py (e2e2e2e2) at the worker, own.py (d1d1d1d1) at the master",
        ),
    ],
)
def test_a_worker_that_differs_is_refused_with_both_sides(changes: dict[str, Any], why: str) -> None:
    roster = introduced("web_1", **changes)

    assert roster.admit("web_1", "2.5", OWN) == why
    assert roster.admit("web_1", "2.5", OWN) == why
    assert roster.notices == [f"worker process 7 on host web was refused: {why}"]
    assert roster.processes == {}


@pytest.mark.parametrize("data", [None, "x", {}, {"versions": 1, "file": "", "digest": ""}, {"versions": {}}])
def test_a_worker_without_an_introduction_is_refused(data: Any) -> None:
    roster = Roster()
    roster.introduce("web_1", data)
    why = roster.admit("web_1", "2.4", OWN)

    assert "locust 2.4 at the worker" in why
    assert "gserver 1.0, loadtests 1.0 (abc), locust 2.5 at the master" in why
    assert roster.notices == [f"a worker on host web was refused: {why}"]


def test_a_worker_after_the_start_is_refused() -> None:
    roster = introduced("web_1", "web_2")
    roster.admit("web_1", "2.5", OWN)
    roster.is_closed = True

    assert roster.admit("web_2", "2.5", OWN) == "the run has started, with 1 worker, and takes no others"
    assert roster.processes == {"web_1": "web-7"}


def test_processes_with_one_name_get_unique_names() -> None:
    workers = ("web_1", "web_2", "web_3")
    roster = introduced(*workers)
    for worker in (*workers, "web_1"):  # one of them joins again
        assert roster.admit(worker, "2.5", OWN) == ""

    assert roster.processes == {"web_1": "web-7", "web_2": "web-7#2", "web_3": "web-7#3"}


def test_a_worker_that_restarts_without_end_adds_a_limited_number_of_notices() -> None:
    roster = Roster(is_closed=True)
    for number in range(3 * MOST_NOTICES):
        roster.introduce(f"web_{number}", introduction())
        assert roster.admit(f"web_{number}", "2.5", OWN)

    assert len(roster.notices) == MOST_NOTICES


def test_a_worker_is_named_by_host_and_process() -> None:
    assert title("web-1.example-12") == "worker process 12 on host web-1.example"
    assert title("w") == "worker w"
