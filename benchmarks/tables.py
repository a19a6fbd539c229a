"""Tables of the results, as text or Markdown: figures, ratios, and growth along an axis. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.contestants import OURS
from benchmarks.figures import FIGURES
from benchmarks.jobs import Scenario
from benchmarks.ratios import Spread, Value, median, ratios, spread
from benchmarks.rounds import Results
from loadtests.formatting import render_table

__all__ = ["NOTHING", "figure_text", "growth", "ratios_of", "render_results", "shown_ratio"]

#: Shown where there is no figure.
NOTHING = "-"
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def render_results(results: Results, markdown: bool = False) -> str:
    """Return a heading, the figures of each scenario, the ratios to each peer, and the growth along the axes."""
    job = results.job
    table = render_table if markdown else text_table
    level = "### " if markdown else ""
    parts = [f"{level}{job.name}: {job.about}"]
    for scenario in results.scenarios:
        if results.measurements[scenario]:
            parts += _scenario_parts(results, scenario, table)
    if job.varied and len(results.scenarios) > 1:
        parts += _growth_parts(results, table)
    return "\n\n".join(parts) + "\n"


def _scenario_parts(results: Results, scenario: Scenario, table: Table) -> Iterator[str]:
    names = list(results.measurements[scenario])
    columns = [*results.job.figures, "client_cpu"]
    header = ["server", *(FIGURES[column].title for column in columns)]
    yield f"{scenario}; medians"
    yield table(header, [[name, *(_figure(results, scenario, name, column) for column in columns)] for name in names])
    compared = [column for column in columns if FIGURES[column].has_ratio]
    rows = [
        [f"ours / {name}", *(shown_ratio(ratios_of(results, scenario, name, column)) for column in compared)]
        for name in names
        if name != OURS and OURS in names
    ]
    if rows:
        yield table(["ratio", *header[1 : len(compared) + 1]], rows)


def _figure(results: Results, scenario: Scenario, name: str, column: str) -> str:
    return figure_text(median(results.values(scenario, name, column)), column)


def figure_text(value: Value, figure: str) -> str:
    """Format a figure with its own number of decimals."""
    return NOTHING if value is None else f"{value:,.{FIGURES[figure].decimals}f}"


def ratios_of(results: Results, scenario: Scenario, peer: str, figure: str) -> Spread | None:
    """Return the median and quartiles of ours divided by a peer's, over the rounds."""
    return spread(ratios(results.values(scenario, OURS, figure), results.values(scenario, peer, figure)))


def shown_ratio(found: Spread | None) -> str:
    """Format the median and, if the rounds differ, the quartiles."""
    if found is None:
        return NOTHING
    if found.low == found.high:
        return f"{found.median:.2f}"
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _growth_parts(results: Results, table: Table) -> Iterator[str]:
    figure = results.job.figures[0]
    labels = [scenario.label for scenario in results.scenarios]
    yield f"{results.job.name}: {FIGURES[figure].title}, as a multiple of the value with {labels[0]}"
    names = dict.fromkeys(name for measured in results.measurements.values() for name in measured)
    rows = [
        [name, *(NOTHING if value is None else f"{value:.2f}" for value in growth(results, name, figure))]
        for name in names
    ]
    yield table(["server", *labels], rows)


def growth(results: Results, name: str, figure: str) -> list[Value]:
    """Return the median ratio of a figure in each scenario to the first scenario, taken round by round."""
    first, found = results.scenarios[0], []
    for scenario in results.scenarios:
        complete = all(name in results.measurements[each] for each in (first, scenario))
        pairs = ratios(results.values(scenario, name, figure), results.values(first, name, figure)) if complete else []
        found.append(median(pairs))
    return found


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a terminal; the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([first.strip().ljust(widths[0]), *rest])

    return "\n".join(line(row) for row in [header, *rows])
