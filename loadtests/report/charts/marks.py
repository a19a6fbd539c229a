"""What the charts of all pictures are built of: axes, lines, bars, phases, and what is said where somebody points.

All charts of a picture read one table of rows: a column for each line, so that a tip can say everything about a place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt

from loadtests.report.charts.picture import Key
from loadtests.report.charts.series import Row
from loadtests.report.charts.theme import DASHES, ROOM, SERIES, colour
from loadtests.report.run_data import Clock

__all__ = [
    "DURATION",
    "HEIGHT",
    "NUMBER",
    "area",
    "at_second",
    "bars",
    "data",
    "duration_y",
    "keys",
    "lines",
    "nines_x",
    "number",
    "number_y",
    "phases",
    "pointed_at",
    "small_print",
    "stacked",
    "time_x",
    "tip",
]

HEIGHT = 150
# A duration in microseconds as a person writes it; `{}` is the expression that has it.
DURATION = (
    "({0} >= 999.5e3 ? format({0} / 1e6, ',.3~r') + ' s' : {0} >= 999.5 ? format({0} / 1e3, ',.3~r') + ' ms' "
    ": format({0}, ',.3~r') + ' µs')"
)
# A number on a scale, in seven characters at most: the room for it is the same everywhere.
NUMBER = (
    "abs(datum.value) >= 1e4 || (datum.value != 0 && abs(datum.value) < 1e-3) "
    "? format(datum.value, '.4~s') : format(datum.value, ',.6~g')"
)
Fields = Mapping[str, str]  # column -> what it is called


def data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=list(rows))


def stacked(layers: Sequence[alt.Chart], height: int = HEIGHT, title: str = "") -> alt.LayerChart:
    """Charts on top of each other, the first one below all."""
    return alt.LayerChart(layer=list(layers), height=height, title=title or alt.Undefined)


def small_print(rows: Sequence[Row], expression: str, align: Literal["left", "right"] = "left") -> alt.Chart:
    """What an expression says of each row, in small letters above the place where they are put."""
    away = {"left": 4, "right": -4}[align]
    text = alt.expr(expression)
    chart: alt.Chart = alt.Chart(data(rows)).mark_text(
        align=align, baseline="bottom", dx=away, dy=-4, fontSize=11, color=colour("soft"), text=text
    )
    return chart


def time_x(clock: Clock, field: str = "t") -> alt.X:
    """Seconds since the start of the run; every chart over time has the same."""
    axis = alt.Axis(title=None, labelExpr="datum.label + ' s'", tickMinStep=1, tickCount=alt.expr(f"{ROOM} / 60"))
    return alt.X(f"{field}:Q", scale=alt.Scale(domain=[0, clock.length], nice=False), axis=axis)


def nines_x(last: float) -> alt.X:
    """Percentiles up to a place on the nines axis."""
    ticks = [0.0, 0.30103, *(float(nine) for nine in range(1, int(last) + 1))]
    names = {0: "0%", 1: "90%", 2: "99%"} | {nine: f"99.{'9' * (nine - 2)}%" for nine in range(3, int(last) + 1)}
    label = f"datum.value > 0.3 && datum.value < 0.31 ? '50%' : {names!r}[datum.value]"
    axis = alt.Axis(values=ticks, labelExpr=label, title="percentile, each nine as wide as the last", grid=True)
    return alt.X("nines:Q", scale=alt.Scale(domain=[0, last], nice=False), axis=axis)


def number_y(field: str, rows: Sequence[Row] = (), columns: Iterable[str] = ()) -> alt.Y:
    """A scale from zero: to one, if the field, or else the columns that it is folded of, are zero in all rows."""
    names = tuple(columns) or (field,)
    is_flat = bool(rows) and not any(row.get(name) for row in rows for name in names)
    scale = alt.Scale(domain=[0, 1]) if is_flat else alt.Scale(zero=True)
    return alt.Y(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(labelExpr=NUMBER, tickCount=4))


def duration_y(field: str, low_us: float, high_us: float) -> alt.Y:
    """Durations on a logarithmic scale, with a label for each power of ten, and between them where there are few."""
    ends = _round_below(low_us), _round_above(high_us)
    decades = math.log10(ends[1] / ends[0])
    steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    shown = [step * 10.0**power for power in powers for step in steps if ends[0] <= step * 10.0**power <= ends[1]]
    axis = alt.Axis(values=shown, labelExpr=DURATION.format("datum.value"))
    return alt.Y(f"{field}:Q", title=None, scale=alt.Scale(type="log", domain=list(ends)), axis=axis)


def _round_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value)


def _round_above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= value)


def lines(rows: Sequence[Row], x: alt.X, y: alt.Y, fields: Fields, named: bool = True, **mark: Any) -> alt.Chart:
    """A line for each column, in the colours of the theme; `named`: with a legend, where there are several."""
    look = _keys(list(fields.values()))
    names = [key.label for key in look]
    legend = alt.Undefined if named and len(names) > 1 else None
    shades = alt.Scale(domain=names, range=[colour(key.shade) for key in look])
    dashes = alt.Scale(domain=names, range=[list(key.dashes or (1, 0)) for key in look])
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .transform_fold(list(fields), as_=["column", "value"])
        .transform_calculate(line=f"{json.dumps(dict(fields))}[datum.column]")
        .transform_filter("isValid(datum.value)")
        .mark_line(**mark)
        .encode(
            x=x,
            y=y,
            color=alt.Color("line:N", scale=shades, legend=legend),
            strokeDash=alt.StrokeDash("line:N", scale=dashes, legend=legend),
        )
    )
    return chart


def keys(fields: Fields) -> tuple[Key, ...]:
    """The legend of lines(), where there are several."""
    return _keys(list(fields.values())) if len(fields) > 1 else ()


def _keys(names: Sequence[str]) -> tuple[Key, ...]:
    rounds = [divmod(place, len(SERIES)) for place in range(len(names))]
    return tuple(
        Key(name, SERIES[place], dashes=DASHES[turn % len(DASHES)])
        for name, (turn, place) in zip(names, rounds, strict=True)
    )


def area(rows: Sequence[Row], x: alt.X, y: alt.Y, shade: str = "blue", stepped: bool = False) -> alt.Chart:
    interpolate: Literal["step", "linear"] = "step" if stepped else "linear"
    line = {"color": colour(shade), "strokeWidth": 1.8, "interpolate": interpolate}
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_area(color=colour(shade), fillOpacity=0.12, line=line, interpolate=interpolate)
        .encode(x=x, y=y)
    )
    return chart


def bars(rows: Sequence[Row], clock: Clock, field: str, shade: str = "bad") -> alt.Chart:
    """What was counted in each step, as a bar as wide as the step."""
    half = clock.step * 0.4
    x = time_x(clock, "from")
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .transform_calculate(**{"from": f"datum.t - {half}", "to": f"datum.t + {half}", "none": "0"})
        .mark_rect(color=colour(shade), opacity=0.75)
        .encode(x=x, x2="to:Q", y=number_y(field, rows), y2="none:Q")
    )
    return chart


def phases(rows: Sequence[Row], clock: Clock, named: bool = False) -> list[alt.Chart]:
    """The phases of the run, behind the lines: the measured one shaded, the others by where they begin."""
    if not rows:
        return []
    base = alt.Chart(data(rows)).encode(x=time_x(clock))
    measured = base.transform_filter("datum.phase == 'measure'").mark_rect(color=colour("shade")).encode(x2="t_end:Q")
    edges = base.transform_filter("datum.t > 0").mark_rule(color=colour("line"), strokeDash=[2, 3])
    if not named:
        return [measured, edges]
    # Where a phase is too short for its name, the name is left out.
    room = f"{ROOM} * (datum.t_end - datum.t) / {clock.length} > 10 + 7 * length(datum.phase)"
    names = small_print(rows, f"{room} ? datum.phase : ''").encode(x=time_x(clock), y=alt.value(0))
    return [measured, edges, names]


def number(unit: str = "") -> str:
    """The expression for a number with its unit, for a tip."""
    return f"format({{0}}, ',.4~r') + '{' ' if unit and unit != '%' else ''}{unit}'"


def tip(head: str, entries: Mapping[str, tuple[str, str]]) -> str:
    """The expression for a tip: a line of `head`, and one for each column that has a value: what it is called, and how
    it is written."""
    said = []
    for column, (title, form) in entries.items():
        value = f"datum['{column}']"
        name = json.dumps(f"\n{title}: ")
        said.append(f"(isValid({value}) ? {name} + {form.format(value)} : '')")
    return " + ".join([head, *said])


def at_second(entries: Mapping[str, tuple[str, str]]) -> str:
    """A tip that begins with the time."""
    return tip("'second ' + format(datum.t, '.1~f')", entries)


def pointed_at(rows: Sequence[Row], x: alt.X, said: str) -> alt.Chart:
    """A line where somebody points, and what is `said` of that place, an expression."""
    near = alt.selection_point(
        name="near", on="pointermove", clear="pointerout", nearest=True, encodings=["x"], empty=False
    )
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .transform_calculate(tip=said)
        .mark_rule(color=colour("soft"), strokeWidth=1)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.7), alt.value(0)), tooltip="tip:N")
        .add_params(near)
    )
    return chart
