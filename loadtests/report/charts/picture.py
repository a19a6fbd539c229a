"""A picture: a title, words, panels (charts) and a table of its numbers; rendered as Vega-Lite, SVG or PNG.

A picture without data has no panels, and its words give the reason. The panels of a picture are stacked: in a page each
is a chart of its own, as wide as the page; in an image file all of them are one image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from loadtests.report.charts.theme import CONFIG, LIGHT, ROOM, colour, painted
from loadtests.report.run_tables import Table
from loadtests.results.store import write_whole

__all__ = ["FORMATS", "Key", "Panel", "Picture", "drawing_library", "drawn", "for_page", "save_pictures"]

FORMATS = ("svg", "png")
IMAGE_WIDTH = 720
PNG_SCALE = 2
# Pixels of a legend entry in an image: for each letter at most, and for the symbol.
LEGEND_LETTER, LEGEND_SYMBOL = 8, 40


@dataclass(frozen=True)
class Key:
    """An entry of a legend: label, colour of the theme, and shape ("line" with its dashes, "circle" or "square")."""

    label: str
    shade: str
    shape: str = "line"
    dashes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One chart. `label` is for screen readers; `pointed` is the layer with the tooltip.

    A page writes the `legend` in HTML, where it can wrap. Vega draws it in image files only.
    """

    label: str
    chart: alt.LayerChart
    pointed: alt.Chart | None = None
    legend: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture. `name` is the name of its file and its anchor in a page."""

    name: str
    title: str
    words: str
    panels: tuple[Panel, ...] = ()
    table: Table | None = None


def for_page(panel: Panel) -> dict[str, Any]:
    """The panel as Vega-Lite, with its width from the page and its colours from the style sheet."""
    chart = panel.chart + panel.pointed if panel.pointed else panel.chart
    chart = chart.add_params(alt.param(name=ROOM, expr="width")).properties(width="container")
    specification: dict[str, Any] = chart.to_dict(validate=False)
    specification.pop("config", None)  # Altair's default; the page has the one of theme.py, once for all charts
    return specification


@functools.cache
def drawing_library() -> str:
    """The JavaScript that draws charts in a page, from vl-convert. Cached, because bundling it takes seconds."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")


def drawn(picture: Picture, form: str) -> bytes:
    """The whole picture as an image ("svg" or "png") in light colours."""
    panels = [panel.chart.properties(width=IMAGE_WIDTH) for panel in picture.panels]
    heading = alt.TitleParams(picture.title, fontSize=16, fontWeight=600, anchor="start", frame="bounds", offset=16)
    stacked = alt.vconcat(*panels, spacing=24, title=heading).add_params(alt.param(name=ROOM, value=IMAGE_WIDTH))
    # Only one panel has the legend. With shared scales Vega would drop it.
    stacked = stacked.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    legend = CONFIG["legend"] | _legend_layout([key.label for panel in picture.panels for key in panel.legend])
    config = CONFIG | {"background": colour("page"), "padding": 16, "legend": legend}
    specification = painted({**stacked.to_dict(validate=False), "config": config}, LIGHT)
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(specification)).encode()
    return bytes(vl_convert.vegalite_to_png(specification, scale=PNG_SCALE))


def _legend_layout(labels: Sequence[str]) -> dict[str, int]:
    """The number of columns that fit into an image; a label that is longer than a line is cut."""
    entry = LEGEND_SYMBOL + LEGEND_LETTER * max(map(len, labels), default=0)
    return {"columns": max(1, IMAGE_WIDTH // entry), "labelLimit": IMAGE_WIDTH - LEGEND_SYMBOL}


def save_pictures(pictures: Sequence[Picture], folder: Path, form: str, prefix: str = "") -> list[Path]:
    """Write each picture that has panels to a file in `folder`, which is made if missing; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in pictures:
        if picture.panels:
            path = folder / f"{prefix}{picture.name}.{form}"
            write_whole(path, drawn(picture, form))
            paths.append(path)
    return paths
