"""The text of a comparison: golden files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from loadtests.comparison.compare import Latencies, Plan, compare, plan_of_pairs
from loadtests.comparison.model import Comparison, Side
from loadtests.inference.rank_tests import Looks
from loadtests.recording.histogram import Histogram
from loadtests.report.comparison_text import render_json, render_markdown, render_terminal
from tests.helpers.comparisons import simulated
from tests.helpers.golden import golden

RENDERED = {
    "80.txt": lambda comparison: render_terminal(comparison, 80),
    "120.txt": lambda comparison: render_terminal(comparison, 120),
    "md": render_markdown,
    "json": render_json,
}


def comparison_named(name: str) -> Comparison:
    draw = np.random.default_rng(1)
    if name == "pairs":
        return compare(*simulated(draw, 12, 0.05), Plan(paired=True), latencies(1.0), latencies(1.05))
    if name == "sets":
        return compare(*simulated(draw, 4), Plan())
    return compare(*simulated(draw, 1), Plan())


def latencies(scale: float) -> Latencies:
    histogram = Histogram()
    for each in range(1, 1001):
        histogram.record(int(each * 1000 * scale))
    return Latencies(service=[histogram] * 12)


def rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", RENDERED)
@pytest.mark.parametrize("name", ["pairs", "sets", "single"])
def test_the_text_is_that_of_the_golden_file(name: str, form: str) -> None:
    text = RENDERED[form](comparison_named(name))
    held = golden(f"comparison-{name}.{form}", text)

    if form == "json":  # the last digits of a float are the machine's
        assert rounded(json.loads(text)) == rounded(json.loads(held))
    else:
        assert text == held


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("name", ["pairs", "sets", "single"])
def test_no_line_is_wider_than_the_terminal_and_no_figure_takes_two(name: str, width: int) -> None:
    comparison = comparison_named(name)
    lines = render_terminal(comparison, width).splitlines()

    assert max(map(len, lines)) <= width
    for figure in comparison.headlines:
        assert any(line.endswith(str(figure.answer)) for line in lines)
    rows = lines[lines.index(next(line for line in lines if line.startswith("figure"))) + 1 :]
    assert all(row.endswith(str(figure.answer)) for row, figure in zip(rows, comparison.headlines, strict=False))


def test_a_pipe_in_what_differs_does_not_break_the_table() -> None:
    a, b = simulated(np.random.default_rng(1), 1)
    piped = dataclasses.replace(b.runs[0], environment={"python": "3|4", "cores": 2})

    assert "3\\|4" in render_markdown(compare(a, Side("after", (piped,)), Plan()))


def test_colours_are_for_terminals() -> None:
    comparison = comparison_named("pairs")

    assert "\x1b[" in render_terminal(comparison, 100, colour=True)
    assert "\x1b[" not in render_terminal(comparison, 100)


def test_the_last_line_has_the_errors_of_this_look_and_of_all_looks_together() -> None:
    draw = np.random.default_rng(1)
    looks = Looks(20, 3)
    last = compare(*simulated(draw, 20), plan_of_pairs({}, 0.03, looks, 20))
    only = compare(*simulated(draw, 20), plan_of_pairs({}, 0.03, Looks(20, 1), 20))

    assert (
        "At this look, at most 2.19 of 100 comparisons of equal sides report a difference, over all 9 figures "
        "together; at all looks together at most 5."
    ) in render_markdown(last)
    assert "At most 5 of 100 comparisons of equal sides report a difference, over all" in render_markdown(only)
    assert "look" not in render_markdown(only)
