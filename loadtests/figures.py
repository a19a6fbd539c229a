"""The figures of a run, computed from what was recorded and sampled. Pure.

Rates, latencies and costs are those of the steady window: the whole seconds after all sockets were connected and before
the first of them closed. Connecting, failures and peaks are those of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.recording import CUT_OFF, OK, Recording

__all__ = ["CONNECT", "QUANTILES", "Figure", "Window", "figures_of", "server_cpu", "steady_window"]

CONNECT = "connect"
QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure: `better` is "lower" or "higher" where that can be said, else ""."""

    name: str
    value: float
    unit: str
    better: str = ""


@dataclass(frozen=True)
class Window:
    """Whole seconds of the monotonic clock, start <= second < end."""

    start: int
    end: int

    @property
    def length_s(self) -> int:
        return max(0, self.end - self.start)


def steady_window(recording: Recording) -> Window:
    """The seconds in which as many sockets were open as ever; empty if there was no such whole second."""
    sockets = recording.sockets()
    peak = max(sockets.values(), default=0)
    full = [second for second, count in sockets.items() if count == peak and peak > 0]
    return Window(full[0] + 1, full[-1]) if full else Window(0, 0)


def figures_of(recording: Recording, samples: Sequence[Sample]) -> list[Figure]:
    """Every figure that the recording and the samples (of the server's process tree; may be none) carry."""
    window = steady_window(recording)
    exchanges = recording.exchange_series()
    return [
        *_counts(recording, exchanges),
        *_rates(recording, exchanges, window),
        *_generator(recording, window),
        *_server(recording, exchanges, window, samples),
    ]


def _counts(recording: Recording, exchanges: list[str]) -> list[Figure]:
    outcomes = recording.total(exchanges).outcomes
    connects = recording.total([CONNECT]).outcomes
    return [
        Figure("sockets_peak", max(recording.sockets().values(), default=0), "sockets"),
        Figure("connects_ok", connects[OK], "connects"),
        Figure("connects_failed", _failures(connects), "connects", "lower"),
        Figure("exchanges_ok", outcomes[OK], "exchanges"),
        Figure("exchanges_failed", _failures(outcomes), "exchanges", "lower"),
        Figure("exchanges_cut_off", outcomes[CUT_OFF], "exchanges"),
    ]


def _failures(outcomes: Mapping[str, int]) -> int:
    return sum(count for outcome, count in outcomes.items() if outcome not in (OK, CUT_OFF))


def _rates(recording: Recording, exchanges: list[str], window: Window) -> list[Figure]:
    figures = [Figure("steady_s", window.length_s, "s")]
    if window.length_s:
        done = recording.total(exchanges, window.start, window.end).outcomes[OK]
        figures.append(Figure("throughput", done / window.length_s, "exchanges/s", "higher"))
    figures += _latencies("connect", recording, [CONNECT])
    figures += _latencies("latency", recording, exchanges, window)
    for series in exchanges:
        figures += _latencies(f"latency_{series}", recording, [series], window)
    return figures


def _latencies(name: str, recording: Recording, series: Iterable[str], window: Window | None = None) -> list[Figure]:
    span = (window.start, window.end) if window else (None, None)
    service = recording.total(series, *span).service
    values = service.percentiles(QUANTILES.values())
    return [
        Figure(f"{name}_{label}", values[quantile] / 1000, "us", "lower")
        for label, quantile in QUANTILES.items()
        if values
    ]


def _generator(recording: Recording, window: Window) -> list[Figure]:
    if not window.length_s:
        return []
    cores, lags_ns = [], []
    for health in recording.health.values():
        inside = {second: values for second, values in health.items() if window.start <= second < window.end}
        lags_ns += [values["lag_ns"] for values in inside.values()]
        if len(inside) > 1:  # what it used is known between two readings
            first, last = min(inside), max(inside)
            cores.append((inside[last]["cpu_s"] - inside[first]["cpu_s"]) / (last - first))
    figures = [Figure("generator_cpu", 100 * sum(cores), "% of a core", "lower")] if cores else []
    return figures + ([Figure("generator_lag_max", max(lags_ns) / 1e6, "ms", "lower")] if lags_ns else [])


def server_cpu(first: Sample, last: Sample) -> float:
    """Processor use of the server's tree between two samples, in percent of one core."""
    elapsed_s = last["time_s"] - first["time_s"]
    return 100 * _grown(first, last, "cpu_user_s", "cpu_system_s") / elapsed_s if elapsed_s > 0 else 0.0


def _server(recording: Recording, exchanges: list[str], window: Window, samples: Sequence[Sample]) -> list[Figure]:
    if not samples:
        return []
    peak = max(samples, key=_rss)
    figures = [Figure("server_rss_peak", _rss(peak) / 2**20, "MiB", "lower")]
    inside = [sample for sample in samples if window.start <= sample["time_s"] < window.end]
    if len(inside) < 2:
        return figures
    cpu_percent = server_cpu(inside[0], inside[-1])
    figures.append(Figure("server_cpu", cpu_percent, "% of a core", "lower"))
    done = recording.total(exchanges, window.start, window.end).outcomes[OK]
    if done:
        per_s = done / window.length_s
        figures.append(Figure("server_cpu_per_exchange", 1e4 * cpu_percent / per_s, "us", "lower"))
    return [*figures, *_memory(recording, samples, inside), *_tree(inside)]


def _memory(recording: Recording, samples: Sequence[Sample], inside: Sequence[Sample]) -> list[Figure]:
    """What a connection costs: memory with all of them, less that of the first sample, which a run takes before."""
    sockets = max(recording.sockets().values(), default=0)
    if not sockets or samples[0]["time_s"] >= inside[0]["time_s"]:
        return []
    held = sorted(_rss(sample) for sample in inside)[len(inside) // 2] - _rss(samples[0])
    return [Figure("server_rss_per_socket", held / 1024 / sockets, "KiB", "lower")]


def _tree(inside: Sequence[Sample]) -> list[Figure]:
    first, last = inside[0], inside[-1]
    elapsed_s = last["time_s"] - first["time_s"]
    switches = _grown(first, last, "switches_voluntary")
    figures = [
        Figure("server_processes", len(last["processes"]), "processes"),
        Figure("server_descriptors", max(_total(sample, "descriptors") for sample in inside), "descriptors"),
        Figure("server_switches", switches / elapsed_s, "switches/s"),
    ]
    counted = [sample for sample in inside if all("sockets" in process for process in sample["processes"])]
    if counted:
        figures.append(Figure("server_sockets", max(_total(sample, "sockets") for sample in counted), "sockets"))
    return figures


def _total(sample: Sample, key: str) -> float:
    return float(sum(process[key] for process in sample["processes"]))


def _rss(sample: Sample) -> float:
    return _total(sample, "rss_bytes")


def _grown(first: Sample, last: Sample, *keys: str) -> float:
    """What the processes of `last` used since `first`, each by itself: one that was replaced takes nothing back."""
    before = {process["pid"]: process for process in first["processes"]}
    return float(
        sum(process[key] - before.get(process["pid"], {}).get(key, 0) for process in last["processes"] for key in keys)
    )
