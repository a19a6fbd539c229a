"""The figures of a run, computed from what was recorded and sampled. Pure.

Rates, latencies and costs are those of the measure phase: neither the ramp nor the warm-up before it, nor the cool-down
after it, enters them. What a connection costs and how many there were is a matter of the whole run: connects happen in
the ramp; where most of them happened in the measure phase, as with sockets that come and go, it is those. Failures and
peaks are those of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from loadtests.histogram import Histogram
from loadtests.recording import CUT_OFF, OK, PHASES, Cell, Recording
from loadtests.slope import fitted_slope

__all__ = [
    "QUANTILES",
    "STATISTICS",
    "Figure",
    "Sample",
    "Window",
    "failures",
    "figures_of",
    "measure_window",
    "server_cpu",
]

CONNECT = "connect"
QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
#: The figures of each latency, in the order of a table.
STATISTICS = ("mean", "min", *QUANTILES)
# Whole seconds with the same sockets from which a plateau is taken for one; the first of them is left out.
PLATEAU_S = 3
# Of the most that were open: what sockets may differ by from one second of a plateau to the next.
PLATEAU_SPREAD = 0.002
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure: `better` is "lower" or "higher" where that can be said, else ""; low and high are the ends of its
    95 % confidence interval, where one was estimated."""

    name: str
    value: float
    unit: str
    better: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Window:
    """Whole seconds of the run's clock, start <= second < end."""

    start: int
    end: int

    @property
    def length_s(self) -> int:
        return max(0, self.end - self.start)

    def holds(self, time_s: float) -> bool:
        return self.start <= time_s < self.end


def measure_window(phases: Mapping[str, Sequence[int]]) -> Window:
    """The measure phase; empty if the run did not come to it."""
    start, end = phases.get("measure", (0, 0))
    return Window(start, end)


def figures_of(
    recording: Recording,
    samples: Sequence[Sample],
    phases: Mapping[str, Sequence[int]],
    offered: float | None = None,
) -> list[Figure]:
    """Every figure that the recording and the samples (of the server; may be none) carry.

    offered: exchanges a second that the schedules of all sockets ask for together; None if they have none.
    """
    window = measure_window(phases)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    return [
        *_counts(recording, measured),
        *_rates(measured, window, offered),
        *_phase_latencies(recording, window),
        *_latencies("", measured),
        *_by_type(recording, window),
        *_generator(recording, window, measured),
        *_server(recording, window, measured, samples),
    ]


def _counts(recording: Recording, measured: Cell) -> list[Figure]:
    outcomes = recording.total(recording.exchange_series()).outcomes
    connects = recording.total([CONNECT]).outcomes
    ended = measured.outcomes[OK] + failures(measured.outcomes)
    figures = [
        Figure("sockets_peak", max(recording.sockets().values(), default=0), "sockets"),
        Figure("sockets_used", recording.total(["first_byte"]).outcomes[OK], "sockets"),
        Figure("connects_ok", connects[OK], "connects"),
        Figure("connects_failed", failures(connects), "connects", "lower"),
        Figure("exchanges_ok", outcomes[OK], "exchanges"),
        Figure("exchanges_failed", failures(outcomes), "exchanges", "lower"),
        Figure("exchanges_cut_off", outcomes[CUT_OFF], "exchanges"),
    ]
    if ended:
        figures.append(Figure("error_rate", 100 * failures(measured.outcomes) / ended, "%", "lower"))
    return figures


def failures(outcomes: Mapping[str, int]) -> int:
    """How many of what ended neither succeeded nor were cut off."""
    return sum(count for outcome, count in outcomes.items() if outcome not in (OK, CUT_OFF))


def _rates(measured: Cell, window: Window, offered: float | None) -> list[Figure]:
    figures = [Figure("steady_s", window.length_s, "s")]
    if window.length_s:
        figures.append(Figure("throughput", measured.outcomes[OK] / window.length_s, "exchanges/s", "higher"))
    if offered:
        figures.append(Figure("offered", offered, "exchanges/s"))
    return figures


def _phase_latencies(recording: Recording, window: Window) -> list[Figure]:
    figures = []
    for phase in PHASES:
        whole, inside = recording.total([phase]), recording.total([phase], window.start, window.end)
        cell = inside if 2 * inside.outcomes[OK] >= whole.outcomes[OK] else whole
        figures += _percentiles(phase, cell.service)
    return figures


def _latencies(series: str, cell: Cell) -> list[Figure]:
    of = f"_{series}" if series else ""
    return [
        *_percentiles(f"service{of}", cell.service),
        *_percentiles(f"response{of}", cell.response),
    ]


def _by_type(recording: Recording, window: Window) -> Iterable[Figure]:
    for series in recording.exchange_series():
        cell = recording.total([series], window.start, window.end)
        yield Figure(f"answered_{series}", cell.outcomes[OK], "exchanges")
        yield Figure(f"failed_{series}", failures(cell.outcomes), "exchanges", "lower")
        yield from _latencies(series, cell)


