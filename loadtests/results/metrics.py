"""Compute the figures of a run from its recording and its samples. Pure.

- Rates, latencies and costs are of the measure phase, without ramp, warm-up and cool-down. An exchange belongs to the
  second in which it was due. A request that was due in the measure phase and got no reply counts with the time that it
  had waited.
- Attempts and the error rate are of the measure phase too. They include connects, handshakes, exchanges and closes.
- Counts of exchanges and connects, and peaks, are of the whole run.
- Connect times are of the whole run, because most connects happen in the ramp. If at least half of them happened in the
  measure phase (connections come and go), only those count.
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
from loadtests.results.figure_catalog import kind_of
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
MEMORY_OF_CONNECTION = "server_rss_per_socket"  # the name in run.json, from when the figure was computed from RSS
QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
#: The statistics of each latency, in the order of a table.
STATISTICS = ("mean", "min", *QUANTILES)
#: A quantile with fewer values beyond it is left to chance: p99 needs 1,000 values, the median 20.
ENOUGH_BEYOND = 10
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure of a run, as run.json keeps it.

    Attributes:
        better: "lower" or "higher"; "" if neither is better.
        low, high: ends of the 95 % confidence interval; None if none was estimated.
        at_least: True if the value is a lower bound. A latency is one if requests that were outstanding at the end
            enter it with the time that they had waited. CPU time is one if a process ended before it could be read.
        count: of a quantile, the number of values that it was computed from; None if not known.
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
        """Whether this is a quantile of so few values that it must be neither shown nor judged."""
        quantile = QUANTILES.get(self.name.rpartition("_")[2], 100.0)
        return self.count is not None and quantile < 100 and not has_enough_beyond(self.count, quantile)


def has_enough_beyond(count: int, quantile: float) -> bool:
    """Whether enough of `count` values lie beyond a quantile (in percent)."""
    return round(count * (100 - quantile) / 100, 6) >= ENOUGH_BEYOND


@dataclass(frozen=True)
class Window:
    """A range of whole seconds of the run's clock: start <= second < end."""

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
    """The measure phase; empty if the run ended before it."""
    start, end = phases.get("measure", (0, 0))
    return Window(start, end)


def figures_of(
    recording: Recording,
    samples: Sequence[Sample],
    phases: Mapping[str, Sequence[int]],
    offered: float | None = None,
    per_task: bool = False,
) -> list[Figure]:
    """Every figure that the recording and the samples of the server give. There may be no samples.

    offered: the exchanges a second that the schedules of all users ask for; with `per_task` the tasks a second, of one
        exchange or several each. None if the users have no schedule.
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


def _figure(name: str, value: float, unit: str = "", **details: Any) -> Figure:
    """A figure with the unit (unless given) and the direction of the catalog."""
    kind = kind_of(name)
    return Figure(name, value, unit or kind.unit, kind.better, **details)


def _counts(recording: Recording) -> list[Figure]:
    outcomes = recording.total(recording.exchange_series()).outcomes
    connects = recording.total([CONNECT]).outcomes
    return [
        _figure("sockets_peak", max(recording.sockets().values(), default=0)),
        _figure("sockets_used", recording.total(["first_byte"]).outcomes[OK]),
        _figure("connects_ok", connects[OK]),
        _figure("connects_failed", failures(connects)),
        _figure("exchanges_ok", outcomes[OK]),
        _figure("exchanges_failed", failures(outcomes)),
        _figure("exchanges_cut_off", outcomes[CUT_OFF]),
        _figure("exchanges_unsent", outcomes[UNSENT]),
    ]


def failed_attempts(recording: Recording, start: int | None = None, end: int | None = None) -> dict[str, int]:
    """Series -> number of failed attempts; without the series that have none."""
    found = {series: failures(outcomes) for series, outcomes in recording.attempts(start, end).items()}
    return {series: count for series, count in found.items() if count}


def _attempts(recording: Recording, window: Window) -> list[Figure]:
    """An attempt is an exchange that ended, or a connect, handshake or close that failed.

    Connects that succeeded are no attempts: they are part of an exchange, and counting them would lower the error rate.
    """
    failed = failed_attempts(recording, window.start, window.end)
    succeeded = recording.total(recording.exchange_series(), window.start, window.end).outcomes[OK]
    attempts = succeeded + sum(failed.values())
    if not attempts:
        return []
    by_kind = Counter[str]()
    for series, count in failed.items():
        by_kind[series if series in PHASES else "exchange"] += count
    return [
        _figure("attempts", attempts),
        _figure("attempts_failed", sum(failed.values())),
        *(_figure(f"attempts_failed_{kind}", count) for kind, count in sorted(by_kind.items())),
        _figure("error_rate", 100 * sum(failed.values()) / attempts),
    ]


def held(recording: Recording, window: Window) -> list[int]:
    """The connections open at the end of each second of the window; empty if users closed some on purpose."""
    if recording.total(["close"], window.start, window.end).outcomes.total():
        return []
    return [count for second, count in recording.sockets().items() if window.holds(second)]


def _held(recording: Recording, window: Window) -> list[Figure]:
    sockets = held(recording, window)
    if not sockets:
        return []
    connects = recording.total([CONNECT], window.start, window.end).outcomes
    return [
        _figure("sockets_least", min(sockets)),
        _figure("sockets_mean", fmean(sockets)),
        _figure("reconnects", connects[OK]),
    ]


def _rates(measured: Cell, window: Window, offered: float | None, per_task: bool) -> list[Figure]:
    figures = [_figure("steady_s", window.length_s)]
    if window.length_s:
        figures.append(_figure("throughput", measured.done / window.length_s))
    if offered:
        figures.append(_figure("offered", offered, "tasks/s" if per_task else ""))
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
        yield _figure(f"answered_{series}", cell.outcomes[OK])
        yield _figure(f"failed_{series}", failures(cell.outcomes))
        yield from _latencies(series, cell)


def _percentiles(name: str, latency: Latency) -> list[Figure]:
    histogram = latency.all
    if not histogram.counts:
        return []
    found = histogram.percentiles(QUANTILES.values())
    values_ns = {"mean": histogram.mean, "min": histogram.least}
    values_ns |= {label: found[quantile] for label, quantile in QUANTILES.items()}
    return [
        _figure(
            f"{name}_{label}",
            values_ns[label] / 1000,
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
        if len(inside) > 1:  # CPU use needs two readings
            first, last = min(inside), max(inside)
            cores.append((inside[last]["cpu_s"] - inside[first]["cpu_s"]) / (last - first))
    figures = [_figure("generator_cpu", 100 * sum(cores))] if cores else []
    if lags_ns:
        figures.append(_figure("generator_lag_max", max(lags_ns) / 1e6))
    if ticks:  # only users with a schedule can be late
        figures.append(_figure("generator_late", 100 * late / ticks))
    return figures


def server_cpu(first: Sample, last: Sample) -> float:
    """CPU use of the server's process tree between two samples, in percent of one core."""
    elapsed_s = last["time_s"] - first["time_s"]
    # The CPU time of ended children is rounded down to ticks. Over a short time the difference may be negative.
    return 100 * max(0.0, used_between(first, last).seconds) / elapsed_s if elapsed_s > 0 else 0.0


