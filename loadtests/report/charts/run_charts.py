"""The charts of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import altair as alt

from loadtests.formatting import quantity
from loadtests.report.charts import series as numbers
from loadtests.report.charts.marks import (
    DURATION,
    NUMBER,
    area,
    at_second,
    bars,
    data,
    duration_y,
    keys,
    lines,
    nines_x,
    number,
    number_y,
    phases,
    pointed_at,
    small_print,
    stacked,
    time_x,
    tip,
)
from loadtests.report.charts.picture import Key, Panel, Picture
from loadtests.report.charts.series import Row
from loadtests.report.charts.theme import colour
from loadtests.report.run_data import RECORDING, SAMPLES, Clock, Evidence
from loadtests.report.run_tables import Table
from loadtests.report.summary import title_of_run
from loadtests.results.figure_catalog import EXCHANGE_LATENCIES, title_of
from loadtests.results.metrics import ENOUGH_BEYOND, Figure
from loadtests.results.store import Run

__all__ = ["overlaid_pictures", "run_pictures"]

# Steps of time in a line chart and in a heatmap. Each step adds bytes to the page.
STEPS = 180
HEAT_STEPS = 90
_FROM = {"response": "from the moment the request was due", "service": "from the send of the request"}
LATENCIES = {latency: f"{title}, {_FROM[latency]}" for latency, (title, _) in EXCHANGE_LATENCIES.items()}
CPU = "% of a core"
QUANTILES = {"p50": "p50", "p99": "p99", "max": "max"}


def run_pictures(evidence: Evidence, crowd: int = 1) -> list[Picture]:
    """Every chart of a run, with less detail if it is one of `crowd` runs on a page."""
    clock, coarse = evidence.clock(max(30, STEPS // crowd)), evidence.clock(max(20, HEAT_STEPS // crowd))
    pictures = [
        _percentiles(evidence),
        _heatmap(evidence, coarse),
        _load(evidence, clock),
        _server(evidence, clock),
        _memory(evidence),
        _connects(evidence, clock),
        _generator(evidence, clock),
    ]
    return [_explained(picture, evidence) for picture in pictures]


def _explained(picture: Picture, evidence: Evidence) -> Picture:
    """Name the missing file if a chart cannot be drawn because of it."""
    files = {"server": (SAMPLES,), "memory": (SAMPLES, RECORDING)}.get(picture.name, (RECORDING,))
    lacking = [what for what in evidence.missing if what.startswith(files)]
    if picture.panels or not lacking:
        return picture
    what, _, _ = picture.words.partition(":")
    return dataclasses.replace(picture, words=f"{what}: {' and '.join(lacking)} in the folder of the run.")


def overlaid_pictures(evidence: Sequence[Evidence]) -> list[Picture]:
    """The charts with several runs in one plot: their latency by percentile."""
    rows, fields = numbers.overlaid_rows([(title_of_run(each.run), each) for each in evidence])
    name, title = "overlaid", "Latency by percentile, of all runs"
    if not rows:
        lacking = any(each.missing for each in evidence)
        why = f"{RECORDING} is missing in the folders of the runs" if lacking else "no exchange succeeded"
        return [Picture(name, title, f"There is no chart of latency: {why}.")]
    words = "Which part of the replies came within which time. A run without a schedule shows its service time."
    if left := [str(number) for number, _ in enumerate(evidence, 1) if f"run {number}" not in fields]:
        words += f" No latency was recorded in run {', '.join(left)}."
    return [Picture(name, title, words, (_percentile_panel(title, rows, fields),), _percentile_table(rows, fields))]


# Latency


def _percentiles(evidence: Evidence) -> Picture:
    rows = numbers.quantile_rows(evidence)
    name, title = "percentiles", "Latency by percentile"
    if not rows:
        return Picture(name, title, "There is no chart of latency: no exchange succeeded.")
    fields = {column: words for column, words in LATENCIES.items() if any(column in row for row in rows)}
    when = "in the measured phase" if evidence.measured else "in the whole run, because it has no measured phase"
    words = f"Which part of the replies came within which time: exchanges that succeeded {when}."
    if "response" not in fields:
        words += " There is no latency from the moment a request was due: the users have no schedule."
    return Picture(name, title, words, (_percentile_panel(title, rows, fields),), _percentile_table(rows, fields))


def _percentile_panel(title: str, rows: Sequence[Row], fields: Mapping[str, str]) -> Panel:
    last = rows[-1]["nines"]
    x = nines_x(last)
    values = [row[column] for row in rows for column in fields if column in row]
    entries = {column: (words, DURATION) for column, words in fields.items()} | {
        "slower": ("slower than that", number())
    }
    head = "format(datum.percentile, '.6~r') + '% of the exchanges'"
    first_few = next((row["nines"] for row in rows if row["slower"] < ENOUGH_BEYOND), None)
    doubt = [] if first_few is None else _doubtful(first_few, last, x)
    shown = lines(rows, x, duration_y("value", min(values), max(values)), fields)
    chart = stacked([*doubt, shown], 260)
    return Panel(title, chart, pointed_at(rows, x, tip(head, entries)), keys(fields))


def _doubtful(start: float, end: float, x: alt.X) -> list[alt.Chart]:
    rows = [{"nines": start, "end": end}]
    shade = alt.Chart(data(rows)).mark_rect(color=colour("raised")).encode(x=x, x2="end:Q")
    few = small_print(rows, f"'fewer than {ENOUGH_BEYOND} slower'", "right")
    return [shade, few.encode(x="end:Q", y=alt.value("height"))]


def _percentile_table(rows: Sequence[Row], fields: Mapping[str, str]) -> Table:
    kept = [row for row in rows if row["nines"] * 4 == int(row["nines"] * 4)] + [rows[-1]]
    return _table(
        kept, {"percentile": ("percentile", _percentile)} | {column: (words, _us) for column, words in fields.items()}
    )


def _heatmap(evidence: Evidence, clock: Clock) -> Picture:
    rows, curves = numbers.heat_rows(evidence, clock), numbers.latency_rows(evidence, clock)
    name, title = "heatmap", "Latency over time"
    if not rows:
        return Picture(name, title, "There is no heatmap of latency: no exchange succeeded.")
    words = (
        "A darker field stands for more replies with that latency at that time. Lines: p50 (solid) and p99 (dashed)."
    )
    x, ends = time_x(clock), (min(row["low"] for row in rows), max(row["high"] for row in rows))
    shade = alt.Opacity(
        "share:Q",
        legend=None,
        scale=alt.Scale(type="sqrt", domain=[0, max(row["share"] for row in rows)], range=[0.04, 0.9]),
    )
    heat = (
        alt.Chart(data(rows))
        .mark_rect(color=colour("blue"))
        .encode(x=x, x2="t_end:Q", y=duration_y("low", *ends), y2="high:Q", opacity=shade)
    )
    base = alt.Chart(data(curves)).mark_line(color=colour("ink"), strokeWidth=1.3).encode(x=x)
    entries = {"count": ("exchanges", number())} | {each: (each, DURATION) for each in ("p50", "p99", "max")}
    layers = [
        *phases(numbers.phase_rows(evidence, clock), clock, named=True),
        heat,
        base.encode(y=duration_y("p50", *ends)),
        base.mark_line(color=colour("ink"), strokeWidth=1.3, strokeDash=[4, 3]).encode(y=duration_y("p99", *ends)),
    ]
    columns = {"t": ("second", _plain), "count": ("exchanges", _plain)} | {
        each: (each, _us) for each in ("p50", "p99", "max")
    }
    panel = Panel(title, stacked(layers, 260), pointed_at(curves, x, at_second(entries)))
    return Picture(name, title, words, (panel,), _table(curves, columns))


# Load


def _load(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.load_rows(evidence, clock)
    name, title = "load", "Throughput, errors and connections"
    if not rows:
        return Picture(name, title, "There is no chart of the load: the swarm recorded nothing.")
    failed = any(row["failed"] for row in rows)
    words = "The load over time." + ("" if failed else " Nothing failed.")
    throughput = title_of("throughput")
    entries = {
        "exchanges": (throughput, number("/s")),
        "failed": ("failures", number("/s")),
        "sockets": ("open connections", number()),
    }
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    x = time_x(clock)
    panels = [over_time.panel("Throughput, exchanges a second", [area(rows, x, number_y("exchanges", rows))])]
    if failed:
        panels.append(over_time.panel("Failures a second", [bars(rows, clock, "failed")], height=90))
    panels.append(
        over_time.panel(
            "Open connections", [area(rows, x, number_y("sockets", rows), "teal", stepped=True)], height=110
        )
    )
    columns = {
        "t": ("second", _plain),
        "exchanges": (throughput, _rate),
        "failed": ("failures", _rate),
        "sockets": ("open connections", _plain),
    }
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


# Cost


def _server(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.process_rows(evidence, clock)
    name, title = "server", "Server CPU and memory"
    if not rows:
        return Picture(name, title, "There is no chart of the server: it was not sampled.")
    names = list(numbers.process_names(evidence).values())
    cpu, rss = ({f"{kind} {each}": each for each in names} for kind in ("cpu", "rss"))
    percents = {column: (f"CPU, {each}", number(CPU)) for column, each in cpu.items()}
    sizes = {column: (f"memory, {each}", number("MiB")) for column, each in rss.items()}
    over_time = _OverTime(evidence, clock, rows, at_second(percents | sizes))
    x = time_x(clock)
    panels = (
        over_time.panel(f"Server CPU, {CPU}", [lines(rows, x, number_y("value", rows, cpu), cpu)], legend=keys(cpu)),
        over_time.panel("Server memory (RSS), MiB", [lines(rows, x, number_y("value", rows, rss), rss, named=False)]),
    )
    columns = {"t": ("second", _plain)} | {column: (label, _cpu) for column, (label, _) in percents.items()}
    columns |= {column: (label, _mib) for column, (label, _) in sizes.items()}
    words = "CPU use and memory of each process of the server over time."
    return Picture(name, title, words, panels, _table(rows, columns))


def _memory(evidence: Evidence) -> Picture:
    rows = numbers.memory_rows(evidence)
    name, title = "memory", "Memory by connections"
    if not rows:
        return Picture(name, title, "There is no chart of memory by connections: the server was not sampled.")
    each = evidence.run.figure("server_rss_per_socket")
    words = "The resident memory of all processes of the server and its number of connections, once a second."
    plateaus = numbers.plateau_rows(evidence)
    fitted = numbers.fitted_rows(evidence, plateaus)
    if each and fitted:
        rows = numbers.plateau_readings(evidence)
        words = (
            "The memory of all processes of the server, without mapped files, while the number of connections was"
            f" constant. The slope of the line is the {title_of(each.name)}: {_with_interval(each)}."
        )
    x = alt.X("sockets:Q", axis=alt.Axis(title="connections", labelExpr=NUMBER), scale=alt.Scale(nice=True))
    y = alt.Y("rss:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, labelExpr=NUMBER))
    text = tip("'second ' + datum.t", {"sockets": ("connections", number()), "rss": ("memory", number("MiB"))})
    points = (
        alt.Chart(data(rows))
        .transform_calculate(tip=text)
        .mark_circle(color=colour("blue"), size=36, opacity=0.55)
        .encode(x=x, y=y, tooltip="tip:N")
    )
    through = alt.Chart(data(plateaus)).mark_point(color=colour("orange"), size=90, strokeWidth=1.8)
    line = alt.Chart(data(fitted)).mark_line(color=colour("orange"), strokeWidth=1.8)
    fit = [layer.encode(x="sockets:Q", y="rss:Q") for layer in (line, through)] if fitted else []
    chart = stacked([points, *fit], 240, "Server memory, MiB")
    columns = {"t": ("second", _plain), "sockets": ("connections", _plain), "rss": ("memory", _mib)}
    return Picture(name, title, words, (Panel(title, chart),), _table(rows, columns))


def _with_interval(each: Figure) -> str:
    value = quantity(each.value, each.unit)
    if each.low is None or each.high is None:
        return value
    return f"{value} (95% interval {quantity(each.low, each.unit)} to {quantity(each.high, each.unit)})"


# Connects, and the load generator


def _connects(evidence: Evidence, clock: Clock) -> Picture:
    clock = numbers.connecting(evidence, clock)
    rows, overflows = numbers.connect_rows(evidence, clock), numbers.overflow_rows(evidence, clock)
    name, title = "connects", "Connect time"
    if not rows:
        return Picture(name, title, "There is no chart of connect time: no connect succeeded.")
    overflowed = sum(row["overflows"] for row in overflows)
    full = {None: _queues_of_the_host(evidence.run), 0: "The accept queue was never full."}
    known = overflowed if overflows else None
    queue = full.get(known, f"The accept queue of the server overflowed {overflowed:,} times.")
    words = f"The connect times of each second. {queue}"
    entries = {"connects": ("connects", number())} | {each: (each, DURATION) for each in QUANTILES}
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    y = duration_y("value", min(row["p50"] for row in rows), max(row["max"] for row in rows))
    shown = lines(rows, time_x(clock), y, QUANTILES, point={"size": 22, "filled": True})
    panels = [over_time.panel("Connect time", [shown], legend=keys(QUANTILES))]
    if overflowed:
        panels.append(over_time.panel("Accept queue overflows", [bars(overflows, clock, "overflows")], height=90))
    columns = {"t": ("second", _plain), "connects": ("connects", _plain)}
    columns |= {each: (each, _us) for each in QUANTILES}
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


def _queues_of_the_host(run: Run) -> str:
    """The overflows of all accept queues of the host, for a server whose own accept queue cannot be read."""
    if figure := run.figure("host_listen_overflows"):
        return f"The accept queues of the host, of this or another server, overflowed {figure.value:,.0f} times."
    return "The accept queue was not watched."


def _generator(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.generator_rows(evidence, clock)
    name, title = "generator", "Load generator"
    if not rows:
        return Picture(name, title, "There is no chart of the generator: it recorded nothing about itself.")
    entries = {
        "cpu": (title_of("generator_cpu"), number(CPU)),
        "lag": (title_of("generator_lag_max"), number("ms")),
        "late": (title_of("generator_late"), number()),
    }
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    x = time_x(clock)
    panels = []
    if any("cpu" in row for row in rows):
        used = [row for row in rows if "cpu" in row]
        panels.append(over_time.panel(f"Generator CPU, {CPU}", [area(used, x, number_y("cpu", used))], height=110))
    panels.append(
        over_time.panel(
            "Generator max event loop lag, ms", [area(rows, x, number_y("lag", rows), "purple")], height=110
        )
    )
    if late := any(row.get("late") for row in rows):
        panels.append(over_time.panel("Generator late sends", [bars(rows, clock, "late")], height=90))
    words = "Whether the load generator kept up. It adds at most the lag of its event loop to a latency."
    words += "" if late or not any("late" in row for row in rows) else " No send was late."
    texts = {"cpu": _cpu, "lag": _ms} | ({"late": _plain} if any("late" in row for row in rows) else {})
    columns = {"t": ("second", _plain)} | {column: (entries[column][0], text) for column, text in texts.items()}
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


class _OverTime:
    """The common parts of all panels of a chart over time: the phases in the background, and one tooltip."""

    def __init__(self, evidence: Evidence, clock: Clock, rows: Sequence[Row], tooltip: str) -> None:
        self._phases = numbers.phase_rows(evidence, clock)
        self._clock, self._rows, self._tooltip = clock, rows, tooltip
        self._named = True

    def panel(self, title: str, layers: Sequence[alt.Chart], height: int = 150, legend: tuple[Key, ...] = ()) -> Panel:
        """A panel of these layers. The first panel of a chart shows the names of the phases."""
        behind = phases(self._phases, self._clock, self._named)
        self._named = False
        pointed = pointed_at(self._rows, time_x(self._clock), self._tooltip)
        return Panel(title, stacked([*behind, *layers], height, title), pointed, legend)


# Numbers as text

Columns = Mapping[str, tuple[str, Callable[[float], str]]]


def _table(rows: Sequence[Row], columns: Columns) -> Table:
    header = tuple(title for title, _ in columns.values())
    return Table(
        header,
        tuple(
            tuple(text(row[column]) if column in row else "" for column, (_, text) in columns.items()) for row in rows
        ),
    )


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def _us(value: float) -> str:
    return quantity(value, "us")


def _ms(value: float) -> str:
    return quantity(value, "ms")


def _mib(value: float) -> str:
    return quantity(value, "MiB")


def _cpu(value: float) -> str:
    return quantity(value, CPU)


def _rate(value: float) -> str:
    return quantity(value, "exchanges/s")


def _percentile(value: float) -> str:
    return f"{value:.6g}%"
