"""The data of the charts of a run, as rows by time or by percentile. Pure.

Times are seconds since the start of the run; latencies are microseconds. Numbers are rounded to the digits that can be
seen, to keep a page small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from loadtests.host.kernel_counters import drops_between
from loadtests.recording.histogram import Histogram
from loadtests.recording.recording import OK, failures
from loadtests.report.run_data import Clock, Evidence
from loadtests.results.memory import Level, memory_of

__all__ = [
    "Row",
    "connect_rows",
    "connecting",
    "fitted_rows",
    "generator_rows",
    "heat_rows",
    "latency_rows",
    "load_rows",
    "memory_rows",
    "nines",
    "overflow_rows",
    "overlaid_rows",
    "phase_rows",
    "plateau_rows",
    "process_names",
    "process_rows",
    "quantile_rows",
]

Row = dict[str, Any]
CONNECT = "connect"
# Rows of a heatmap for each power of ten.
BINS_PER_DECADE = 10
# Points on the nines axis for each nine: enough for a smooth line.
PLACES_PER_NINE = 16
# The shortest time that the chart of connect times shows.
SHORTEST_S = 5


def nines(quantile: float) -> float:
    """The place of a quantile (in percent) on the nines axis: 90 at 1, 99 at 2, 99.9 at 3."""
    return round(-math.log10(1 - quantile / 100), 4)


def digits(value: float, count: int = 4) -> float:
    """Round to `count` significant digits."""
    return float(f"{value:.{count}g}")


def phase_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """The phases of the run that begin before the end of the clock."""
    rows = []
    for name, (start, end) in evidence.run.phases.items():
        if end > start and start < clock.end:
            rows.append({"phase": name, "t": clock.since(start), "t_end": clock.since(min(end, clock.end))})
    return rows


def quantile_rows(evidence: Evidence) -> list[Row]:
    """Latency and service time of all exchanges by percentile, of the measured phase (else of the whole run)."""
    start, end = evidence.measured or (None, None)
    cell = evidence.recording.total(evidence.recording.exchange_series(), start, end)
    service, response = cell.service.all, cell.response.all
    curves = {"service": _curve(service), "response": _curve(response)}
    places = range(max(map(len, curves.values())))
    count = max(service.total, response.total)
    return [
        {
            "nines": round(place / PLACES_PER_NINE, 4),
            "percentile": digits(_quantile(place), 6),
            **{name: curve[place] for name, curve in curves.items() if place < len(curve)},
            "slower": math.floor(count * (1 - _quantile(place) / 100)),
        }
        for place in places
    ]


def overlaid_rows(evidence: Sequence[tuple[str, Evidence]]) -> tuple[list[Row], dict[str, str]]:
    """The latency of several titled runs by percentile: the rows, and column -> title for the runs that have any."""
    curves, counts = [], []
    for _, each in evidence:
        start, end = each.measured or (None, None)
        cell = each.recording.total(each.recording.exchange_series(), start, end)
        histogram = cell.latency.all
        curves.append(_curve(histogram))
        counts.append(histogram.total)
    rows = [
        {
            "nines": round(place / PLACES_PER_NINE, 4),
            "percentile": digits(_quantile(place), 6),
            **{f"run {number}": curve[place] for number, curve in enumerate(curves, 1) if place < len(curve)},
            "slower": math.floor(max(counts) * (1 - _quantile(place) / 100)),
        }
        for place in range(max(map(len, curves), default=0))
    ]
    titles = {f"run {number}": f"{number}: {title}" for number, (title, _) in enumerate(evidence, 1)}
    return rows, {column: title for (column, title), curve in zip(titles.items(), curves, strict=True) if curve}


def _curve(histogram: Histogram) -> list[float]:
    if not histogram.counts:
        return []
    last = math.ceil(math.log10(histogram.total) * PLACES_PER_NINE)
    quantiles = [_quantile(place) for place in range(last + 1)]
    found = histogram.percentiles(quantiles)
    return [digits(found[quantile] / 1000) for quantile in quantiles]


def _quantile(place: int) -> float:
    """The quantile, in percent, of a place on the nines axis."""
    return 100 * (1 - 10 ** (-place / PLACES_PER_NINE))


def heat_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """For each step and range of latency: the number of exchanges, and their share of all exchanges of the step."""
    rows: list[Row] = []
    series = evidence.recording.exchange_series()
    for start, end in clock.steps():
        cell = evidence.recording.total(series, start, end)
        counts = cell.latency.all.counts
        rows += _heat_column(counts, clock.since(start), clock.since(end))
    return rows


def _heat_column(counts: Mapping[int, int], t: float, t_end: float) -> list[Row]:
    bins: dict[int, int] = {}
    for latency_ns, count in counts.items():
        place = math.floor(math.log10(max(latency_ns, 1000) / 1000) * BINS_PER_DECADE)
        bins[place] = bins.get(place, 0) + count
    total = sum(bins.values())
    return [
        {
            "t": t,
            "t_end": t_end,
            "low": digits(10 ** (place / BINS_PER_DECADE), 3),
            "high": digits(10 ** ((place + 1) / BINS_PER_DECADE), 3),
            "count": count,
            "share": digits(count / total, 3),
        }
        for place, count in sorted(bins.items())
    ]


def latency_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """p50, p99 and maximum of each step: of the latency, or of the service time if there is no schedule."""
    rows = []
    series = evidence.recording.exchange_series()
    for start, end in clock.steps():
        cell = evidence.recording.total(series, start, end)
        found = cell.latency.all.percentiles((50, 99, 100))
        if found:
            values = {
                name: digits(found[quantile] / 1000) for quantile, name in ((50, "p50"), (99, "p99"), (100, "max"))
            }
            rows.append({"t": clock.since((start + end) / 2), "count": cell.outcomes[OK], **values})
    return rows


def load_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """Exchanges and failures a second, and open connections, of each step; no rows if nothing was recorded."""
    sockets = evidence.recording.sockets()
    if not evidence.recording.cells and not sockets:
        return []
    rows = []
    for start, end in clock.steps():
        done = evidence.recording.total(evidence.recording.exchange_series(), start, end).done
        failed = sum(map(failures, evidence.recording.attempts(start, end).values()))
        rows.append(
            {
                "t": clock.since((start + end) / 2),
                "exchanges": digits(done / (end - start), 5),
                "failed": digits(failed / (end - start), 4),
                "sockets": max((sockets.get(second, 0) for second in range(start, end)), default=0),
            }
        )
    return rows


def process_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """CPU use (percent of a core) and memory (MiB) of each process of the server, of each step."""
    names = process_names(evidence)
    rows: list[Row] = []
    before: Mapping[str, Any] | None = None
    for (start, end), sample in _sampled(evidence, clock):
        if before is not None:
            rows.append({"t": clock.since((start + end) / 2), **_processes(before, sample, names)})
        before = sample
    return rows


def process_names(evidence: Evidence) -> dict[int, str]:
    """pid -> title of the processes of the server, in the order of their start; the root of the tree is first."""
    pids = dict.fromkeys(process["pid"] for sample in evidence.samples for process in sample["processes"])
    return {pid: "main process" if not place else f"child {place}" for place, pid in enumerate(pids)}


def _sampled(evidence: Evidence, clock: Clock) -> list[tuple[tuple[int, int], Mapping[str, Any]]]:
    """The last sample of each step that has one, after the last sample before the run."""
    found: dict[tuple[int, int], Mapping[str, Any]] = {}
    for sample in evidence.samples:
        if sample["time_s"] < clock.end:
            place = math.floor((sample["time_s"] - clock.start) / clock.step) if sample["time_s"] >= clock.start else -1
            start = clock.start + place * clock.step
            found[start, min(start + clock.step, clock.end)] = sample
    return list(found.items())


def _processes(before: Mapping[str, Any], sample: Mapping[str, Any], names: Mapping[int, str]) -> Row:
    elapsed_s = sample["time_s"] - before["time_s"]
    known = {process["pid"]: process for process in before["processes"]}
    row: Row = {}
    for process in sample["processes"]:
        earlier = known.get(process["pid"], {})
        used_s = sum(process[key] - earlier.get(key, 0) for key in ("cpu_user_s", "cpu_system_s"))
        name = names[process["pid"]]
        row[f"cpu {name}"] = digits(100 * used_s / elapsed_s) if elapsed_s > 0 else 0.0
        row[f"rss {name}"] = digits(process["rss_bytes"] / 2**20, 5)
    return row


def memory_rows(evidence: Evidence) -> list[Row]:
    """Resident memory of the server (MiB) and its connections at that moment, once a second."""
    sockets = evidence.recording.sockets()
    rows: dict[int, Row] = {}
    for sample in evidence.samples:
        second = math.floor(sample["time_s"])
        held = sockets.get(second, 0 if second < evidence.start else None)
        if held is not None:
            rss = sum(process["rss_bytes"] for process in sample["processes"])
            rows[second] = {"sockets": held, "rss": digits(rss / 2**20, 6), "t": second - evidence.start}
    return list(rows.values())


def connecting(evidence: Evidence, clock: Clock) -> Clock:
    """The clock up to shortly after the last connect."""
    last = max(evidence.recording.cells.get(CONNECT, {}), default=clock.end)
    return Clock(clock.start, min(clock.end, max(last + 2, clock.start + SHORTEST_S)), clock.step)


def connect_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """The number of connects of each step, and p50, p99 and maximum of their connect times."""
    rows = []
    for start, end in clock.steps():
        cell = evidence.recording.total([CONNECT], start, end)
        found = cell.service.measured.percentiles((50, 99, 100))
        if found:
            values = {
                name: digits(found[quantile] / 1000) for quantile, name in ((50, "p50"), (99, "p99"), (100, "max"))
            }
            rows.append({"t": clock.since((start + end) / 2), "connects": cell.outcomes[OK], **values})
    return rows


def overflow_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """Connection requests that the server's listeners dropped, of each step; no rows if they could not be read."""
    rows = []
    before: Mapping[str, int] | None = None
    for (start, end), sample in _sampled(evidence, clock):
        dropped = sample.get("kernel", {}).get("listeners")
        if dropped is not None and before is not None:
            rows.append({"t": clock.since((start + end) / 2), "overflows": drops_between(before, dropped)})
        before = dropped if dropped is not None else before
    return rows


