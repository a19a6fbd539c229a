"""Whether TCP segments that were sent again explain the slow exchanges of a run. Pure.

A segment that is lost, and that no other one followed, is sent again after 200 ms at the earliest (Linux's least
timeout), and the exchange it belongs to takes longer than that. So n such segments can be the slowest n exchanges, if
those took that long. The kernel counts segments for each network namespace, with all else that is sent there.
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
    """A sentence if segments that were sent again in the window can be what lies beyond a quantile that is shown."""
    count = retransmitted(recording, samples, window)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    exchanges = measured.outcomes.total()  # those that were cut off too: they are in the percentiles
    percent = explained_percent(count, exchanges, measured.latency.all.percentiles(PERCENTS))
    if percent is None:
        return []
    segments = "1 TCP segment was" if count == 1 else f"{count:,} TCP segments were"
    often = f"{number(1000 * count / exchanges)} for 1,000 exchanges"
    return [f"{segments} sent again in the measured phase ({often}): the p{percent:g} may be the network's"]


def explained_percent(count: int, exchanges: int, latencies_ns: Mapping[float, float]) -> float | None:
    """The lowest percentile beyond which `count` segments, sent again, can be all exchanges; None if there is none."""
    for percent, latency_ns in sorted(latencies_ns.items()):
        if 100 * count > round(100 - percent, 3) * exchanges and latency_ns > LEAST_TIMEOUT_NS:
            return percent
    return None


def retransmitted(recording: Recording, samples: Sequence[Sample], window: Window) -> int:
    """Segments sent again in the window, in the namespaces of the server and of the whole swarm, each counted once."""
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
        # What is counted at the end of the second before the window is its beginning.
        yield from (values for second, values in health.items() if window.start - 1 <= second < window.end)
