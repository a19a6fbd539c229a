"""Render a report as JSON for programs: the verdict of each run, its figures by name, and the key figures in words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from loadtests.report.summary import KeyFigure, failures_of, key_figures, problems_of
from loadtests.results.store import Run

__all__ = ["render_json"]

KIND = "gserver load test report"
SCHEMA_VERSION = 1


def render_json(runs: Sequence[Run]) -> str:
    return json.dumps({"kind": KIND, "schema_version": SCHEMA_VERSION, "runs": [_run(run) for run in runs]}, indent=1)


def _run(run: Run) -> dict[str, Any]:
    figures = {figure.name: _figure(dataclasses.asdict(figure)) for figure in run.figures}
    return {
        "name": run.name,
        "label": run.label,
        "started_at": run.started_at,
        "verdict": {
            "state": run.verdict.state,
            "reasons": run.verdict.reasons,
            "shortfalls": run.verdict.shortfalls,
            "doubts": run.verdict.doubts,
        },
        "in_words": [_key_figure(each) for each in key_figures(run)],
        "figures": figures,
        "withheld": run.withheld,
        "phases": run.phases,
        "problems": problems_of(run),
        "errors": [dataclasses.asdict(failure) for failure in failures_of(run)],
        "workload": run.workload,
        "workload_hash": run.workload_hash,
        "server": run.server,
        "environment": run.environment,
    }


def _key_figure(key: KeyFigure) -> dict[str, str]:
    return {"figure": key.figure, "title": key.title, "value": key.value, "words": key.words, "why": key.why}


def _figure(values: dict[str, Any]) -> dict[str, Any]:
    """A figure without its name and without empty fields."""
    return {
        key: value for key, value in values.items() if key != "name" and value not in (None, "") and value is not False
    }
