from __future__ import annotations

from dataclasses import dataclass

import pytest

from gserver.arbiter.health import Verdict, is_stuck, liveness, outage, readiness
from gserver.arbiter.scoreboard import STUCK_S


@dataclass
class Worker:
    is_serving: bool
    heartbeat_age_s: float | None


SERVES = Worker(True, 0.5)
STUCK = Worker(True, STUCK_S + 1)
DRAINS = Worker(False, 0.5)
BOOTS = Worker(False, None)


@pytest.mark.parametrize(("age_s", "expected"), [(None, False), (0.0, False), (STUCK_S, False), (STUCK_S + 0.1, True)])
def test_a_worker_is_stuck_if_its_last_heartbeat_is_too_old(age_s: float | None, expected: bool) -> None:
    assert is_stuck(Worker(True, age_s)) == expected


@pytest.mark.parametrize(
    ("workers", "is_stopping", "expected"),
    [
        ([SERVES], False, Verdict(True, "1 of 1 workers serve and have a recent heartbeat")),
        ([SERVES, STUCK, BOOTS], False, Verdict(True, "1 of 2 workers serve and have a recent heartbeat")),
        ([STUCK, STUCK], False, Verdict(False, "every worker is stuck: the last heartbeat is 6.0 s old")),
        ([STUCK, DRAINS], False, Verdict(False, "every worker is stuck: the last heartbeat is 6.0 s old")),
        ([DRAINS], False, Verdict(False, "no worker serves")),
        ([BOOTS], False, Verdict(False, "no worker serves")),
        ([], False, Verdict(False, "no worker serves")),
        ([DRAINS, STUCK], True, Verdict(True, "1 of 2 workers drain and have a recent heartbeat")),
        ([], True, Verdict(False, "the server is stopping, no worker is left")),
    ],
)
def test_a_server_is_alive_while_one_worker_serves_and_is_not_stuck(
    workers: list[Worker], is_stopping: bool, expected: Verdict
) -> None:
    assert liveness(workers, is_stopping=is_stopping) == expected


@pytest.mark.parametrize(
    ("workers", "min_workers", "expected"),
    [
        ([SERVES], 1, Verdict(True, "1 workers serve")),
        ([SERVES, SERVES, STUCK], 2, Verdict(True, "2 workers serve")),
        ([SERVES, STUCK, DRAINS, BOOTS], 2, Verdict(False, "too few workers serve: 1, min_workers is 2")),
        ([STUCK, STUCK], 1, Verdict(False, "every worker that serves is stuck: the last heartbeat is 6.0 s old")),
        ([DRAINS, BOOTS], 1, Verdict(False, "no worker serves")),
        ([], 1, Verdict(False, "no worker serves")),
    ],
)
def test_a_server_is_ready_with_enough_workers_that_serve(
    workers: list[Worker], min_workers: int, expected: Verdict
) -> None:
    ready = readiness(workers, is_stopping=False, is_leaving=False, is_taken_out=False, min_workers=min_workers)

    assert ready == expected


@pytest.mark.parametrize(
    ("is_stopping", "is_leaving", "is_taken_out", "reason"),
    [
        (True, True, True, "the server is stopping"),
        (False, True, True, "the server is about to stop: it still serves, for shutdown_delay"),
        (False, False, True, "the operator has taken the server out of service"),
    ],
)
def test_a_server_that_goes_or_is_taken_out_is_not_ready(
    is_stopping: bool, is_leaving: bool, is_taken_out: bool, reason: str
) -> None:
    ready = readiness(
        [SERVES], is_stopping=is_stopping, is_leaving=is_leaving, is_taken_out=is_taken_out, min_workers=1
    )

    assert ready == Verdict(False, reason)


def test_an_old_server_answers_for_the_new_one_after_an_upgrade() -> None:
    taken_over = Verdict(True, "a new server has taken over")
    gone = {"is_stopping": True, "has_successor": True}

    assert liveness([], **gone) == taken_over
    assert readiness([], **gone, is_leaving=False, is_taken_out=False, min_workers=1) == taken_over
    assert not readiness([], **gone, is_leaving=False, is_taken_out=True, min_workers=1).is_good


def test_a_server_that_is_taken_out_serves() -> None:
    """So a health check that restarts servers does not restart it."""
    assert outage([SERVES], is_stopping=False) is None
