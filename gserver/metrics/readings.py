"""One reading of the scoreboard: everything that metrics, health and the page show, at one moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from gserver.arbiter.health import Verdict, is_stuck, liveness, readiness
from gserver.arbiter.restart_causes import RestartCause
from gserver.arbiter.scoreboard import HEARTBEAT_S, LAG_BOUNDS_S, RESERVED, Scoreboard, Slot
from gserver.config.settings import Settings
from gserver.counters import CELLS, RECEIVED, SENT, Counters, handler_seconds, handler_times, snapshot

__all__ = ["Histogram", "Readings", "WorkerReadings", "read"]


@dataclass(frozen=True)
class WorkerReadings:
    """One worker. Times are seconds."""

    slot: int
    pid: int  # 0: it is not forked yet
    number: int  # 1 for the first worker of the server, 2 for the next
    is_serving: bool
    heartbeat_age_s: float | None  # None before the first heartbeat
    lag_s: float  # the delay of the event loop in the last second, or the present one if that is larger
    lag_max_s: float  # the largest since the worker's start
    open: int  # connections
    messages: int
    message_rate: float  # per second
    not_after: int | None  # when its certificate expires, in seconds since 1970; None without TLS

    @property
    def is_stuck(self) -> bool:
        return is_stuck(self)


@dataclass(frozen=True)
class Histogram:
    """Counts by upper bound in seconds, not cumulative; the last bound is infinite."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    def quantile(self, share: float) -> float | None:
        """An estimate in seconds: the values of a bucket are taken as spread evenly, as Prometheus does. None: none.

        In the last bucket it is its lower bound.
        """
        wanted, lower = share * sum(self.counts), 0.0
        for bound, count in zip(self.bounds_s, self.counts, strict=True):
            if count and wanted <= count:
                return lower if bound == math.inf else lower + (bound - lower) * wanted / count
            wanted, lower = wanted - count, bound
        return None


@dataclass(frozen=True)
class Readings:
    """The server. Instants are seconds since 1970; 0 if there was none."""

    workers: tuple[WorkerReadings, ...]
    totals: Counters  # of all workers since the start of the server
    lags: Histogram
    started_at: float
    generation: int
    target: int
    is_stopping: bool
    is_leaving: bool
    has_successor: bool
    is_taken_out: bool
    min_workers: int
    reloads_succeeded: int
    reloads_failed: int
    last_reload_at: float
    last_reload_failed: bool
    restarts: dict[RestartCause, int]
    settings: Settings
    read_at: datetime

    @property
    def serving(self) -> int:
        """How many workers accept connections."""
        return sum(worker.is_serving for worker in self.workers)

    @property
    def received_bytes(self) -> int:
        return self.totals.cells[RECEIVED]

    @property
    def sent_bytes(self) -> int:
        return self.totals.cells[SENT]

    @property
    def handlers(self) -> Histogram:
        """The time of handlers, of one message of SAMPLED_ONE_OF."""
        times = handler_times(self.totals.cells)
        return Histogram(tuple(times), tuple(times.values()), handler_seconds(self.totals.cells))

    @property
    def liveness(self) -> Verdict:
        return liveness(self.workers, is_stopping=self.is_stopping, has_successor=self.has_successor)

    @property
    def readiness(self) -> Verdict:
        return readiness(
            self.workers,
            is_stopping=self.is_stopping,
            is_leaving=self.is_leaving,
            has_successor=self.has_successor,
            is_taken_out=self.is_taken_out,
            min_workers=self.min_workers,
        )


def read(scoreboard: Scoreboard, settings: Settings, clock: Callable[[], float] = time.monotonic) -> Readings:
    """Read the scoreboard. settings: those of the server, which has the limits."""
    workers, totals, lags = scoreboard.consistent(lambda: _read_slots(scoreboard, clock))
    facts = scoreboard.server
    return Readings(
        workers,
        totals,
        lags,
        facts.started_at,
        facts.generation,
        facts.target,
        facts.is_stopping,
        facts.is_leaving,
        facts.has_successor,
        facts.is_taken_out,
        facts.min_workers,
        facts.reloads_succeeded,
        facts.reloads_failed,
        facts.last_reload_at,
        facts.last_reload_failed,
        facts.restarts,
        settings,
        datetime.now(UTC),
    )


def _read_slots(
    scoreboard: Scoreboard, clock: Callable[[], float]
) -> tuple[tuple[WorkerReadings, ...], Counters, Histogram]:
    slots = list(scoreboard.used_slots())
    of_slots = [snapshot(slot.cells) for slot in slots]
    all_cells = [snapshot(scoreboard.ended.cells), *of_slots]
    now = clock()
    workers = tuple(_worker(slot, Counters(cells), now) for slot, cells in zip(slots, of_slots, strict=True))
    totals = Counters([sum(cells[cell] for cells in all_cells) for cell in range(CELLS)])
    with_lags = [scoreboard.ended, *slots]
    counts = tuple(map(sum, zip(*(slot.lag_counts for slot in with_lags), strict=True)))
    return workers, totals, Histogram(LAG_BOUNDS_S, counts, sum(slot.lag_sum_ns for slot in with_lags) / 1e9)


def _worker(slot: Slot, counters: Counters, now: float) -> WorkerReadings:
    heartbeat_at = slot.heartbeat_at
    age_s = max(0.0, now - heartbeat_at) if heartbeat_at else None
    late_s = 0.0 if age_s is None else max(0.0, age_s - HEARTBEAT_S)  # a worker that is blocked cannot write its lag
    return WorkerReadings(
        slot.index,
        0 if slot.pid == RESERVED else slot.pid,
        slot.age,
        slot.is_serving,
        age_s,
        max(slot.lag_s, late_s),
        max(slot.lag_max_s, late_s),
        counters.open,
        counters.messages,
        slot.message_rate,
        slot.certificate_not_after,
    )
