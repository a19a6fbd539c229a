"""What pictures and pages look like: two themes of the same colours by name, and how a chart is laid out.

A chart names a colour as `var(--blue)`. In a page that is a property of its style sheet, so that the same drawing is
light, dark or printed; an image file gets the colours of one theme put in. Orange and blue are told apart with every
kind of colour blindness, and what they say is always said by a shape or a word too.
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


#: How wide a chart is, in the expressions of charts: Vega itself has one name for it in a page, others in an image.
ROOM = "room"


# Pixels for the labels of a scale. A longer label would move the axis away from those above and below, so it is cut;
# marks.py writes numbers that fit.
SCALE_ROOM = 62


def colour(name: str) -> str:
    """A colour of the theme, as a chart names it."""
    return f"var(--{name})"


#: Colours of the lines of one picture, in the order in which they are given out, and the dashes of each further round.
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
    # The same room for every scale, so that the axes of a page stand above each other.
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
    """The chart with the colours of `theme` in place of their names, for what knows no style sheet."""
    text = re.sub(r"var\(--(\w+)\)", lambda found: theme[found[1]], json.dumps(chart))
    painted_chart: dict[str, Any] = json.loads(text)
    return painted_chart
