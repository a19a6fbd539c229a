"""The pictures of a run."""

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
from loadtests.results.metrics import ENOUGH_BEYOND, Figure
from loadtests.results.store import Run

__all__ = ["overlaid_pictures", "run_pictures"]

# As many as a line can show, and as a heatmap can: each costs bytes in the page.
STEPS = 180
HEAT_STEPS = 90
LATENCIES = {"response": "response time, from when a send was due", "service": "service time, from the send"}


def run_pictures(evidence: Evidence, crowd: int = 1) -> list[Picture]:
    """Every picture of a run, of less detail where it is one of a `crowd` on one page."""
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
    """A picture that is not there because a file of the run is not there says so."""
    files = {"server": (SAMPLES,), "memory": (SAMPLES, RECORDING)}.get(picture.name, (RECORDING,))
    lacking = [what for what in evidence.missing if what.startswith(files)]
    if picture.panels or not lacking:
        return picture
    what, _, _ = picture.words.partition(":")
    return dataclasses.replace(picture, words=f"{what}: {' and '.join(lacking)} in the folder of the run.")


def overlaid_pictures(evidence: Sequence[Evidence]) -> list[Picture]:
    """What several runs are laid over each other in: their latency by percentile."""
    rows, fields = numbers.overlaid_rows([(title_of_run(each.run), each) for each in evidence])
    name, title = "overlaid", "Latency by percentile, of all runs"
    if not rows:
        lacking = any(each.missing for each in evidence)
        why = f"{RECORDING} is missing in the folders of the runs" if lacking else "no exchange succeeded"
        return [Picture(name, title, f"There is no picture of latency: {why}.")]
    words = "How long an answer took, for how many of them: response time where there is one, service time elsewhere."
    if left := [str(number) for number, _ in enumerate(evidence, 1) if f"run {number}" not in fields]:
        words += f" Nothing is known of the latency of run {', '.join(left)}."
    return [Picture(name, title, words, (_percentile_panel(title, rows, fields),), _percentile_table(rows, fields))]


# Latency


def _percentiles(evidence: Evidence) -> Picture:
    rows = numbers.quantile_rows(evidence)
    name, title = "percentiles", "Latency by percentile"
    if not rows:
        return Picture(name, title, "There is no picture of latency: no exchange succeeded.")
    fields = {column: words for column, words in LATENCIES.items() if any(column in row for row in rows)}
    when = "while it was measured" if evidence.measured else "in the whole run, as it has no phase that was measured"
    words = f"How long an answer took, for how many of them: exchanges that succeeded {when}."
    if "response" not in fields:
        words += " There is no response time: nothing was due at a time of its own."
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
        kept, {"percentile": ("percentile", _percent)} | {column: (words, _us) for column, words in fields.items()}
    )


