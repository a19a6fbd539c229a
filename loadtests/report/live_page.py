"""The page with live charts of the server, for Locust's web UI. It polls for the rows of its charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from loadtests.report.charts.marks import area, at_second, number, number_y, pointed_at, stacked
from loadtests.report.charts.picture import Panel, for_page
from loadtests.report.html_page import as_json, filled_in

__all__ = ["render_live_html"]

ROWS = "rows"  # the name of the data set that the page fills
HEIGHT = 96


@dataclass(frozen=True)
class LiveChart:
    """A column of the rows over time. A column that no row has is not shown."""

    column: str
    label: str
    unit: str = ""
    shade: str = "blue"


CHARTS = [
    LiveChart("cpu", "Server CPU, % of a core", "% of a core"),
    LiveChart("rss", "Server memory (RSS), MiB", "MiB"),
    LiveChart("sockets", "Open connections", shade="teal"),
    LiveChart("descriptors", "Server file descriptors", shade="teal"),
    LiveChart("messages", "Messages a second", "/s"),
    LiveChart("queue", "Accept queue: connections that wait", shade="orange"),
    LiveChart("lag", "Server max event loop lag, ms", "ms", shade="purple"),
]


def render_live_html() -> str:
    """The page. It gets {"rows": [{"t": seconds, column: value}], "ended": reason or ""} from `server/rows?since=T`."""
    charts = [(chart, as_json(_specification(chart))) for chart in CHARTS]
    return filled_in("live.html.j2", title="The server, live", charts=charts)


def _specification(chart: LiveChart) -> dict[str, Any]:
    axis = alt.Axis(title=None, labelExpr="datum.label + ' s'", tickMinStep=1, tickCount=5)
    x = alt.X("t:Q", scale=alt.Scale(nice=False, zero=False), axis=axis)
    tooltip = at_second({chart.column: (chart.label.split(",")[0], number(chart.unit))})
    drawn = stacked([area([], x, number_y(chart.column), chart.shade)], HEIGHT, chart.label)
    specification = for_page(Panel(chart.label, drawn, pointed_at([], x, tooltip)))
    for layer in specification["layer"]:  # a layer without data takes those of the chart
        layer.pop("data", None)
    specification.pop("datasets", None)
    return {**specification, "data": {"name": ROWS}}
