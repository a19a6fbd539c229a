"""The building blocks of charts: axes, lines, bars, phases and tooltips.

All panels of a chart read one table of rows with a column for each line, so that a tooltip shows all values of a place.
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
    "CHANGE",
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
# The expression for a duration in microseconds in the unit that fits, as formatting.quantity(); `{0}` is its value.
DURATION = (
    "({0} >= 999.5e3 ? format({0} / 1e6, ',.3~r') + ' s' : {0} >= 999.5 ? format({0} / 1e3, ',.3~r') + ' ms' "
    ": format({0}, ',.3~r') + ' µs')"
)
# The expression for a change in percent, as formatting.change(); `{0}` is its value.
CHANGE = (
    "({0} > 0 ? '+' : '') + ({0} >= 1e3 ? format(1 + {0} / 100, ',.3~r') + 'x' "
    ": (abs({0}) >= 99.95 ? format({0}, ',.0f') : abs({0}) >= 0.995 ? format({0}, '.1f') : format({0}, '.2f')) + '%')"
)
# The expression for a number on a scale, in at most seven characters, because every scale has the same width.
NUMBER = (
    "abs(datum.value) >= 1e4 || (datum.value != 0 && abs(datum.value) < 1e-3) "
    "? format(datum.value, '.4~s') : format(datum.value, ',.6~g')"
)
Fields = Mapping[str, str]  # column -> title


def data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=list(rows))


def stacked(layers: Sequence[alt.Chart], height: int = HEIGHT, title: str = "") -> alt.LayerChart:
    """Layer charts on top of each other, the first one lowest."""
    return alt.LayerChart(layer=list(layers), height=height, title=title or alt.Undefined)


def small_print(rows: Sequence[Row], expression: str, align: Literal["left", "right"] = "left") -> alt.Chart:
    """The text that an expression gives for each row, in small letters above its place."""
    away = {"left": 4, "right": -4}[align]
    text = alt.expr(expression)
    chart: alt.Chart = alt.Chart(data(rows)).mark_text(
        align=align, baseline="bottom", dx=away, dy=-4, fontSize=11, color=colour("soft"), text=text
    )
    return chart


def time_x(clock: Clock, field: str = "t") -> alt.X:
    """The time axis: seconds since the start of the run, the same in every chart."""
    axis = alt.Axis(title=None, labelExpr="datum.label + ' s'", tickMinStep=1, tickCount=alt.expr(f"{ROOM} / 60"))
    return alt.X(f"{field}:Q", scale=alt.Scale(domain=[0, clock.length], nice=False), axis=axis)


def nines_x(last: float) -> alt.X:
    """The percentile axis, up to a place on it. Each further nine takes the same width."""
    ticks = [0.0, 0.30103, *(float(nine) for nine in range(1, int(last) + 1))]
    names = {0: "0%", 1: "90%", 2: "99%"} | {nine: f"99.{'9' * (nine - 2)}%" for nine in range(3, int(last) + 1)}
    label = f"datum.value > 0.3 && datum.value < 0.31 ? '50%' : {names!r}[datum.value]"
    axis = alt.Axis(values=ticks, labelExpr=label, title="percentile (each nine has the same width)", grid=True)
    return alt.X("nines:Q", scale=alt.Scale(domain=[0, last], nice=False), axis=axis)


def number_y(field: str, rows: Sequence[Row] = (), columns: Iterable[str] = ()) -> alt.Y:
    """A scale from zero. It ends at one if the field, or the columns it is folded from, are zero in all rows."""
    names = tuple(columns) or (field,)
    is_flat = bool(rows) and not any(row.get(name) for row in rows for name in names)
    scale = alt.Scale(domain=[0, 1]) if is_flat else alt.Scale(zero=True)
    return alt.Y(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(labelExpr=NUMBER, tickCount=4))


def duration_y(field: str, low_us: float, high_us: float) -> alt.Y:
    """A logarithmic scale of durations, with a label at each power of ten, and more labels if those are few."""
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
    """A line for each column, in the colours of the theme; with `named` also a legend if there are several."""
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
    """The legend of lines(); empty for a single line."""
    return _keys(list(fields.values())) if len(fields) > 1 else ()


def _keys(names: Sequence[str]) -> tuple[Key, ...]:
    rounds = [divmod(place, len(SERIES)) for place in range(len(names))]
    return tuple(
        Key(name, SERIES[place], dashes=DASHES[round_ % len(DASHES)])
        for name, (round_, place) in zip(names, rounds, strict=True)
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
    """A bar for each step with its count."""
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
    """The phases of the run in the background: the measured one shaded, a dashed line at the start of the others."""
    if not rows:
        return []
    base = alt.Chart(data(rows)).encode(x=time_x(clock))
    measured = base.transform_filter("datum.phase == 'measure'").mark_rect(color=colour("shade")).encode(x2="t_end:Q")
    edges = base.transform_filter("datum.t > 0").mark_rule(color=colour("line"), strokeDash=[2, 3])
    if not named:
        return [measured, edges]
    # The name of a phase is left out if the phase is too short for it.
    room = f"{ROOM} * (datum.t_end - datum.t) / {clock.length} > 10 + 7 * length(datum.phase)"
    names = small_print(rows, f"{room} ? datum.phase : ''").encode(x=time_x(clock), y=alt.value(0))
    return [measured, edges, names]


def number(unit: str = "") -> str:
    """The expression for a number with its unit in a tooltip: three digits, or in full from 1,000 on."""
    rounded = "(abs({0}) >= 1e3 ? format({0}, ',.0f') : format({0}, ',.3~r'))"
    return f"{rounded} + '{' ' if unit and not unit.startswith('%') else ''}{unit}'"


def tip(head: str, entries: Mapping[str, tuple[str, str]]) -> str:
    """The expression for a tooltip: the line `head`, then a line for each column that has a value.

    entries: column -> title, and the expression for its value.
    """
    lines = []
    for column, (title, form) in entries.items():
        value = f"datum['{column}']"
        name = json.dumps(f"\n{title}: ")
        lines.append(f"(isValid({value}) ? {name} + {form.format(value)} : '')")
    return " + ".join([head, *lines])


def at_second(entries: Mapping[str, tuple[str, str]]) -> str:
    """The expression for a tooltip that begins with the time."""
    return tip("'second ' + format(datum.t, '.1~f')", entries)


def pointed_at(rows: Sequence[Row], x: alt.X, tooltip: str) -> alt.Chart:
    """A vertical line at the pointer, with a tooltip (an expression)."""
    near = alt.selection_point(
        name="near", on="pointermove", clear="pointerout", nearest=True, encodings=["x"], empty=False
    )
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .transform_calculate(tip=tooltip)
        .mark_rule(color=colour("soft"), strokeWidth=1)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.7), alt.value(0)), tooltip="tip:N")
        .add_params(near)
    )
    return chart
