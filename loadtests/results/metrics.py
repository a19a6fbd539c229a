"""The figures of a run, computed from what was recorded and sampled. Pure.

Rates, latencies and costs are those of the measure phase: neither the ramp nor the warm-up before it, nor the cool-down
after it, enters them. An exchange belongs to the second in which it was due; what was due in the measure phase and was
never answered counts with the time that it had waited. Attempts and the rate of failures are those of the measure
phase, of all that a server may fail at: connects, handshakes, exchanges, closes. Counts of exchanges and connects, and
peaks, are those of the whole run. The latency of connecting is that of the whole run too, for connects happen in the
ramp; where most of them happened in the measure phase, as with sockets that come and go, it is those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from loadtests.host.cpu_time import have_ended, used_between, used_over
from loadtests.host.kernel_counters import drops_between
from loadtests.recording.recording import CUT_OFF, OK, PHASES, UNSENT, Cell, Latency, Recording, failures
from loadtests.results.memory import memory_of

__all__ = [
    "ENOUGH_BEYOND",
    "QUANTILES",
    "STATISTICS",
    "Figure",
    "Sample",
    "Window",
    "doubts_of_server",
    "failed_attempts",
    "figures_of",
    "has_enough_beyond",
    "held",
    "measure_window",
    "server_cpu",
    "withheld_of",
]

CONNECT = "connect"
MEMORY_OF_CONNECTION = "server_rss_per_socket"  # as it is called since it was made of RSS, for what reads run.json
QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
#: The figures of each latency, in the order of a table.
STATISTICS = ("mean", "min", *QUANTILES)
#: Fewer values beyond a quantile than this, and it is left to chance: p99 takes 1,000 values, the median 20.
ENOUGH_BEYOND = 10
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        better: "lower" or "higher", where that can be said, else "".
        low, high: ends of its 95 % confidence interval, where one was estimated.
        at_least: the value is a lower bound: of a latency, because requests that were outstanding at the end enter with
            the time that they had waited by then; of processor time, because a process ended that could not be read.
        count: of a quantile, how many values it was taken of, if known.
    """

    name: str
    value: float
    unit: str
    better: str = ""
    low: float | None = None
    high: float | None = None
    at_least: bool = False
    count: int | None = None

    @property
    def is_of_few(self) -> bool:
        """Whether it is a quantile that another run may well have elsewhere: no figure to state or to judge by."""
        quantile = QUANTILES.get(self.name.rpartition("_")[2], 100.0)
        return self.count is not None and quantile < 100 and not has_enough_beyond(self.count, quantile)


def has_enough_beyond(count: int, quantile: float) -> bool:
    """Whether so many values have enough of them beyond a quantile (in percent) for it not to be left to chance."""
    return round(count * (100 - quantile) / 100, 6) >= ENOUGH_BEYOND


@dataclass(frozen=True)
class Window:
    """Whole seconds of the run's clock, start <= second < end."""

    start: int
    end: int

    @property
    def length_s(self) -> int:
        return max(0, self.end - self.start)

    @property
    def seconds(self) -> range:
        return range(self.start, self.end)

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
    per_task: bool = False,
) -> list[Figure]:
    """Every figure that the recording and the samples (of the server; may be none) carry.

    offered: exchanges a second that the schedules of all sockets ask for together, or with `per_task` tasks, of several
    exchanges perhaps; None if they have none.
    """
    window = measure_window(phases)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    return [
        *_counts(recording),
        *_attempts(recording, window),
        *_held(recording, window),
        *_rates(measured, window, offered, per_task),
        *_phase_latencies(recording, window),
        *_latencies("", measured),
        *_by_type(recording, window),
        *_generator(recording, window),
        *_server(recording, window, measured, samples),
    ]


def _counts(recording: Recording) -> list[Figure]:
    outcomes = recording.total(recording.exchange_series()).outcomes
    connects = recording.total([CONNECT]).outcomes
    return [
        Figure("sockets_peak", max(recording.sockets().values(), default=0), "sockets"),
        Figure("sockets_used", recording.total(["first_byte"]).outcomes[OK], "sockets"),
        Figure("connects_ok", connects[OK], "connects"),
        Figure("connects_failed", failures(connects), "connects", "lower"),
        Figure("exchanges_ok", outcomes[OK], "exchanges"),
        Figure("exchanges_failed", failures(outcomes), "exchanges", "lower"),
        Figure("exchanges_cut_off", outcomes[CUT_OFF], "exchanges"),
        Figure("exchanges_unsent", outcomes[UNSENT], "exchanges", "lower"),
    ]


