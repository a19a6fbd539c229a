"""Health: whether the server is alive, whether it serves, and whether it is ready for connections. Pure.

*Alive* means that restarting the server would not help: a worker that serves has a recent heartbeat. While the server
stops, no worker accepts connections any more, so any worker with a recent heartbeat counts.

After a binary upgrade the old server ends, and the new one serves at the same addresses. On a busy host the old metrics
process may get to a last check only then. What it is asked about is the service, so it answers for the new server.

*Ready* means that load balancers should send clients here. It is decided here alone: for /readyz, for gserverctl and
for the stats socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gserver.arbiter.scoreboard import STUCK_S

__all__ = ["Verdict", "WorkerHealth", "is_stuck", "liveness", "outage", "readiness"]


class WorkerHealth(Protocol):
    """What is judged of a worker."""

    @property
    def is_serving(self) -> bool:
        """Whether it accepts connections."""

    @property
    def heartbeat_age_s(self) -> float | None:
        """The time since its last heartbeat; None before the first."""


_SUCCESSOR = "a new server has taken over"


@dataclass(frozen=True)
class Verdict:
    is_good: bool
    reason: str  # one line


def is_stuck(worker: WorkerHealth) -> bool:
    """Whether the worker has had heartbeats, and the last one is too old."""
    return worker.heartbeat_age_s is not None and worker.heartbeat_age_s > STUCK_S


def liveness(workers: Sequence[WorkerHealth], *, is_stopping: bool, has_successor: bool = False) -> Verdict:
    if has_successor:
        return Verdict(True, _SUCCESSOR)
    judged = [worker for worker in workers if worker.heartbeat_age_s is not None and (worker.is_serving or is_stopping)]
    if not judged:
        return Verdict(False, "the server is stopping, no worker is left" if is_stopping else "no worker serves")
    alive = [worker for worker in judged if not is_stuck(worker)]
    if not alive:
        latest_s = min(worker.heartbeat_age_s or 0.0 for worker in judged)
        return Verdict(False, f"every worker is stuck: the last heartbeat is {latest_s:.1f} s old")
    what = "drain" if is_stopping else "serve"
    return Verdict(True, f"{len(alive)} of {len(judged)} workers {what} and have a recent heartbeat")


def outage(workers: Sequence[WorkerHealth], *, is_stopping: bool) -> str | None:
    """Why no client is served, in one line; None if clients are served."""
    if is_stopping:
        return "the server is stopping"
    serving = [worker for worker in workers if worker.is_serving]
    if not serving:
        return "no worker serves"
    if all(map(is_stuck, serving)):
        latest_s = min(worker.heartbeat_age_s or 0.0 for worker in serving)
        return f"every worker that serves is stuck: the last heartbeat is {latest_s:.1f} s old"
    return None


def readiness(
    workers: Sequence[WorkerHealth],
    *,
    is_stopping: bool,
    is_leaving: bool,
    is_taken_out: bool,
    min_workers: int,
    has_successor: bool = False,
) -> Verdict:
    """Whether load balancers should send clients here.

    Args:
        is_leaving: the server is about to stop, and still serves for shutdown_delay.
        is_taken_out: an operator has taken it out of service: gserverctl ready off.
        min_workers: how many workers must serve; at least 1.
        has_successor: a new server has taken over, and this one ends.
    """
    if has_successor and not is_taken_out:
        return Verdict(True, _SUCCESSOR)
    problem = outage(workers, is_stopping=is_stopping)
    ready = sum(worker.is_serving and worker.heartbeat_age_s is not None and not is_stuck(worker) for worker in workers)
    if problem is None and is_leaving:
        problem = "the server is about to stop: it still serves, for shutdown_delay"
    elif problem is None and is_taken_out:
        problem = "the operator has taken the server out of service"
    elif problem is None and ready < min_workers:
        problem = f"too few workers serve: {ready}, min_workers is {min_workers}"
    return Verdict(True, f"{ready} workers serve") if problem is None else Verdict(False, problem)
