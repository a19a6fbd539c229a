"""This process's recording, and Locust's own statistics, which are fed from it.

A success costs a few additions when it happens. Once a second, and before anybody reads them, Locust's statistics get
what was recorded since, as if a worker had reported it: events.request.fire() takes longer than all else an exchange
does. Where somebody else listens to that event, it is fired for each success after all; for failures it always is.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from typing import Any

from locust.env import Environment
from locust.stats import StatsEntry

from loadtests.recording.clock_offset import Clock
from loadtests.recording.histogram import Histogram
from loadtests.recording.recording import OK, Cell, Recording

__all__ = ["RECORDER", "REQUEST_TYPE", "UNSEEN_BY_LOCUST", "Recorder", "two_digits"]

NS_IN_S = 10**9
REQUEST_TYPE = "TCP"
#: What is no request: it stays out of Locust's table.
UNSEEN_BY_LOCUST = frozenset({"first_byte", "close"})
#: A send that is later than this, although its user was free, is the generator's fault.
LATE_NS = 1_000_000


class Recorder:
    """One for each process.

    Attributes:
        clock: what this process's clock lacks to the run's.
        merged: on the master, or in a run of one process: everything; on a worker what was not reported yet.
        recorded: outcomes so far.
        asked_per_s: tasks that the schedules of this process's users ask for.
        ticks: tasks begun at a time of their own; late_sends: of these, sent late; late_ns, latest_ns: how late those
            were, together and at worst. All since health was last written.
        environment: Locust's, once there is one.
        is_batched: whether successes reach Locust in batches.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.merged = Recording()
        self.recorded = 0
        self.asked_per_s = 0.0
        self.ticks = self.late_sends = self.late_ns = self.latest_ns = 0
        self.environment: Environment | None = None
        self.is_batched = True
        self._recording = Recording()  # what was recorded since the last flush
        self._sizes: Counter[str] = Counter()
        self._open: dict[str, tuple[int, Cell]] = {}  # the cell that each series is at

    @property
    def process(self) -> str:
        return f"{os.uname().nodename}-{os.getpid()}"

    def now_s(self) -> int:
        """The second of the run's clock."""
        return (time.monotonic_ns() + self.clock.offset_ns) // NS_IN_S

    # Recording

    def succeeded(
        self, series: str, end_ns: int, service_ns: int, response_ns: int | None = None, size: int = 0
    ) -> None:
        """A success that ended at `end_ns` of this process's clock; `size`: bytes of the reply, with its framing."""
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
        """A failure of what was due or began at `due_ns` of this process's clock."""
        self._recording.failed(series, due_ns + self.clock.offset_ns, outcome, text)

    def outstanding(
        self, series: str, end_ns: int, outcome: str, service_ns: int | None = None, response_ns: int | None = None
    ) -> None:
        """What the test's end has left without an answer, or without a send."""
        self._recording.outstanding(series, end_ns + self.clock.offset_ns, outcome, service_ns, response_ns)

    def late(self, late_ns: int) -> None:
        """A send that was so late although its user was free."""
        self.late_sends += 1
        self.late_ns += late_ns
        self.latest_ns = max(self.latest_ns, late_ns)

    def lateness(self) -> dict[str, int]:
        """What of it health tells, and start anew."""
        told = {
            "ticks": self.ticks,
            "late_sends": self.late_sends,
            "late_ns": self.late_ns,
            "latest_ns": self.latest_ns,
        }
        self.ticks = self.late_sends = self.late_ns = self.latest_ns = 0
        return told

    def healthy(self, second: int, health: dict[str, float]) -> None:
        """The health of this process in a second of the run's clock."""
        self._recording.health.setdefault(self.process, {})[second] = health

    # Handing over

    def flush(self) -> None:
        """Add what was recorded since the last time to `merged`, and its successes to Locust's statistics."""
        recording, sizes = self._recording, self._sizes
        self._recording, self._sizes = Recording(), Counter()
        self._open.clear()
        self.recorded += recording.outcomes().total()
        if self.environment is not None and self.is_batched:
            for series in recording.cells.keys() - UNSEEN_BY_LOCUST:
                _feed(self.environment, series, recording.cells[series], sizes[series])
        self.merged.merge(recording.take())

    def report(self, is_final: bool) -> dict[str, Any]:
        """What a worker hands to the master."""
        self.flush()
        return self.merged.report(self.process, self.recorded, is_final)


RECORDER = Recorder()


def two_digits(response_time_ms: float) -> float:
    """What Locust does to times above 100 ms. Below, its buckets are whole ones, and a server that takes 0.3 takes 0.

    A third digit would make it ten times as many buckets, of which Locust goes through each when it is fed.
    """
    return float(f"{response_time_ms:.2g}")


def _feed(environment: Environment, series: str, seconds: dict[int, Cell], size: int) -> None:
    """Merge successes into Locust's entry and its total, the way it merges a worker's report."""
    total = Cell()
    for cell in seconds.values():
        total.add(cell)
    if not total.outcomes[OK]:
        return
    stats = environment.stats
    news: Any = StatsEntry(stats, series, REQUEST_TYPE)  # Locust's annotations know no fractions of milliseconds
    news.num_requests = total.outcomes[OK]
    news.total_content_length = size
    news.last_request_timestamp = time.time()
    ahead_s = news.last_request_timestamp - RECORDER.now_s()
    for second, cell in seconds.items():
        news.num_reqs_per_sec[int(second + ahead_s)] += cell.outcomes[OK]
    _feed_times(news, total.service.measured)
    stats.entries[(series, REQUEST_TYPE)].extend(news)
    stats.total.extend(news)


def _feed_times(news: Any, service: Histogram) -> None:
    buckets = sorted(service.counts)
    news.min_response_time, news.max_response_time = buckets[0] / 1e6, buckets[-1] / 1e6
    counts, times = service.counts, news.response_times
    news.total_response_time = sum(bucket * count for bucket, count in counts.items()) / 1e6
    for bucket in buckets:
        times[_shown_ms(bucket)] += counts[bucket]


# The loop waits for whoever feeds, and a swarm's latencies fall into the same few thousand buckets again and again.
@functools.lru_cache(maxsize=2**16)
def _shown_ms(bucket_ns: int) -> float:
    return two_digits(bucket_ns / 1e6)