def _server(recording: Recording, window: Window, measured: Cell, samples: Sequence[Sample]) -> list[Figure]:
    sampled = [sample for sample in samples if sample["processes"]]
    if not sampled:
        return []
    figures = [_figure("server_rss_peak", max(map(_rss, sampled)) / 2**20)]
    figures += [*_memory(recording, sampled), *_overflows(sampled)]
    inside = [sample for sample in sampled if window.holds(sample["time_s"])]
    if len(inside) < 2:
        return figures
    return [*figures, *_processor(inside, measured.done / window.length_s), *_tree(inside)]


def _processor(inside: Sequence[Sample], done_per_s: float) -> list[Figure]:
    used = used_over(inside)
    percent = 100 * used.seconds / (inside[-1]["time_s"] - inside[0]["time_s"])
    found = {"server_cpu": percent}
    if done_per_s:
        found["server_cpu_per_exchange"] = 1e4 * percent / done_per_s  # µs
    return [_figure(name, value, at_least=bool(used.lost)) for name, value in found.items()]


def doubts_of_server(samples: Sequence[Sample], phases: Mapping[str, Sequence[int]]) -> list[str]:
    """A sentence for each figure of the server that is only a lower bound, with the reason."""
    window = measure_window(phases)
    lost = used_over([sample for sample in samples if sample["processes"] and window.holds(sample["time_s"])]).lost
    return [f"the server's CPU time is a lower bound: {lost}"] if lost else []


def _memory(recording: Recording, samples: Sequence[Sample]) -> list[Figure]:
    memory, figures = memory_of(recording, samples), []
    if (each := memory.each) is not None:
        low, high = (None if end is None else end / 1024 for end in (each.low, each.high))
        figures.append(_figure(MEMORY_OF_CONNECTION, each.value / 1024, low=low, high=high))
    if (growth := memory.growth) is not None:
        figures.append(_figure("server_memory_growth", growth.slope.value / 1024))
    return figures


def withheld_of(recording: Recording, samples: Sequence[Sample], phases: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The figures that the run cannot give: name -> reason."""
    sampled = [sample for sample in samples if sample["processes"]]
    why = memory_of(recording, sampled).withheld if sampled else "the server was not sampled"
    withheld = {MEMORY_OF_CONNECTION: why} if why else {}
    window = measure_window(phases)
    if have_ended([sample for sample in sampled if window.holds(sample["time_s"])]):
        withheld["server_switches"] = "processes of the server ended, and the kernel does not keep their counts"
    return withheld


def _overflows(samples: Sequence[Sample]) -> list[Figure]:
    """Connection requests dropped by the tested port's own listeners; if those cannot be read, by the whole host."""
    dropped = [sample["kernel"]["listeners"] for sample in samples if "listeners" in sample.get("kernel", {})]
    if dropped:
        return [_figure("listen_overflows", sum(drops_between(*each) for each in pairwise(dropped)))]
    counted = [
        sample["kernel"]["listen_overflows"] for sample in samples if "listen_overflows" in sample.get("kernel", {})
    ]
    return [_figure("host_listen_overflows", counted[-1] - counted[0])] if counted else []


def _tree(inside: Sequence[Sample]) -> list[Figure]:
    first, last = inside[0], inside[-1]
    elapsed_s = last["time_s"] - first["time_s"]
    figures = [
        _figure("server_processes", sum(not each.get("has_ended") for each in last["processes"])),
        _figure("server_descriptors", max(_total(sample, "descriptors") for sample in inside)),
    ]
    if not have_ended(inside):
        switches = _total(last, "switches_voluntary") - _total(first, "switches_voluntary")
        figures.append(_figure("server_switches", switches / elapsed_s))
    counted = [
        sample
        for sample in inside
        if all("sockets" in process or process.get("has_ended") for process in sample["processes"])
    ]
    if counted:
        figures.append(_figure("server_sockets", max(_total(sample, "sockets") for sample in counted)))
    return figures


def _total(sample: Sample, key: str) -> float:
    return float(sum(process.get(key, 0) for process in sample["processes"]))


def _rss(sample: Sample) -> float:
    return _total(sample, "rss_bytes")
