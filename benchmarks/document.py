"""The JSON document of --json: all measurements and the ratios. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants import OURS
from benchmarks.figures import FIGURES
from benchmarks.jobs import Scenario
from benchmarks.rounds import Results
from benchmarks.tables import ratios_of

__all__ = ["SCHEMA_VERSION", "document_of"]

SCHEMA_VERSION = 1


def document_of(about: Mapping[str, Any], results: Sequence[Results], skipped: Sequence[str]) -> dict[str, Any]:
    """Return the document for json.dump(). about: fields about the machine and the options."""
    return {
        "schema_version": SCHEMA_VERSION,
        **about,
        "skipped": list(skipped),
        "scenarios": [_scenario(each, scenario) for each in results for scenario in each.scenarios],
    }


def _scenario(results: Results, scenario: Scenario) -> dict[str, Any]:
    measured = results.measurements[scenario]
    return {
        "job": results.job.name,
        "connections": scenario.connections,
        "payload_bytes": scenario.payload,
        "depth": scenario.depth,
        "rounds": measured,
        "ratios": {peer: _ratios(results, scenario, peer) for peer in measured if peer != OURS and OURS in measured},
        "failed": results.failed[scenario],
    }


def _ratios(results: Results, scenario: Scenario, peer: str) -> dict[str, Any]:
    found = {
        figure: ratios_of(results, scenario, peer, figure)
        for figure in results.job.figures
        if FIGURES[figure].has_ratio
    }
    return {figure: None if each is None else dataclasses.asdict(each) for figure, each in found.items()}