def _heatmap(evidence: Evidence, clock: Clock) -> Picture:
    rows, curves = numbers.heat_rows(evidence, clock), numbers.latency_rows(evidence, clock)
    name, title = "heatmap", "Latency over time"
    if not rows:
        return Picture(name, title, "There is no heatmap of latency: no exchange succeeded.")
    words = (
        "The darker, the more of the answers of that moment took so long. Lines: the median and the 99th percentile."
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


# What was done


def _load(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.load_rows(evidence, clock)
    name, title = "load", "Throughput, errors and connections"
    if not rows:
        return Picture(name, title, "There is no picture of the load: the swarm recorded nothing.")
    failed = any(row["failed"] for row in rows)
    words = "What the swarm did, second by second." + ("" if failed else " Nothing failed.")
    entries = {
        "exchanges": ("exchanges a second", number()),
        "failed": ("failures a second", number()),
        "sockets": ("connections", number()),
    }
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    x = time_x(clock)
    panels = [over_time.panel("Exchanges a second", [area(rows, x, number_y("exchanges", rows))])]
    if failed:
        panels.append(over_time.panel("Failures a second", [bars(rows, clock, "failed")], height=90))
    panels.append(
        over_time.panel(
            "Connections open", [area(rows, x, number_y("sockets", rows), "teal", stepped=True)], height=110
        )
    )
    columns = {"t": ("second", _plain)} | {column: (words, _plain) for column, (words, _) in entries.items()}
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


# What it cost


def _server(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.process_rows(evidence, clock)
    name, title = "server", "The server's processor and memory"
    if not rows:
        return Picture(name, title, "There is no picture of the server: it was not sampled.")
    names = list(numbers.process_names(evidence).values())
    cpu, rss = ({f"{kind} {each}": each for each in names} for kind in ("cpu", "rss"))
    percents = {column: (f"processor, {each}", number("%")) for column, each in cpu.items()}
    sizes = {column: (f"memory, {each}", number("MiB")) for column, each in rss.items()}
    over_time = _OverTime(evidence, clock, rows, at_second(percents | sizes))
    x = time_x(clock)
    panels = (
        over_time.panel(
            "Processor, % of a core", [lines(rows, x, number_y("value", rows, cpu), cpu)], legend=keys(cpu)
        ),
        over_time.panel("Memory, MiB", [lines(rows, x, number_y("value", rows, rss), rss, named=False)]),
    )
    columns = {"t": ("second", _plain)} | {column: (said, _percent) for column, (said, _) in percents.items()}
    columns |= {column: (said, _mib) for column, (said, _) in sizes.items()}
    words = "What each process of the server used, on the same seconds as above."
    return Picture(name, title, words, panels, _table(rows, columns))


def _memory(evidence: Evidence) -> Picture:
    rows = numbers.memory_rows(evidence)
    name, title = "memory", "Memory by connections"
    if not rows:
        return Picture(name, title, "There is no picture of memory by connections: the server was not sampled.")
    each = evidence.run.figure("server_rss_per_socket")
    words = "The resident memory of the whole server with so many connections, once a second."
    plateaus = numbers.plateau_rows(evidence)
    fitted = numbers.fitted_rows(evidence, plateaus)
    if each and fitted:
        rows = numbers.plateau_readings(evidence)
        words = (
            "The memory of the whole server, without mapped files, while the number of connections stayed the same."
            f" The line through it is {_said_memory(each)} for a connection."
        )
    x = alt.X("sockets:Q", axis=alt.Axis(title="connections", labelExpr=NUMBER), scale=alt.Scale(nice=True))
    y = alt.Y("rss:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, labelExpr=NUMBER))
    said = tip("'second ' + datum.t", {"sockets": ("connections", number()), "rss": ("memory", number("MiB"))})
    points = (
        alt.Chart(data(rows))
        .transform_calculate(tip=said)
        .mark_circle(color=colour("blue"), size=36, opacity=0.55)
        .encode(x=x, y=y, tooltip="tip:N")
    )
    through = alt.Chart(data(plateaus)).mark_point(color=colour("orange"), size=90, strokeWidth=1.8)
    line = alt.Chart(data(fitted)).mark_line(color=colour("orange"), strokeWidth=1.8)
    fit = [layer.encode(x="sockets:Q", y="rss:Q") for layer in (line, through)] if fitted else []
    chart = stacked([points, *fit], 240, "Memory, MiB")
    columns = {"t": ("second", _plain), "sockets": ("connections", _plain), "rss": ("memory", _mib)}
    return Picture(name, title, words, (Panel(title, chart),), _table(rows, columns))


def _said_memory(each: Figure) -> str:
    said = quantity(each.value, each.unit)
    if each.low is None or each.high is None:
        return said
    return f"{said} ({quantity(each.low, each.unit)} to {quantity(each.high, each.unit)})"


# How it began, and who measured


def _connects(evidence: Evidence, clock: Clock) -> Picture:
    clock = numbers.connecting(evidence, clock)
    rows, overflows = numbers.connect_rows(evidence, clock), numbers.overflow_rows(evidence, clock)
    name, title = "connects", "Connecting"
    if not rows:
        return Picture(name, title, "There is no picture of connecting: nobody connected.")
    overflowed = sum(row["overflows"] for row in overflows)
    full = {None: _queues_of_the_host(evidence.run), 0: "The accept queue was never full."}
    known = overflowed if overflows else None
    said = full.get(known, f"The accept queue was full {overflowed:,} times.")
    words = f"How long it took to connect, for those who did so in that second. {said}"
    fields = {"p50": "median", "p99": "99th percentile", "max": "worst"}
    entries = {"connects": ("connects", number())} | {column: (words, DURATION) for column, words in fields.items()}
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    y = duration_y("value", min(row["p50"] for row in rows), max(row["max"] for row in rows))
    shown = lines(rows, time_x(clock), y, fields, point={"size": 22, "filled": True})
    panels = [over_time.panel("Time to connect", [shown], legend=keys(fields))]
    if overflowed:
        panels.append(over_time.panel("Accept queue overflows", [bars(overflows, clock, "overflows")], height=90))
    columns = {"t": ("second", _plain), "connects": ("connects", _plain)}
    columns |= {column: (words, _us) for column, words in fields.items()}
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


def _queues_of_the_host(run: Run) -> str:
    """Where the server's own accept queue is out of sight."""
    if figure := run.figure("host_listen_overflows"):
        return f"The host's accept queues, of this or another server, were full {figure.value:,.0f} times."
    return "Nobody watched the accept queue."


def _generator(evidence: Evidence, clock: Clock) -> Picture:
    rows = numbers.generator_rows(evidence, clock)
    name, title = "generator", "The generator's health"
    if not rows:
        return Picture(name, title, "There is no picture of the generator: it said nothing of itself.")
    entries = {"cpu": ("processor", number("%")), "lag": ("lateness", number("ms")), "late": ("late sends", number())}
    over_time = _OverTime(evidence, clock, rows, at_second(entries))
    x = time_x(clock)
    panels = []
    if any("cpu" in row for row in rows):
        used = [row for row in rows if "cpu" in row]
        panels.append(over_time.panel("Processor, % of a core", [area(used, x, number_y("cpu", used))], height=110))
    panels.append(
        over_time.panel("Worst lateness of its loop, ms", [area(rows, x, number_y("lag", rows), "purple")], height=110)
    )
    if late := any(row.get("late") for row in rows):
        panels.append(over_time.panel("Late sends", [bars(rows, clock, "late")], height=90))
    words = "Whether those who measured were fit to: what they add to a latency is at most their lateness."
    words += "" if late or not any("late" in row for row in rows) else " No send was late."
    columns = {"t": ("second", _plain), "cpu": ("processor", _percent), "lag": ("lateness", _ms)}
    columns |= {"late": ("late sends", _plain)} if any("late" in row for row in rows) else {}
    return Picture(name, title, words, tuple(panels), _table(rows, columns))


class _OverTime:
    """What all panels of a picture over time have: the phases behind, and the same tip where somebody points."""

    def __init__(self, evidence: Evidence, clock: Clock, rows: Sequence[Row], said: str) -> None:
        self._phases = numbers.phase_rows(evidence, clock)
        self._clock, self._rows, self._said = clock, rows, said
        self._named = True

    def panel(self, title: str, layers: Sequence[alt.Chart], height: int = 150, legend: tuple[Key, ...] = ()) -> Panel:
        """A panel of these layers; the first one of a picture has the names of the phases."""
        behind = phases(self._phases, self._clock, self._named)
        self._named = False
        pointed = pointed_at(self._rows, time_x(self._clock), self._said)
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
    return f"{value:,.1f} MiB"


def _percent(value: float) -> str:
    return f"{value:.6g}%"