def failed_attempts(recording: Recording, start: int | None = None, end: int | None = None) -> dict[str, int]:
    """Series -> attempts that failed, those series that have any."""
    found = {series: failures(outcomes) for series, outcomes in recording.attempts(start, end).items()}
    return {series: count for series, count in found.items() if count}


def _attempts(recording: Recording, window: Window) -> list[Figure]:
    """An attempt is an exchange that ended, or a connect, handshake or close that failed: one that succeeded is how an
    exchange came about, and would only thin the rate."""
    failed = failed_attempts(recording, window.start, window.end)
    succeeded = recording.total(recording.exchange_series(), window.start, window.end).outcomes[OK]
    attempts = succeeded + sum(failed.values())
    if not attempts:
        return []
    by_kind = Counter[str]()
    for series, count in failed.items():
        by_kind[series if series in PHASES else "exchange"] += count
    return [
        Figure("attempts", attempts, "attempts"),
        Figure("attempts_failed", sum(failed.values()), "attempts", "lower"),
        *(Figure(f"attempts_failed_{kind}", count, "attempts", "lower") for kind, count in sorted(by_kind.items())),
        Figure("error_rate", 100 * sum(failed.values()) / attempts, "%", "lower"),
    ]


def held(recording: Recording, window: Window) -> list[int]:
    """Sockets that were open at the end of each second of the window; empty where users closed some on purpose."""
    if recording.total(["close"], window.start, window.end).outcomes.total():
        return []
    return [count for second, count in recording.sockets().items() if window.holds(second)]


def _held(recording: Recording, window: Window) -> list[Figure]:
    sockets = held(recording, window)
    if not sockets:
        return []
    connects = recording.total([CONNECT], window.start, window.end).outcomes
    return [
        Figure("sockets_least", min(sockets), "sockets", "higher"),
        Figure("sockets_mean", fmean(sockets), "sockets", "higher"),
        Figure("reconnects", connects[OK], "connects", "lower"),
    ]


def _rates(measured: Cell, window: Window, offered: float | None, per_task: bool) -> list[Figure]:
    figures = [Figure("steady_s", window.length_s, "s")]
    if window.length_s:
        figures.append(Figure("throughput", measured.done / window.length_s, "exchanges/s", "higher"))
    if offered:
        figures.append(Figure("offered", offered, "tasks/s" if per_task else "exchanges/s"))
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


def _percentiles(name: str, latency: Latency) -> list[Figure]:
    histogram = latency.all
    if not histogram.counts:
        return []
    found = histogram.percentiles(QUANTILES.values())
    values_ns = {"mean": histogram.mean, "min": histogram.least}
    values_ns |= {label: found[quantile] for label, quantile in QUANTILES.items()}
    return [
        Figure(
            f"{name}_{label}",
            values_ns[label] / 1000,
            "us",
            "lower",
            at_least=bool(latency.censored.counts) if label == "mean" else latency.is_lower_bound(values_ns[label]),
            count=histogram.total,
        )
        for label in STATISTICS
    ]


def _generator(recording: Recording, window: Window) -> list[Figure]:
    cores, lags_ns, late, ticks = [], [], 0.0, 0.0
    for health in recording.health.values():
        inside = {second: values for second, values in health.items() if window.holds(second)}
        lags_ns += [values["lag_ns"] for values in inside.values()]
        late += sum(values.get("late_sends", 0) for values in inside.values())
        ticks += sum(values.get("ticks", 0) for values in inside.values())
        if len(inside) > 1:  # what it used is known between two readings
            first, last = min(inside), max(inside)
            cores.append((inside[last]["cpu_s"] - inside[first]["cpu_s"]) / (last - first))
    figures = [Figure("generator_cpu", 100 * sum(cores), "% of a core", "lower")] if cores else []
    if lags_ns:
        figures.append(Figure("generator_lag_max", max(lags_ns) / 1e6, "ms", "lower"))
    if ticks:  # only what has a schedule can be late
        figures.append(Figure("generator_late", 100 * late / ticks, "% of sends", "lower"))
    return figures


def server_cpu(first: Sample, last: Sample) -> float:
    """Processor use of the server's tree between two samples, in percent of one core."""
    elapsed_s = last["time_s"] - first["time_s"]
    # Accounts of ended children are rounded down to ticks: over a short time less may have been used than was known.
    return 100 * max(0.0, used_between(first, last).seconds) / elapsed_s if elapsed_s > 0 else 0.0


