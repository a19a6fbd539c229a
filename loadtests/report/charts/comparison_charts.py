"""The charts of a comparison: the verdicts, latency by percentile, and each run.

A is blue and round, B is orange and square. A verdict has a colour and a shape, and words beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from textwrap import wrap
from typing import Literal

import altair as alt

from loadtests.comparison.model import BETTER, EQUIVALENT, WORSE, Comparison, FigureComparison, QuantileCurve
from loadtests.formatting import change, quantity
from loadtests.formatting import number as plain_number
from loadtests.report.charts import series as numbers
from loadtests.report.charts.marks import (
    CHANGE,
    DURATION,
    NUMBER,
    data,
    duration_y,
    nines_x,
    number_y,
    pointed_at,
    small_print,
    stacked,
    time_x,
    tip,
)
from loadtests.report.charts.picture import Key, Panel, Picture
from loadtests.report.charts.series import Row, digits
from loadtests.report.charts.theme import ROOM, colour
from loadtests.report.run_data import SAMPLES, Clock, Evidence
from loadtests.report.run_tables import Table
from loadtests.report.summary import changed
from loadtests.results.figure_catalog import EXCHANGE_LATENCIES, title_of

__all__ = ["comparison_pictures", "verdict_picture"]

SIDES = alt.Scale(domain=["A", "B"], range=[colour("blue"), colour("orange")])
ANSWERS = {BETTER: ("good", "triangle-up"), WORSE: ("bad", "triangle-down"), EQUIVALENT: ("blue", "square")}
UNDECIDED = ("grey", "circle")
ENDS = ("change", "low", "high")
LINE_KEYS = (Key("A", "blue"), Key("B", "orange"))
DOT_KEYS = (Key("A", "blue", "circle"), Key("B", "orange", "square"))
ROW_HEIGHT = 44
# The expression for a change on a scale.
SIGNED = f"(datum.value > 0 ? '+' : '') + ({NUMBER})"
# Pixels and letters for the labels beside a row: its figure and its verdict.
LABEL_ROOM, LABEL_LETTERS = 172, 28
POINTS_OVER_TIME = 2400
# Names of folders that are listed in a sentence.
MOST_NAMES = 4
# The least range of a scale as a part of its values. A smaller one needs long labels and makes noise look like a
# result.
LEAST_SPREAD = 0.05
# Unit -> the expression for a value on a scale, and the unit in the title, which is where other units are shown.
_SIZE = "datum.value >= 1024 ? format(datum.value / 1024, '.4~g') + ' MiB' : format(datum.value, '.3~g') + ' KiB'"
DOT_LABELS = {"us": (DURATION.format("datum.value"), ""), "KiB": (_SIZE, "")}


def comparison_pictures(comparison: Comparison, evidence: Mapping[str, Sequence[Evidence]]) -> list[Picture]:
    """Every chart of a comparison. `evidence` has the files of the runs of "A" and "B" that still exist."""
    curves = [picture for curve in comparison.curves for picture in (_overlaid(curve), _ratio(curve, comparison.band))]
    return [
        _forest(comparison),
        *(curves or [_no_curves(evidence)]),
        _dots(comparison),
        _over_time(evidence),
    ]


def verdict_picture(comparisons: Sequence[Comparison], name: str) -> Picture:
    """One figure in several comparisons."""
    found = [(one, figure) for one in comparisons if (figure := one.figure(name)) and figure.scale == "ratio"]
    title = title_of(name)
    if not found:
        return Picture(name, title, "There is no chart: no comparison has a ratio of this figure.")
    rows = [
        _forest_row(f"{place}: {one.b.title}" if len(comparisons) > 1 else one.b.title, figure)
        for place, (one, figure) in enumerate(found, start=1)
    ]
    words = f"The change of B against A in each comparison, with its interval. {_band_words(found[0][0].band)}"
    return Picture(name, title, words, *_forest_panel(title, rows, found[0][0].band))


# The verdicts


def _forest(comparison: Comparison) -> Picture:
    figures = [figure for figure in comparison.headlines if figure.scale == "ratio"]
    name, title = "verdicts", "The verdict on each figure"
    if not figures:
        return Picture(name, title, "There is no chart of the verdicts: no figure of both sides has a ratio.")
    level = f"{100 * comparison.level:.3g}%"
    words = f"The change of B against A, with the {level} interval. {_band_words(comparison.band)}"
    if left := [title_of(each.name) for each in comparison.headlines if each.scale != "ratio"]:
        words += f" Left out, because a value of zero has no ratio: {', '.join(left)}."
    rows = [_forest_row(title_of(figure.name), figure) for figure in figures]
    return Picture(name, title, words, *_forest_panel(title, rows, comparison.band))


def _band_words(band: float) -> str:
    return f"Changes within {100 * band:.3g}% (the shaded band) are too small to matter."


def _forest_panel(title: str, rows: Sequence[Row], band: float) -> tuple[tuple[Panel, ...], Table]:
    """The rows as a chart and as a table."""
    ends = [100 * band, -100 * band, *(row[key] for row in rows for key in ENDS if key in row)]
    chart = stacked(_forest_layers(rows, band, _reach(ends, band)), ROW_HEIGHT * len(rows))
    shown = tuple((row["figure"], row["verdict"], _between(row)) for row in rows)
    return (Panel(title, chart),), Table(("figure", "change", "interval"), shown)


def _between(row: Row) -> str:
    return f"{change(row['low'] / 100)} to {change(row['high'] / 100)}" if "low" in row else ""


def _forest_row(title: str, figure: FigureComparison) -> Row:
    answer = figure.answer or "inconclusive"
    row: Row = {
        "figure": title,
        "verdict": f"{changed(figure, figure.change)}, {answer}",
        "change": digits(100 * figure.change),
        "value": changed(figure, figure.change),
        "answer": answer,
    }
    if figure.low is not None and figure.high is not None:
        row |= {"low": digits(100 * figure.low), "high": digits(100 * figure.high)}
    return row


def _forest_layers(rows: Sequence[Row], band: float, reach: tuple[float, float]) -> list[alt.Chart]:
    scale = alt.Scale(domain=list(reach), nice=False, clamp=True)
    x_axis = alt.Axis(title="change of B against A, %", labelExpr=SIGNED, tickCount=alt.expr(f"{ROOM} / 60"), grid=True)
    names = {
        row["figure"]: [*wrap(row["figure"], LABEL_LETTERS, max_lines=2, placeholder="…"), row["verdict"]]
        for row in rows
    }
    y_axis = alt.Axis(
        title=None,
        labelExpr=f"{json.dumps(names)}[datum.value]",
        minExtent=LABEL_ROOM,
        maxExtent=LABEL_ROOM,
        labelLimit=LABEL_ROOM,
        labelColor=colour("ink"),
        labelPadding=10,
        labelLineHeight=14,
        grid=False,
    )
    y = alt.Y("figure:N", sort=[row["figure"] for row in rows], axis=y_axis)
    shades = alt.Scale(
        domain=[*ANSWERS, "inconclusive"], range=[colour(ANSWERS[each][0]) for each in ANSWERS] + [colour(UNDECIDED[0])]
    )
    shapes = alt.Scale(domain=[*ANSWERS, "inconclusive"], range=[ANSWERS[each][1] for each in ANSWERS] + [UNDECIDED[1]])
    shade = alt.Color("answer:N", scale=shades, legend=None)
    text = tip("datum.figure + ': ' + datum.verdict", {"low": ("from", CHANGE), "high": ("to", CHANGE)})
    base = alt.Chart(data(rows)).transform_calculate(tip=text)
    within = alt.Chart(data([{"change": -100 * band, "high": 100 * band}])).mark_rect(color=colour("shade"))
    zero = alt.Chart(data([{"change": 0}])).mark_rule(color=colour("soft"))
    x = alt.X("change:Q", scale=scale, axis=x_axis)
    return [
        within.encode(x=x, x2="high:Q"),
        zero.encode(x=x),
        base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q", scale=scale, axis=x_axis), x2="high:Q", y=y, color=shade, tooltip="tip:N"
        ),
        base.transform_filter(f"datum.change >= {reach[0]} && datum.change <= {reach[1]}")
        .mark_point(size=110, filled=True, opacity=1)
        .encode(x=x, y=y, color=shade, shape=alt.Shape("answer:N", scale=shapes, legend=None), tooltip="tip:N"),
        *_off_scale(rows, reach, scale, y, shade, text),
    ]


def _off_scale(
    rows: Sequence[Row], reach: tuple[float, float], scale: alt.Scale, y: alt.Y, shade: alt.Color, tooltip: str
) -> list[alt.Chart]:
    """An arrow at the edge for each row that goes beyond it, with the change in figures if the point itself does."""
    layers = []
    sides: tuple[tuple[int, Literal["left", "right"], int], ...] = ((0, "left", 12), (1, "right", -12))
    for edge, side, away in sides:
        beyond = [
            row
            | {
                "edge": reach[edge],
                "beyond": f"off the scale: {row['value']}" if _is_beyond(row["change"], reach, edge) else "",
            }
            for row in rows
            if any(_is_beyond(row[key], reach, edge) for key in ENDS if key in row)
        ]
        at_edge = alt.Chart(data(beyond)).transform_calculate(tip=tooltip).encode(x=alt.X("edge:Q", scale=scale), y=y)
        arrow = at_edge.mark_point(shape=f"triangle-{side}", size=130, filled=True, opacity=1)
        words = at_edge.mark_text(align=side, dx=away, fontSize=11, color=colour("ink"))
        layers += [arrow.encode(color=shade, tooltip="tip:N"), words.encode(text="beyond:N")] if beyond else []
    return layers


def _is_beyond(value: float, reach: tuple[float, float], edge: int) -> bool:
    return value > reach[1] if edge else value < reach[0]


def _reach(ends: Sequence[float], band: float) -> tuple[float, float]:
    """The ends of the scale. A change many times as large as the others does not stretch it."""
    usual = sorted(abs(end) for end in ends)[len(ends) // 2]
    most = max(500 * band, 4 * usual)
    return 1.08 * max(-most, min(ends)), 1.08 * min(most, max(ends))


# Latency by quantile


def _overlaid(curve: QuantileCurve) -> Picture:
    latency, about = EXCHANGE_LATENCIES[curve.latency]
    name, title = f"quantiles-{curve.latency}", f"{latency.capitalize()} by percentile"
    rows = _curve_rows(curve)
    words = f"{about} A thick line is all runs of a side together, a thin line is one run."
    values = [value for row in rows for value in (row["a"], row["b"])]
    values += [value for run in (*curve.a_runs, *curve.b_runs) for value in run if value > 0]
    x, y = nines_x(rows[-1]["nines"]), duration_y("us", min(values), max(values))
    side = alt.Color("side:N", scale=SIDES)
    thin = alt.Chart(data(_run_rows(curve))).mark_line(strokeWidth=0.8, opacity=0.35)
    both = [{"nines": row["nines"], "side": letter.upper(), "us": row[letter]} for letter in "ab" for row in rows]
    thick = alt.Chart(data(both)).mark_line(strokeWidth=2.2)
    chart = stacked(
        [
            *_anecdotes(rows, x),
            thin.encode(x=x, y=y, color=side, detail="run:N"),
            thick.encode(x=x, y=y, color=side),
        ],
        260,
    )
    text = tip(_AT_QUANTILE, {"a": ("A", DURATION), "b": ("B", DURATION), "change": ("change", CHANGE)})
    return Picture(
        name, title, words, (Panel(title, chart, pointed_at(rows, x, text), LINE_KEYS),), _quantile_table(rows)
    )


def _ratio(curve: QuantileCurve, band: float) -> Picture:
    latency, _ = EXCHANGE_LATENCIES[curve.latency]
    name, title = f"ratio-{curve.latency}", f"Change of the {latency} by percentile"
    rows = _curve_rows(curve)
    banded = [row for row in rows if "low" in row]
    words = "Above zero B is slower than A, below zero it is faster."
    words += " The band is the 95% interval." if banded else " There are too few runs for a band."
    x = nines_x(rows[-1]["nines"])
    y = alt.Y("change:Q", title=None, axis=alt.Axis(labelExpr=SIGNED, tickCount=5), scale=alt.Scale(zero=True))
    within = alt.Chart(data([{"change": -100 * band, "high": 100 * band}])).mark_rect(color=colour("shade"))
    layers = [
        within.encode(y=y, y2="high:Q"),
        *_anecdotes(rows, x),
        alt.Chart(data([{"change": 0}])).mark_rule(color=colour("soft")).encode(y=y),
        alt.Chart(data(banded)).mark_area(color=colour("orange"), opacity=0.2).encode(x=x, y="low:Q", y2="high:Q"),
        alt.Chart(data(rows)).mark_line(color=colour("orange"), strokeWidth=2).encode(x=x, y=y),
    ]
    entries = {"change": ("change", CHANGE), "low": ("from", CHANGE), "high": ("to", CHANGE)}
    pointed = pointed_at(rows, x, tip(_AT_QUANTILE, entries))
    return Picture(
        name, title, words, (Panel(title, stacked(layers, 220, "Change, %"), pointed),), _quantile_table(rows)
    )


_AT_QUANTILE = "format(datum.percentile, '.6~r') + '% of the exchanges'"


def _curve_rows(curve: QuantileCurve) -> list[Row]:
    """The points of a curve without the maximum, which has no place on a nines axis."""
    rows = []
    for point in curve.points:
        if point.quantile < 100:
            row: Row = {"nines": numbers.nines(point.quantile), "percentile": digits(point.quantile, 6)}
            row |= {"a": digits(point.a_us), "b": digits(point.b_us), "change": digits(100 * point.change)}
            if point.low is not None and point.high is not None:
                row |= {"low": digits(100 * point.low), "high": digits(100 * point.high)}
            rows.append(row | {"enough": point.enough})
    return rows


def _run_rows(curve: QuantileCurve) -> list[Row]:
    places = [(place, point.quantile) for place, point in enumerate(curve.points) if point.quantile < 100]
    return [
        {"nines": numbers.nines(quantile), "side": letter, "run": f"{letter}{number}", "us": digits(values[place])}
        for letter, runs in (("A", curve.a_runs), ("B", curve.b_runs))
        for number, values in enumerate(runs, start=1)
        for place, quantile in places
        if values[place] > 0
    ]


def _anecdotes(rows: Sequence[Row], x: alt.X) -> list[alt.Chart]:
    """Shade the percentiles with too few slower exchanges."""
    first = next((row["nines"] for row in rows if not row["enough"]), None)
    if first is None:
        return []
    span = [{"nines": first, "end": rows[-1]["nines"]}]
    shade = alt.Chart(data(span)).mark_rect(color=colour("raised")).encode(x=x, x2="end:Q")
    return [shade, small_print(span, "'too few slower'", "right").encode(x="end:Q", y=alt.value("height"))]


def _quantile_table(rows: Sequence[Row]) -> Table:
    shown = [
        (
            f"{row['percentile']:.6g}%",
            quantity(row["a"], "us"),
            quantity(row["b"], "us"),
            change(row["change"] / 100),
            _between(row),
        )
        for row in rows
    ]
    return Table(("percentile", "A", "B", "change", "interval"), tuple(shown))


# Run by run


def _dots(comparison: Comparison) -> Picture:
    name, title = "runs", "The runs in the order in which they were made"
    order = comparison.order or tuple(
        (letter, place)
        for letter, side in (("A", comparison.a), ("B", comparison.b))
        for place in range(len(side.runs))
    )
    figures = comparison.headlines
    panels = [_dot_panel(figure, order, figure is figures[0], figure is figures[-1]) for figure in figures]
    if not panels:
        return Picture(name, title, "There is no chart of the runs: the sides have no figure in common.")
    words = "Look for a drift and for outliers. The dashed lines are the medians of each side."
    return Picture(name, title, words, tuple(panels), _dot_table(comparison, order))


def _dot_panel(figure: FigureComparison, order: Sequence[tuple[str, int]], first: bool, last: bool) -> Panel:
    values = {"A": figure.a, "B": figure.b}
    rows: list[Row] = []
    for number_, (letter, place) in enumerate(order, start=1):
        value = values[letter][place]
        if value is not None:
            text = f"run {number_}, {letter}: {quantity(value, figure.unit)}"
            rows.append({"run": number_, "side": letter, "value": digits(value, 5), "tip": text})
    x = alt.X(
        "run:Q",
        scale=alt.Scale(domain=[0.5, len(order) + 0.5], nice=False),
        axis=alt.Axis(title=None, tickMinStep=1, labels=last),
    )
    form, unit = DOT_LABELS.get(figure.unit, (NUMBER, f", {figure.unit}"))
    domain = _spread([figure.a_typical, figure.b_typical, *(row["value"] for row in rows)])
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=domain), axis=alt.Axis(tickCount=3, labelExpr=form))
    legend = alt.Undefined if first else None
    shade = alt.Color("side:N", scale=SIDES, legend=legend)
    shape = alt.Shape("side:N", scale=alt.Scale(domain=["A", "B"], range=["circle", "square"]), legend=legend)
    typical = [{"value": digits(figure.a_typical, 5), "side": "A"}, {"value": digits(figure.b_typical, 5), "side": "B"}]
    lines = alt.Chart(data(typical)).mark_rule(strokeWidth=1.2, strokeDash=[5, 3]).encode(y=y, color=shade)
    dots = alt.Chart(data(rows)).mark_point(filled=True, size=60, opacity=0.9)
    title = f"{title_of(figure.name)}{unit}"
    chart = stacked([lines, dots.encode(x=x, y=y, color=shade, shape=shape, tooltip="tip:N")], 80, title)
    return Panel(title, chart, legend=DOT_KEYS if first else ())


def _spread(values: Sequence[float]) -> list[float]:
    """The ends of a scale, at least LEAST_SPREAD apart."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    lacking = max(0.0, LEAST_SPREAD * max(abs(low), abs(high)) - (high - low)) / 2
    margin = lacking + 0.06 * (high - low)
    return [low - margin, high + margin] if margin else [0.0, 1.0]


