"""The look of charts and pages: a light and a dark theme with the same names of colours, and the layout of charts.

A chart names a colour as `var(--blue)`. In a page this is a property of the style sheet, so that the same chart can be
light, dark or printed. An image file contains the colours of one theme. People with any kind of colour blindness can
distinguish orange from blue, and a shape or a word always carries the same information as a colour.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["CONFIG", "DARK", "DASHES", "LIGHT", "ROOM", "SERIES", "colour", "painted"]

LIGHT = {
    "page": "#ffffff",
    "raised": "#f6f7f9",
    "ink": "#1b1f24",
    "soft": "#59636e",
    "line": "#d8dee4",
    "grid": "#eceff2",
    "shade": "#eef3fa",
    "blue": "#1f6fb8",
    "orange": "#c4570a",
    "teal": "#0b7a75",
    "purple": "#7a4fb5",
    "olive": "#757109",
    "grey": "#6b7580",
    "good": "#0b7a75",
    "bad": "#b93a0e",
}
DARK = {
    "page": "#14171b",
    "raised": "#1c2026",
    "ink": "#e6e9ed",
    "soft": "#a0a9b4",
    "line": "#363c45",
    "grid": "#262b32",
    "shade": "#1c2733",
    "blue": "#64aef0",
    "orange": "#f29a55",
    "teal": "#3fc1b6",
    "purple": "#b797ea",
    "olive": "#c9c253",
    "grey": "#8b95a1",
    "good": "#3fc1b6",
    "bad": "#ff8f66",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


#: The width of a chart in the expressions of charts. Vega has different names for it in a page and in an image.
ROOM = "room"


# Pixels for the labels of a scale. A longer label is cut, because it would move the axis out of line with the axes
# above and below. marks.py writes numbers that fit.
SCALE_ROOM = 62


def colour(name: str) -> str:
    """The name of a colour of the theme in a chart."""
    return f"var(--{name})"


#: Colours of the lines of a chart, in this order. When all are used, the next round has other dashes.
SERIES = ("blue", "orange", "teal", "purple", "olive", "grey")
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (8, 3, 2, 3))

CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "padding": 0,
    "view": {"stroke": None},
    "axis": {
        "labelColor": colour("soft"),
        "labelFontSize": 11,
        "titleColor": colour("soft"),
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridColor": colour("grid"),
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelFlush": False,
    },
    # The same width for every scale, so that the axes of a page are in line.
    "axisY": {"minExtent": SCALE_ROOM, "maxExtent": SCALE_ROOM, "labelLimit": SCALE_ROOM - 6, "titleAnchor": "start"},
    "axisX": {"grid": False, "labelFlush": True, "domain": True, "domainColor": colour("line"), "titlePadding": 6},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": colour("ink"),
        "labelFontSize": 12,
        "symbolStrokeWidth": 2.5,
        "symbolOpacity": 1,
        "offset": 18,
        "columnPadding": 14,
    },
    "title": {
        "anchor": "start",
        "frame": "bounds",
        "color": colour("ink"),
        "fontSize": 12,
        "fontWeight": 600,
        "offset": 8,
    },
    "line": {"strokeWidth": 1.8, "strokeJoin": "round"},
}


def painted(chart: dict[str, Any], theme: dict[str, str]) -> dict[str, Any]:
    """The chart with the colours of `theme` instead of their names, for image files, which have no style sheet."""
    text = re.sub(r"var\(--(\w+)\)", lambda found: theme[found[1]], json.dumps(chart))
    painted_chart: dict[str, Any] = json.loads(text)
    return painted_chart
