"""A picture: what it shows in words, its panels as charts, its numbers as a table; and as Vega-Lite, SVG or PNG.

A picture for which there is nothing to draw has no panels, and its words say why. The panels of one picture stand below
each other: each is a chart of its own in a page, where it is as wide as the page, and all are one image in a file.
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
# Pixels of an entry of a legend in an image: a letter at most, and what stands beside the letters.
LEGEND_LETTER, LEGEND_SYMBOL = 8, 40


@dataclass(frozen=True)
class Key:
    """An entry of a legend: what a colour of the theme and a shape stand for.

    The shape is "line", with its dashes, "circle" or "square".
    """

    label: str
    shade: str
    shape: str = "line"
    dashes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One chart; `label` is what a screen reader says of it, `pointed` the layer that answers somebody who points.

    A page writes the `legend` itself, where it can wrap; Vega draws one into an image only.
    """

    label: str
    chart: alt.LayerChart
    pointed: alt.Chart | None = None
    legend: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Picture:
    """`name` is that of its file and its place in a page."""

    name: str
    title: str
    words: str
    panels: tuple[Panel, ...] = ()
    table: Table | None = None


def for_page(panel: Panel) -> dict[str, Any]:
    """The panel as Vega-Lite that takes its width from the page and its colours from the style sheet."""
    chart = panel.chart + panel.pointed if panel.pointed else panel.chart
    chart = chart.add_params(alt.param(name=ROOM, expr="width")).properties(width="container")
    specification: dict[str, Any] = chart.to_dict(validate=False)
    specification.pop("config", None)  # Altair's own; the page has that of theme.py, once for all its charts
    return specification


@functools.cache
def drawing_library() -> str:
    """The script that draws in a page, as vl-convert brings it. Bundling it takes seconds, so that is done once."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")


def drawn(picture: Picture, form: str) -> bytes:
    """The whole picture as an image in light colours: "svg" or "png"."""
    panels = [panel.chart.properties(width=IMAGE_WIDTH) for panel in picture.panels]
    heading = alt.TitleParams(picture.title, fontSize=16, fontWeight=600, anchor="start", frame="bounds", offset=16)
    stacked = alt.vconcat(*panels, spacing=24, title=heading).add_params(alt.param(name=ROOM, value=IMAGE_WIDTH))
    # Only one of the panels has the legend: shared with the others it would be none.
    stacked = stacked.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    legend = CONFIG["legend"] | _legend_layout([key.label for panel in picture.panels for key in panel.legend])
    config = CONFIG | {"background": colour("page"), "padding": 16, "legend": legend}
    specification = painted({**stacked.to_dict(validate=False), "config": config}, LIGHT)
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(specification)).encode()
    return bytes(vl_convert.vegalite_to_png(specification, scale=PNG_SCALE))


def _legend_layout(labels: Sequence[str]) -> dict[str, int]:
    """As many columns as have room beside each other in an image; what is longer than a line is cut."""
    entry = LEGEND_SYMBOL + LEGEND_LETTER * max(map(len, labels), default=0)
    return {"columns": max(1, IMAGE_WIDTH // entry), "labelLimit": IMAGE_WIDTH - LEGEND_SYMBOL}


def save_pictures(pictures: Sequence[Picture], folder: Path, form: str, prefix: str = "") -> list[Path]:
    """Each picture that has something to draw, as a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in pictures:
        if picture.panels:
            path = folder / f"{prefix}{picture.name}.{form}"
            write_whole(path, drawn(picture, form))
            paths.append(path)
    return paths
