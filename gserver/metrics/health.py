"""Health: whether the server is alive, and whether it is ready for connections. Pure.

*Alive* means that restarting the server would not help: a worker that serves has a recent heartbeat. While the server
stops, no worker accepts connections any more, so any worker with a recent heartbeat counts.

*Ready* means that new connections should be sent to the server: at least `min_workers` workers serve and are not stuck,
the server does not stop, and the operator has not taken it out of service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gserver.arbiter.scoreboard import STUCK_S

__all__ = ["Verdict", "WorkerHealth", "is_stuck", "liveness", "readiness"]


class WorkerHealth(Protocol):
    """What is judged of a worker."""

    @property
    def is_serving(self) -> bool:
        """Whether it accepts connections."""

    @property
    def heartbeat_age_s(self) -> float | None:
        """The time since its last heartbeat; None before the first."""


@dataclass(frozen=True)
class Verdict:
    is_good: bool
    reason: str  # one line


def is_stuck(worker: WorkerHealth) -> bool:
    """Whether the worker has had heartbeats, and the last one is too old."""
    return worker.heartbeat_age_s is not None and worker.heartbeat_age_s > STUCK_S


def liveness(workers: Sequence[WorkerHealth], *, is_stopping: bool) -> Verdict:
    judged = [worker for worker in workers if worker.heartbeat_age_s is not None and (worker.is_serving or is_stopping)]
    if not judged:
        return Verdict(False, "the server is stopping, no worker is left" if is_stopping else "no worker serves")
    alive = [worker for worker in judged if not is_stuck(worker)]
    if not alive:
        latest_s = min(worker.heartbeat_age_s or 0.0 for worker in judged)
        return Verdict(False, f"every worker is stuck: the last heartbeat is {latest_s:.1f} s old")
    what = "drain" if is_stopping else "serve"
    return Verdict(True, f"{len(alive)} of {len(judged)} workers {what} and have a recent heartbeat")


def readiness(
    workers: Sequence[WorkerHealth], *, is_stopping: bool, is_taken_out: bool, min_workers: int = 1
) -> Verdict:
    """min_workers: how many workers must serve; at least 1."""
    ready = sum(worker.is_serving and worker.heartbeat_age_s is not None and not is_stuck(worker) for worker in workers)
    if is_stopping:
        return Verdict(False, "the server is stopping")
    if is_taken_out:
        return Verdict(False, "the operator has taken the server out of service")
    if ready < min_workers:
        return Verdict(False, f"{ready} workers serve, at least {min_workers} must")
    return Verdict(True, f"{ready} workers serve")