def _percentiles(name: str, latencies: Histogram) -> list[Figure]:
    if not latencies.counts:
        return []
    found = latencies.percentiles(QUANTILES.values())
    values_ns = {"mean": latencies.mean, "min": latencies.least}
    values_ns |= {label: found[quantile] for label, quantile in QUANTILES.items()}
    return [Figure(f"{name}_{label}", values_ns[label] / 1000, "us", "lower") for label in STATISTICS]


def _generator(recording: Recording, window: Window, measured: Cell) -> list[Figure]:
    cores, lags_ns, late = [], [], 0.0
    for health in recording.health.values():
        inside = {second: values for second, values in health.items() if window.holds(second)}
        lags_ns += [values["lag_ns"] for values in inside.values()]
        late += sum(values.get("late_sends", 0) for values in inside.values())
        if len(inside) > 1:  # what it used is known between two readings
            first, last = min(inside), max(inside)
            cores.append((inside[last]["cpu_s"] - inside[first]["cpu_s"]) / (last - first))
    figures = [Figure("generator_cpu", 100 * sum(cores), "% of a core", "lower")] if cores else []
    if lags_ns:
        figures.append(Figure("generator_lag_max", max(lags_ns) / 1e6, "ms", "lower"))
    if measured.response.counts:  # only what has a schedule can be late
        sent = measured.outcomes.total()
        figures.append(Figure("generator_late", 100 * late / sent, "% of sends", "lower"))
    return figures


def server_cpu(first: Sample, last: Sample) -> float:
    """Processor use of the server's tree between two samples, in percent of one core."""
    elapsed_s = last["time_s"] - first["time_s"]
    return 100 * _grown(first, last, "cpu_user_s", "cpu_system_s") / elapsed_s if elapsed_s > 0 else 0.0


def _server(recording: Recording, window: Window, measured: Cell, samples: Sequence[Sample]) -> list[Figure]:
    sampled = [sample for sample in samples if sample["processes"]]
    if not sampled:
        return []
    figures = [Figure("server_rss_peak", max(map(_rss, sampled)) / 2**20, "MiB", "lower")]
    figures += [*_memory(recording, sampled), *_overflows(sampled)]
    inside = [sample for sample in sampled if window.holds(sample["time_s"])]
    if len(inside) < 2:
        return figures
    cpu_percent = server_cpu(inside[0], inside[-1])
    figures.append(Figure("server_cpu", cpu_percent, "% of a core", "lower"))
    if done := measured.outcomes[OK]:
        per_s = done / window.length_s
        figures.append(Figure("server_cpu_per_exchange", 1e4 * cpu_percent / per_s, "us", "lower"))
    return [*figures, *_tree(inside)]


def _memory(recording: Recording, samples: Sequence[Sample]) -> list[Figure]:
    """What a connection costs: the slope of memory over sockets, through the plateaus of both."""
    slope = fitted_slope(memory_plateaus(recording, samples))
    if slope is None:
        return []
    low, high = (None if end is None else end / 1024 for end in (slope.low, slope.high))
    return [Figure("server_rss_per_socket", slope.value / 1024, "KiB", "lower", low, high)]


def memory_plateaus(recording: Recording, samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """(sockets, resident bytes of the server's tree) for each time that the sockets stayed the same for a while.

    The first is that before any socket; none is from after the first socket of the last plateau closed: what a process
    once took it does not give back at once.
    """
    sockets = recording.sockets()
    if not sockets:
        return []
    before = [_rss(sample) for sample in samples if sample["time_s"] < min(sockets)]
    points = [(0.0, median(before))] if before else []
    for window, count in _plateaus(sockets):
        held = [_rss(sample) for sample in samples if window.holds(sample["time_s"])]
        if held and count:
            points.append((float(count), median(held)))
    return points


def _plateaus(sockets: Mapping[int, int]) -> list[tuple[Window, int]]:
    """Up to the highest one: the seconds with the same sockets, without the first."""
    step = max(1.0, PLATEAU_SPREAD * max(sockets.values()))
    found = []
    for level, group in groupby(sockets.items(), key=lambda each: round(each[1] / step)):
        seconds = [second for second, _ in group]
        if level and len(seconds) >= PLATEAU_S:
            found.append((Window(seconds[0] + 1, seconds[-1] + 1), sockets[seconds[-1]]))
    if not found:
        return []
    highest = max(range(len(found)), key=lambda place: found[place][1])
    return found[: highest + 1]


def _overflows(samples: Sequence[Sample]) -> list[Figure]:
    counted = [
        sample["kernel"]["listen_overflows"] for sample in samples if "listen_overflows" in sample.get("kernel", {})
    ]
    return [Figure("listen_overflows", counted[-1] - counted[0], "connects", "lower")] if counted else []


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
    before = {_identity(process): process for process in first["processes"]}
    return float(
        sum(
            process[key] - before.get(_identity(process), {}).get(key, 0)
            for process in last["processes"]
            for key in keys
        )
    )


def _identity(process: Mapping[str, Any]) -> tuple[Any, Any]:
    """A number alone may be given to another process; when that started, older runs do not say."""
    return process["pid"], process.get("started_s")