def generator_rows(evidence: Evidence, clock: Clock) -> list[Row]:
    """All generator processes together, of each step: CPU (percent of a core), max event loop lag (ms), late sends."""
    rows: list[Row] = []
    for start, end in clock.steps():
        read = [_health(health, start, end) for health in evidence.recording.health.values()]
        read = [row for row in read if row]
        if read:
            rows.append({"t": clock.since((start + end) / 2), **_together(read)})
    return rows


def _health(health: Mapping[int, Mapping[str, float]], start: int, end: int) -> Row:
    """One process in one step. CPU use needs two readings."""
    inside = [second for second in range(start, end) if second in health]
    if not inside:
        return {}
    row: Row = {"lag": max(health[second]["lag_ns"] for second in inside) / 1e6}
    first, last = start - 1 if start - 1 in health else inside[0], inside[-1]
    if last > first:
        row["cpu"] = 100 * (health[last]["cpu_s"] - health[first]["cpu_s"]) / (last - first)
    if "late_sends" in health[last]:
        row["late"] = sum(health[second].get("late_sends", 0) for second in inside)
    return row


def _together(read: Sequence[Row]) -> Row:
    row: Row = {"lag": digits(max(each["lag"] for each in read))}
    for name in ("cpu", "late"):
        values = [each[name] for each in read if name in each]
        if values:
            row[name] = digits(sum(values))
    return row