def _dot_table(comparison: Comparison, order: Sequence[tuple[str, int]]) -> Table:
    figures = comparison.headlines
    rows = []
    for number_, (letter, place) in enumerate(order, start=1):
        values = [(figure.a if letter == "A" else figure.b)[place] for figure in figures]
        cells = (
            "-" if value is None else quantity(value, each.unit) for value, each in zip(values, figures, strict=True)
        )
        rows.append((str(number_), letter, *cells))
    return Table(("run", "side", *(title_of(figure.name) for figure in figures)), tuple(rows))


# Over time


def _over_time(evidence: Mapping[str, Sequence[Evidence]]) -> Picture:
    name, title = "over-time", "All runs over time"
    runs = _lettered(evidence)
    length = max((each.end - each.start for _, each in runs), default=0)
    steps = max(20, POINTS_OVER_TIME // max(1, len(runs)))
    axis = Clock.over(0, length, steps)
    panels: list[Panel] = []
    medians: dict[str, dict[float, float]] = {}
    for heading, values in _CURVES.items():
        rows = [
            row | {"side": letter, "run": f"{letter}{number_}"}
            for number_, (letter, each) in enumerate(runs, start=1)
            for row in values(each, each.clock(steps))
        ]
        if rows:
            panels.append(_time_panel(heading, rows, axis, named=not panels))
            for letter in evidence:
                medians[f"{heading}, {letter}"] = _medians([row for row in rows if row["side"] == letter])
    gaps = "; ".join(_gaps_of(runs))
    if not panels:
        return Picture(name, title, f"There is no chart over time: {gaps or 'the runs recorded nothing'}.")
    words = "A line is one run, in seconds since its start. The table has the medians of each side."
    words += f" Some data are missing: {gaps}." if gaps else ""
    return Picture(name, title, words, tuple(panels), _median_table(medians))


def _lettered(evidence: Mapping[str, Sequence[Evidence]]) -> list[tuple[str, Evidence]]:
    return [(letter, each) for letter, side in evidence.items() for each in side]


def _gaps_of(runs: Sequence[tuple[str, Evidence]]) -> list[str]:
    """For each missing file a phrase with the folders that lack it."""
    lacking: dict[str, list[str]] = {}
    for letter, each in runs:
        for what in each.missing:
            lacking.setdefault(what, []).append(f"{letter}: {each.run.path.name or each.run.started_at}")
    return [f"{what} in {_counted(names, len(runs))}" for what, names in lacking.items()]


def _counted(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return "the folder of the run" if of == 1 else f"the folders of all {of} runs"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{len(names)} of {of} folders ({', '.join(names[:MOST_NAMES])}{more})"


def _no_curves(evidence: Mapping[str, Sequence[Evidence]]) -> Picture:
    gaps = [gap for gap in _gaps_of(_lettered(evidence)) if not gap.startswith(SAMPLES)]
    why = "; ".join(gaps) or "the sides recorded no latency in common"
    return Picture("quantiles", "Latency by percentile", f"There is no chart of latency by percentile: {why}.")


def _medians(rows: Sequence[Row]) -> dict[float, float]:
    """The median over the runs, at each time."""
    values: dict[float, list[float]] = {}
    for row in rows:
        values.setdefault(row["t"], []).append(row["value"])
    return {t: median(found) for t, found in values.items()}


def _median_table(columns: Mapping[str, Mapping[float, float]]) -> Table:
    times = sorted({t for column in columns.values() for t in column})
    rows = [(f"{t:g}", *(plain_number(column[t]) if t in column else "" for column in columns.values())) for t in times]
    return Table(("second", *columns), tuple(rows))


def _time_panel(title: str, rows: Sequence[Row], clock: Clock, named: bool) -> Panel:
    y = number_y("value", rows)
    side = alt.Color("side:N", scale=SIDES, legend=alt.Undefined if named else None)
    lines = alt.Chart(data(rows)).mark_line(strokeWidth=1.1, opacity=0.7)
    chart = stacked([lines.encode(x=time_x(clock), y=y, color=side, detail="run:N")], 140, title)
    return Panel(title, chart, legend=LINE_KEYS if named else ())


def _throughput(evidence: Evidence, clock: Clock) -> list[Row]:
    return [{"t": row["t"], "value": row["exchanges"]} for row in numbers.load_rows(evidence, clock)]


def _tail(evidence: Evidence, clock: Clock) -> list[Row]:
    return [{"t": row["t"], "value": digits(row["p99"] / 1000)} for row in numbers.latency_rows(evidence, clock)]


def _summed(kind: str) -> Callable[[Evidence, Clock], list[Row]]:
    def rows(evidence: Evidence, clock: Clock) -> list[Row]:
        return [
            {"t": row["t"], "value": digits(math.fsum(value for key, value in row.items() if key.startswith(kind)))}
            for row in numbers.process_rows(evidence, clock)
        ]

    return rows


_CURVES: dict[str, Callable[[Evidence, Clock], list[Row]]] = {
    "Throughput, exchanges a second": _throughput,
    "p99 latency, ms": _tail,
    "Server CPU, % of a core": _summed("cpu "),
    "Server memory (RSS), MiB": _summed("rss "),
}
