"""Detect whether TCP retransmissions can explain the slow exchanges of a run. Pure.

A lost segment that no other segment follows is sent again after 200 ms at the earliest (the least timeout of Linux), so
its exchange takes longer than that. Therefore n retransmitted segments can be the slowest n exchanges if those took
that long. The kernel counts segments per network namespace, including all other traffic there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtests.formatting import number
from loadtests.recording.recording import Recording
from loadtests.results.metrics import Sample, Window

__all__ = ["explained_percent", "retransmit_warnings", "retransmitted"]

PERCENTS = (50.0, 90.0, 99.0, 99.9)
LEAST_TIMEOUT_NS = 200_000_000


def retransmit_warnings(recording: Recording, samples: Sequence[Sample], window: Window) -> list[str]:
    """A warning if retransmissions in the window can explain all exchanges beyond a percentile that is shown."""
    count = retransmitted(recording, samples, window)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    exchanges = measured.outcomes.total()  # including those cut off at the end, which are in the percentiles
    percent = explained_percent(count, exchanges, measured.latency.all.percentiles(PERCENTS))
    if percent is None:
        return []
    segments = "1 TCP segment was" if count == 1 else f"{count:,} TCP segments were"
    rate = f"{number(1000 * count / exchanges)} for 1,000 exchanges"
    return [f"{segments} sent again in the measured phase ({rate}): the network may cause the p{percent:g}"]


def explained_percent(count: int, exchanges: int, latencies_ns: Mapping[float, float]) -> float | None:
    """The lowest percentile beyond which `count` retransmissions can explain all exchanges; None if there is none."""
    for percent, latency_ns in sorted(latencies_ns.items()):
        if 100 * count > round(100 - percent, 3) * exchanges and latency_ns > LEAST_TIMEOUT_NS:
            return percent
    return None


def retransmitted(recording: Recording, samples: Sequence[Sample], window: Window) -> int:
    """Retransmissions in the window, in the network namespaces of the server and of the swarm, each counted once."""
    seen: dict[int, list[int]] = {}
    for values in _inside(recording, samples, window):
        if "namespace" in values and "retransmits" in values:
            seen.setdefault(int(values["namespace"]), []).append(int(values["retransmits"]))
    return sum(max(counts) - min(counts) for counts in seen.values())


def _inside(recording: Recording, samples: Sequence[Sample], window: Window) -> Iterator[Mapping[str, Any]]:
    for sample in samples:
        if window.holds(sample["time_s"]):
            yield from (sample.get(host, {}) for host in ("kernel", "generator_host"))
    for health in recording.health.values():
        # A counter is read at the end of a second. The reading of the second before the window is the start value.
        yield from (values for second, values in health.items() if window.start - 1 <= second < window.end)