def plateau_rows(evidence: Evidence) -> list[Row]:
    """The plateaus to which the memory per connection is fitted."""
    return [{"sockets": level.sockets, "rss": digits(level.size / 2**20, 6)} for level in _levels(evidence)]


def plateau_readings(evidence: Evidence) -> list[Row]:
    """Each reading of memory (MiB) on the plateaus."""
    return [
        {"sockets": level.sockets, "rss": digits(size / 2**20, 6), "t": round(time_s - evidence.start, 1)}
        for level in _levels(evidence)
        for time_s, size in level.readings
    ]


def _levels(evidence: Evidence) -> Sequence[Level]:
    return memory_of(evidence.recording, [sample for sample in evidence.samples if sample["processes"]]).levels


def fitted_rows(evidence: Evidence, plateaus: Sequence[Row]) -> list[Row]:
    """The ends of the fitted line. Its slope is the memory per connection."""
    slope = evidence.run.figure("server_rss_per_socket")
    if not slope or len(plateaus) < 2:
        return []
    middle = fmean(row["sockets"] for row in plateaus), fmean(row["rss"] for row in plateaus)
    ends = min(row["sockets"] for row in plateaus), max(row["sockets"] for row in plateaus)
    return [{"sockets": end, "rss": digits(middle[1] + slope.value / 1024 * (end - middle[0]), 6)} for end in ends]
