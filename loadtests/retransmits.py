"""Whether TCP segments that were sent again explain the slow exchanges of a run. Pure.

A segment that is lost is sent again after a round trip at best, and after 200 ms or more where nothing followed it; the
exchange it belongs to waits as long. So n such segments can be the slowest n exchanges. The kernel counts them for each
network namespace, and for whatever else is sent there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtests.figures import Sample, Window
from loadtests.recording import Recording
from loadtests.text import number

__all__ = ["explained_quantile", "retransmit_warnings", "retransmitted"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def retransmit_warnings(recording: Recording, samples: Sequence[Sample], window: Window) -> list[str]:
    """A sentence if as many segments were sent again in the window as exchanges lie beyond a quantile that is shown."""
    count = retransmitted(recording, samples, window)
    ended = recording.total(recording.exchange_series(), window.start, window.end).outcomes.total()
    quantile = explained_quantile(count, ended)
    if not quantile:
        return []
    segments = "1 TCP segment was" if count == 1 else f"{count:,} TCP segments were"
    often = f"{number(1000 * count / ended)} for 1,000 exchanges"
    return [f"{segments} sent again in the measured phase ({often}): latencies from {quantile} on may be the network's"]


def explained_quantile(count: int, exchanges: int) -> str:
    """The lowest quantile beyond which there are fewer exchanges than segments that were sent again; "" if none is."""
    share = count / exchanges if exchanges else 0.0
    return next((name for name, quantile in QUANTILES.items() if share > 1 - quantile), "")


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
