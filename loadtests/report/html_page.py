"""Render runs as one HTML file from the templates. It needs no network, and the same run gives the same bytes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import bidirectional

import jinja2

import gserver
from loadtests.formatting import at_point, is_figures
from loadtests.report.charts.picture import Key, Picture, drawing_library, for_page
from loadtests.report.charts.run_charts import overlaid_pictures, run_pictures
from loadtests.report.charts.theme import CONFIG, DARK, FONT, LIGHT
from loadtests.report.run_data import Evidence
from loadtests.report.run_tables import Table, figures_of, keys_of, latencies_of, types_of
from loadtests.report.summary import (
    Failure,
    KeyFigure,
    Stamp,
    failures_of,
    key_figures,
    latency_note,
    server_of,
    shortened,
    started,
    summary_of,
    title_of_run,
    verdict_of,
    version_of,
    workload_of,
)
from loadtests.results.store import Run

__all__ = ["ShownPicture", "as_json", "filled_in", "isolated", "render_runs_html", "shown_picture"]


# Length limit in characters: a page has room for more than one line, but not for a whole wrong reply.
MOST_OF_AN_EXAMPLE = 500
# Runs side by side. More of them become rows.
MOST_COLUMNS = 4


@dataclass(frozen=True)
class ShownChart:
    """A chart in a page: its label, its specification as JSON, and its legend."""

    label: str
    specification: str
    legend: tuple[Key, ...]


@dataclass(frozen=True)
class ShownPicture:
    """A picture with its charts."""

    picture: Picture
    charts: tuple[ShownChart, ...]


@dataclass(frozen=True)
class ShownRun:
    """Everything that a page shows of a run. `prefix` makes its anchors unique in the page."""

    prefix: str
    title: str
    lines: tuple[str, ...]
    verdict: Stamp
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    key_figures: tuple[KeyFigure, ...]
    note: str
    types: Table
    numbers: tuple[tuple[str, Table], ...]
    pictures: tuple[ShownPicture, ...]
    keys: tuple[tuple[str, Table], ...]


def render_runs_html(evidence: Sequence[Evidence]) -> str:
    """The page of one run or of several."""
    alone = len(evidence) == 1
    shown = [
        _shown_run(each, "" if alone else f"run-{place}-", len(evidence))
        for place, each in enumerate(evidence, start=1)
    ]
    return filled_in(
        "runs.html.j2",
        kind="Load test" if alone else "Load tests",
        title=shown[0].title if alone else f"{len(evidence)} runs",
        lines=shown[0].lines if alone else (),
        runs=shown,
        summary=_beside([each.run for each in evidence]),
        are_many=len(evidence) > MOST_COLUMNS,
        overlaid=[] if alone else [shown_picture(picture) for picture in overlaid_pictures(evidence)],
    )


def _beside(runs: Sequence[Run]) -> Table:
    """A column for each run, or a row if there are more runs than MOST_COLUMNS."""
    header, *rows = summary_of(runs)
    header = ("", *(f"{place}: {title}" for place, title in enumerate(header[1:], start=1)))
    if len(runs) > MOST_COLUMNS:
        header, *rows = zip(header, *rows, strict=True)
    return Table(header, tuple(rows))


def _shown_run(evidence: Evidence, prefix: str, crowd: int) -> ShownRun:
    run = evidence.run
    return ShownRun(
        prefix,
        title_of_run(run),
        tuple(line for line in (workload_of(run), server_of(run), version_of(run), started(run)) if line),
        verdict_of(run),
        tuple(
            dataclasses.replace(failure, example=shortened(failure.example, MOST_OF_AN_EXAMPLE))
            for failure in failures_of(run)
        ),
        tuple(run.warnings),
        tuple(key_figures(run)),
        latency_note(run),
        types_of(run),
        tuple((title, table) for title, table in _numbers(run).items() if table.rows),
        tuple(shown_picture(picture) for picture in run_pictures(evidence, crowd)),
        keys_of(run),
    )


def _numbers(run: Run) -> dict[str, Table]:
    return {"All latencies": latencies_of(run), "All other figures": figures_of(run)}


def shown_picture(picture: Picture) -> ShownPicture:
    charts = [
        ShownChart(f"{picture.title}: {panel.label}", as_json(for_page(panel)), panel.legend)
        for panel in picture.panels
    ]
    return ShownPicture(picture, tuple(charts))


def as_json(value: object) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def isolated(text: str) -> str:
    """Text that does not change the direction of the text around it if it is written from right to left."""
    is_turned = any(bidirectional(each) in ("R", "AL", "RLE", "RLO", "RLI") for each in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if is_turned else text


def filled_in(template: str, **values: Any) -> str:
    """Fill in a template of this package with `values` and with the values that every page needs."""
    page = _templates().get_template(template)
    return page.render(
        version=gserver.__version__,
        library=drawing_library(),
        light=_properties(LIGHT),
        dark=_properties(DARK),
        font=FONT,
        config=as_json({**CONFIG, "legend": {"disable": True}}),
        **values,
    )


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtests.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"at_point": at_point, "decimals": _decimals}
    return templates


def _decimals(rows: Sequence[Sequence[str]]) -> list[int | None]:
    """For each column: how many characters follow the decimal points of its figures; None for a column of words."""
    columns: Iterator[tuple[str, ...]] = zip(*rows, strict=True)
    return [
        max(len(at_point(cell)[1]) for cell in column) if place and is_figures(column) else None
        for place, column in enumerate(columns)
    ]


def _properties(theme: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in theme.items())
