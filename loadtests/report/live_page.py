"""The page with live samples of a server, for Locust's web UI: its charts are empty, and it asks for their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from loadtests.report.charts.marks import area, at_second, number, number_y, pointed_at, stacked
from loadtests.report.charts.picture import Panel, for_page
from loadtests.report.html_page import as_json, filled_in

__all__ = ["render_live_html"]

ROWS = "rows"  # what the page calls them when it hands them over
HEIGHT = 96


@dataclass(frozen=True)
class LiveChart:
    """A column of the rows over time; one that no row has is not shown."""

    column: str
    label: str
    unit: str = ""
    shade: str = "blue"


CHARTS = [
    LiveChart("cpu", "Processor, % of a core", "%"),
    LiveChart("rss", "Memory, MiB", "MiB"),
    LiveChart("sockets", "Connections", shade="teal"),
    LiveChart("descriptors", "Open descriptors", shade="teal"),
    LiveChart("messages", "Messages a second"),
    LiveChart("queue", "Connections that wait to be accepted", shade="orange"),
    LiveChart("lag", "Worst lateness of its event loops, ms", "ms", shade="purple"),
]


def render_live_html() -> str:
    """The page. It asks `server/rows?since=T` for {"rows": [{"t": seconds, column: value}], "ended": why or ""}."""
    charts = [(chart, as_json(_specification(chart))) for chart in CHARTS]
    return filled_in("live.html.j2", title="The server, live", charts=charts)


def _specification(chart: LiveChart) -> dict[str, Any]:
    axis = alt.Axis(title=None, labelExpr="datum.label + ' s'", tickMinStep=1, tickCount=5)
    x = alt.X("t:Q", scale=alt.Scale(nice=False, zero=False), axis=axis)
    said = at_second({chart.column: (chart.label.split(",")[0], number(chart.unit))})
    drawn = stacked([area([], x, number_y(chart.column), chart.shade)], HEIGHT, chart.label)
    specification = for_page(Panel(chart.label, drawn, pointed_at([], x, said)))
    for layer in specification["layer"]:  # which all take the chart's then
        layer.pop("data", None)
    specification.pop("datasets", None)
    return {**specification, "data": {"name": ROWS}}
