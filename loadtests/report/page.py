"""A report or a comparison as one HTML file: templates filled in. All is in the file, in the same bytes each time."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

import gserver
from loadtests.report.evidence import Evidence
from loadtests.report.look import DARK, FONT, LIGHT
from loadtests.report.pictures import Picture, drawing_library, for_page
from loadtests.report.run_pictures import overlaid_pictures, run_pictures
from loadtests.report.tables import Table
from loadtests.report.words import (
    Saying,
    Stamp,
    latency_note,
    problems_of,
    sayings,
    started,
    summary_of,
    title_of_run,
    verdict_of,
    workload_of,
)
from loadtests.results import Run

__all__ = ["ShownPicture", "as_json", "filled_in", "render_runs_html", "shown_picture"]


@dataclass(frozen=True)
class ShownPicture:
    """A picture with its charts as a page has them: what each is called, and its specification as JSON."""

    picture: Picture
    charts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShownRun:
    """All that a page says of a run; `prefix` keeps its anchors apart from those of others."""

    prefix: str
    title: str
    lines: tuple[str, ...]
    verdict: Stamp
    problems: tuple[str, ...]
    sayings: tuple[Saying, ...]
    note: str
    pictures: tuple[ShownPicture, ...]
    keys: tuple[tuple[str, Table], ...]


def render_runs_html(evidence: Sequence[Evidence]) -> str:
    """The page of one run, or of several of them."""
    alone = len(evidence) == 1
    shown = [
        _shown_run(each, "" if alone else f"run-{place}-", len(evidence))
        for place, each in enumerate(evidence, start=1)
    ]
    header, *rows = summary_of([each.run for each in evidence])
    return filled_in(
        "runs.html.j2",
        kind="Load test" if alone else "Load tests",
        title=shown[0].title if alone else f"{len(evidence)} runs",
        lines=shown[0].lines if alone else (),
        runs=shown,
        summary=Table(header, tuple(rows)),
        overlaid=[] if alone else [shown_picture(picture) for picture in overlaid_pictures(evidence)],
    )


def _shown_run(evidence: Evidence, prefix: str, crowd: int) -> ShownRun:
    run = evidence.run
    return ShownRun(
        prefix,
        title_of_run(run),
        (workload_of(run), str(run.server.get("command", "")), started(run)),
        verdict_of(run),
        tuple(problems_of(run)),
        tuple(sayings(run)),
        latency_note(run),
        tuple(shown_picture(picture) for picture in run_pictures(evidence, crowd)),
        _keys(run),
    )


def _keys(run: Run) -> tuple[tuple[str, Table], ...]:
    tables = {
        "Workload": {**run.workload, "hash": run.workload_hash},
        "Server": run.server,
        "Environment": run.environment,
    }
    return tuple((title, _key_table(values)) for title, values in tables.items() if values)


def _key_table(values: Mapping[str, Any]) -> Table:
    return Table(("", "value"), tuple((key, str(value)) for key, value in values.items()))


def shown_picture(picture: Picture) -> ShownPicture:
    charts = [(f"{picture.title}: {panel.label}", as_json(for_page(panel))) for panel in picture.panels]
    return ShownPicture(picture, tuple(charts))


def as_json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def filled_in(template: str, **values: Any) -> str:
    """A template of this package with `values`, and with what every page has."""
    page = _templates().get_template(template)
    return page.render(
        version=gserver.__version__,
        library=drawing_library(),
        light=_properties(LIGHT),
        dark=_properties(DARK),
        font=FONT,
        **values,
    )


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("loadtests.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _properties(theme: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in theme.items())
