from __future__ import annotations

from dataclasses import dataclass

import pytest

from gserver.arbiter.scoreboard import STUCK_S
from gserver.metrics.health import Verdict, is_stuck, liveness, readiness


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
        ([SERVES, STUCK, DRAINS, BOOTS], 2, Verdict(False, "1 workers serve, at least 2 must")),
        ([Worker(True, None)], 1, Verdict(False, "0 workers serve, at least 1 must")),
        ([], 1, Verdict(False, "0 workers serve, at least 1 must")),
    ],
)
def test_a_server_is_ready_with_enough_workers_that_serve(
    workers: list[Worker], min_workers: int, expected: Verdict
) -> None:
    assert readiness(workers, is_stopping=False, is_taken_out=False, min_workers=min_workers) == expected


def test_a_server_that_stops_or_is_taken_out_is_not_ready() -> None:
    stopping = readiness([SERVES], is_stopping=True, is_taken_out=True)
    taken_out = readiness([SERVES], is_stopping=False, is_taken_out=True)

    assert stopping == Verdict(False, "the server is stopping")
    assert taken_out == Verdict(False, "the operator has taken the server out of service")
