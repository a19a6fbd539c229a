"""The text of several comparisons: golden files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from loadtests.comparison.compare import Plan, compare
from loadtests.comparison.model import Comparison
from loadtests.report.comparison_overview import render_overview, render_overview_markdown
from tests.helpers.comparisons import simulated
from tests.helpers.golden import assert_golden

Render = Callable[[Sequence[Comparison]], str]


def comparisons() -> list[Comparison]:
    """One is worse, one is better, one has no memory by the socket, one is of too few pairs."""
    draw = np.random.default_rng(1)
    worse, better, bare, few = (
        compare(*simulated(draw, pairs, change), Plan(paired=True))
        for pairs, change in ((12, 0.2), (12, -0.2), (12, 0.0), (3, 0.0))
    )
    figures = tuple(figure for figure in bare.figures if figure.name != "server_rss_per_socket")
    return [worse, better, dataclasses.replace(bare, figures=figures), few]


@pytest.mark.parametrize(
    ("form", "render"),
    [
        ("80.txt", lambda found: render_overview(found, 80)),
        ("120.txt", lambda found: render_overview(found, 120)),
        ("md", render_overview_markdown),
    ],
)
def test_the_text_is_that_of_the_golden_file(form: str, render: Render) -> None:
    assert_golden(f"comparison-overview.{form}", render(comparisons()))


def test_a_terminal_has_colours_by_verdict() -> None:
    shown = render_overview(comparisons(), 120, colour=True)

    assert "\x1b[1;31m" in shown  # worse: bold and red
    assert "\x1b[32m" in shown  # better: green


def test_latency_and_memory_of_the_same_servers_are_one_line_and_other_servers_another() -> None:
    worse, better, bare, few = comparisons()
    memory = dataclasses.replace(worse, figures=tuple(each for each in worse.figures if "rss_per" in each.name))
    other = dataclasses.replace(few, b=dataclasses.replace(few.b, title="another"))

    (line, last) = table_of([bare, memory, other])
    assert "-" not in line
    assert last[1] == "another"
    assert [len(table_of(found)) for found in ([memory, bare], [worse, better], [bare, bare, memory, memory])] == [
        1,
        2,
        2,
    ]


def test_titles_wrap_before_the_names_of_servers_do() -> None:
    name = "gserver:echo?greenlets=dedicated"
    found = [
        dataclasses.replace(
            each, a=dataclasses.replace(each.a, title="gserver:echo"), b=dataclasses.replace(each.b, title=name)
        )
        for each in comparisons()
    ]
    shown = render_overview(found, 100)

    assert shown.count(name) == len(found)
    assert max(map(len, shown.splitlines())) <= 100


def table_of(found: Sequence[Comparison]) -> list[list[str]]:
    """The cells of each line."""
    lines = [line for line in render_overview_markdown(found).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
