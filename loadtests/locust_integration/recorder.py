"""The recording of this process, which also feeds Locust's own statistics.

Recording a success costs a few additions. Twenty times a second, and before they are read, Locust's statistics receive
what was recorded since, as if a worker had reported it. An event for each success would cost more than the rest of the
exchange, so events.request is fired for successes only if something else listens to it; for failures it always is.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from typing import Any

from locust.env import Environment

from loadtests.locust_integration import compat
from loadtests.recording.clock_offset import ClockOffset
from loadtests.recording.recording import OK, Cell, Recording
from loadtests.units import NS_IN_S

__all__ = ["LATE_NS", "RECORDER", "REQUEST_TYPE", "UNSEEN_BY_LOCUST", "Recorder", "two_digits"]

REQUEST_TYPE = "TCP"
#: Phases of a connection that are no requests, and stay out of Locust's table.
UNSEEN_BY_LOCUST = frozenset({"first_byte", "close"})
#: A send that is later than this, although its user was free, is late because of the generator.
LATE_NS = 1_000_000


class Recorder:
    """Records what the users of this process do. There is one instance: RECORDER.

    Attributes:
        clock: the offset from this process's clock to the run's.
        merged: everything, on a master or in a run of one process; on a worker, what it has not reported yet.
        recorded: outcomes so far.
        asked_per_s: tasks a second that the schedules of this process's users demand.
        ticks: tasks that began at their scheduled time; late_sends: how many of these were sent late; late_ns,
            latest_ns: the sum and the maximum of their delays. All since lateness() was last called.
        environment: Locust's environment; None until Locust has made it.
        is_batched: whether Locust receives successes in batches instead of as events.
    """

    def __init__(self) -> None:
        self.clock = ClockOffset()
        self.merged = Recording()
        self.recorded = 0
        self.asked_per_s = 0.0
        self.ticks = self.late_sends = self.late_ns = self.latest_ns = 0
        self.environment: Environment | None = None
        self.is_batched = True
        self._recording = Recording()  # recorded since the last flush
        self._sizes: Counter[str] = Counter()
        self._open: dict[str, tuple[int, Cell]] = {}  # series -> second and cell of its newest success

    @property
    def process(self) -> str:
        """HOST-PID, the name of this process in a recording."""
        return f"{os.uname().nodename}-{os.getpid()}"

    def now_s(self) -> int:
        """The present second of the run's clock."""
        return (time.monotonic_ns() + self.clock.offset_ns) // NS_IN_S

    # Recording

    def succeeded(
        self, series: str, end_ns: int, service_ns: int, response_ns: int | None = None, size: int = 0
    ) -> None:
        """Record a success that ended at `end_ns` of this process's clock; `size`: bytes of the reply as received."""
        end_ns += self.clock.offset_ns
        second = (end_ns - (service_ns if response_ns is None else response_ns)) // NS_IN_S
        open_cell = self._open.get(series)
        if open_cell is None or open_cell[0] != second:
            open_cell = self._open[series] = (second, self._recording.cell(series, second))
        cell = open_cell[1]
        cell.service.measured.record(service_ns)
        if response_ns is not None:
            cell.response.measured.record(response_ns)
        cell.outcomes[OK] += 1
        if end_ns // NS_IN_S == second:
            cell.done += 1
        else:
            self._recording.cell(series, end_ns // NS_IN_S).done += 1
        if size:
            self._sizes[series] += size

    def failed(self, series: str, due_ns: int, outcome: str, text: str = "") -> None:
        """Record a failure of something that was due, or began, at `due_ns` of this process's clock."""
        self._recording.failed(series, due_ns + self.clock.offset_ns, outcome, text)

    def outstanding(
        self, series: str, end_ns: int, outcome: str, service_ns: int | None = None, response_ns: int | None = None
    ) -> None:
        """Record an exchange that has no reply, or was not sent, when the test ends at `end_ns`."""
        self._recording.outstanding(series, end_ns + self.clock.offset_ns, outcome, service_ns, response_ns)

    def late(self, late_ns: int) -> None:
        """Count a send that was `late_ns` late although its user was free."""
        self.late_sends += 1
        self.late_ns += late_ns
        self.latest_ns = max(self.latest_ns, late_ns)

    def lateness(self) -> dict[str, int]:
        """Return the counts of ticks and late sends, and reset them."""
        counts = {
            "ticks": self.ticks,
            "late_sends": self.late_sends,
            "late_ns": self.late_ns,
            "latest_ns": self.latest_ns,
        }
        self.ticks = self.late_sends = self.late_ns = self.latest_ns = 0
        return counts

    def healthy(self, second: int, health: dict[str, float]) -> None:
        """Record the health of this process in a second of the run's clock."""
        self._recording.health.setdefault(self.process, {})[second] = health

    # Handing over

    def flush(self) -> None:
        """Add what was recorded since the last flush to `merged`, and its successes to Locust's statistics."""
        recording, sizes = self._recording, self._sizes
        self._recording, self._sizes = Recording(), Counter()
        self._open.clear()
        self.recorded += recording.outcomes().total()
        if self.environment is not None and self.is_batched:
            for series in recording.cells.keys() - UNSEEN_BY_LOCUST:
                _feed(self.environment, series, recording.cells[series], sizes[series])
        self.merged.merge(recording.take())

    def report(self, is_final: bool) -> dict[str, Any]:
        """What a worker sends to its master."""
        self.flush()
        return self.merged.report(self.process, self.recorded, is_final)


RECORDER = Recorder()


def two_digits(response_time_ms: float) -> float:
    """Round a response time to two digits, as Locust does above 100 ms.

    Below that Locust's buckets are whole milliseconds, so 0.3 ms would be 0. A third digit would make ten times as many
    buckets, and Locust goes through all of them when it is fed.
    """
    return float(f"{response_time_ms:.2g}")


def _feed(environment: Environment, series: str, seconds: dict[int, Cell], size: int) -> None:
    """Add the successes of a series to Locust's statistics."""
    total = Cell()
    for cell in seconds.values():
        total.add(cell)
    if not total.outcomes[OK]:
        return
    counts = total.service.measured.counts
    buckets = sorted(counts)
    times_ms: Counter[float] = Counter()
    for bucket in buckets:
        times_ms[_shown_ms(bucket)] += counts[bucket]
    compat.add_successes(
        environment,
        series,
        REQUEST_TYPE,
        by_second={second: cell.outcomes[OK] for second, cell in seconds.items()},
        now_s=RECORDER.now_s(),
        size=size,
        times_ms=times_ms,
        least_ms=buckets[0] / 1e6,
        most_ms=buckets[-1] / 1e6,
        total_ms=sum(bucket * count for bucket, count in counts.items()) / 1e6,
    )


# Cached because the event loop waits during a flush, and latencies fall into the same few thousand buckets every time.
@functools.lru_cache(maxsize=2**16)
def _shown_ms(bucket_ns: int) -> float:
    return two_digits(bucket_ns / 1e6)