def _server(recording: Recording, window: Window, measured: Cell, samples: Sequence[Sample]) -> list[Figure]:
    sampled = [sample for sample in samples if sample["processes"]]
    if not sampled:
        return []
    figures = [Figure("server_rss_peak", max(map(_rss, sampled)) / 2**20, "MiB", "lower")]
    figures += [*_memory(recording, sampled), *_overflows(sampled)]
    inside = [sample for sample in sampled if window.holds(sample["time_s"])]
    if len(inside) < 2:
        return figures
    return [*figures, *_processor(inside, measured.done / window.length_s), *_tree(inside)]


def _processor(inside: Sequence[Sample], done_per_s: float) -> list[Figure]:
    used = used_over(inside)
    percent = 100 * used.seconds / (inside[-1]["time_s"] - inside[0]["time_s"])
    found = [("server_cpu", percent, "% of a core")]
    if done_per_s:
        found.append(("server_cpu_per_exchange", 1e4 * percent / done_per_s, "us"))
    return [Figure(name, value, unit, "lower", at_least=bool(used.lost)) for name, value, unit in found]


def doubts_of_server(samples: Sequence[Sample], phases: Mapping[str, Sequence[int]]) -> list[str]:
    """A sentence for each figure of the server that is a lower bound, with the reason."""
    window = measure_window(phases)
    lost = used_over([sample for sample in samples if sample["processes"] and window.holds(sample["time_s"])]).lost
    return [f"the server's CPU time is a lower bound: {lost}"] if lost else []


def _memory(recording: Recording, samples: Sequence[Sample]) -> list[Figure]:
    memory, figures = memory_of(recording, samples), []
    if (each := memory.each) is not None:
        low, high = (None if end is None else end / 1024 for end in (each.low, each.high))
        figures.append(Figure(MEMORY_OF_CONNECTION, each.value / 1024, "KiB", "lower", low, high))
    if (growth := memory.growth) is not None:
        figures.append(Figure("server_memory_growth", growth.slope.value / 1024, "KiB/s", "lower"))
    return figures


def withheld_of(recording: Recording, samples: Sequence[Sample], phases: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Figures that the run cannot have, and why."""
    sampled = [sample for sample in samples if sample["processes"]]
    why = memory_of(recording, sampled).withheld if sampled else "the server was not sampled"
    withheld = {MEMORY_OF_CONNECTION: why} if why else {}
    window = measure_window(phases)
    if have_ended([sample for sample in sampled if window.holds(sample["time_s"])]):
        withheld["server_switches"] = "processes of the server ended, and nothing has an account of theirs"
    return withheld


def _overflows(samples: Sequence[Sample]) -> list[Figure]:
    """What the tested port's own listeners dropped; where they are out of sight, what all of the host did."""
    dropped = [sample["kernel"]["listeners"] for sample in samples if "listeners" in sample.get("kernel", {})]
    if dropped:
        return [
            Figure("listen_overflows", sum(drops_between(*each) for each in pairwise(dropped)), "connects", "lower")
        ]
    counted = [
        sample["kernel"]["listen_overflows"] for sample in samples if "listen_overflows" in sample.get("kernel", {})
    ]
    return [Figure("host_listen_overflows", counted[-1] - counted[0], "connects")] if counted else []


def _tree(inside: Sequence[Sample]) -> list[Figure]:
    first, last = inside[0], inside[-1]
    elapsed_s = last["time_s"] - first["time_s"]
    figures = [
        Figure("server_processes", sum(not each.get("has_ended") for each in last["processes"]), "processes"),
        Figure("server_descriptors", max(_total(sample, "descriptors") for sample in inside), "descriptors"),
    ]
    if not have_ended(inside):
        switches = _total(last, "switches_voluntary") - _total(first, "switches_voluntary")
        figures.append(Figure("server_switches", switches / elapsed_s, "switches/s"))
    counted = [
        sample
        for sample in inside
        if all("sockets" in process or process.get("has_ended") for process in sample["processes"])
    ]
    if counted:
        figures.append(Figure("server_sockets", max(_total(sample, "sockets") for sample in counted), "sockets"))
    return figures


def _total(sample: Sample, key: str) -> float:
    return float(sum(process.get(key, 0) for process in sample["processes"]))


def _rss(sample: Sample) -> float:
    return _total(sample, "rss_bytes")
