"""Render a comparison for the terminal, for the comment of a pull request, and as JSON. Computes no figure."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.comparison.model import Comparison, FigureComparison, KeyDifference, Side
from loadtests.formatting import aligned, percent, quantity, render_table, width_of
from loadtests.inference.power import MOST
from loadtests.report.summary import UNKNOWN, changed, listed, moment
from loadtests.results.figure_catalog import title_of
from loadtests.text_encoding import as_text

__all__ = [
    "COLOURS",
    "EMOJI",
    "bare_table",
    "cells_of",
    "console_of",
    "headline_of",
    "render_json",
    "render_markdown",
    "render_terminal",
    "verdict_sentence",
    "written_on",
]

SCHEMA_VERSION = 1
FEWEST_FOR_NOISE = 3
KIND = "gserver load test comparison"
COLOURS = {"better": "green", "worse": "bold red", "equivalent": "cyan", "inconclusive": "yellow"}
EMOJI = {"better": "\N{LARGE GREEN CIRCLE}", "worse": "\N{LARGE RED CIRCLE}", "equivalent": "\N{LARGE BLUE CIRCLE}"}
EMOJI["inconclusive"] = "\N{MEDIUM WHITE CIRCLE}"


def headline_of(comparison: Comparison) -> str:
    """The verdict and its sentence: "Worse: B is worse in throughput; 8 equivalent (of 9 figures)."."""
    return f"{comparison.answer.capitalize()}: {verdict_sentence(comparison)}"


def verdict_sentence(comparison: Comparison) -> str:
    """Which figures are worse and better, and how many are neither. The same sentence in every output."""
    by_answer: dict[str, list[str]] = {}
    for figure in comparison.headlines:
        by_answer.setdefault(str(figure.answer), []).append(title_of(figure.name))
    if not by_answer:
        return "There is nothing to judge: the two sides have no headline figure in common."
    named = [f"{answer} in {listed(by_answer[answer])}" for answer in ("worse", "better") if answer in by_answer]
    counted = [f"{len(by_answer[each])} {each}" for each in ("equivalent", "inconclusive") if each in by_answer]
    parts = ([f"B is {' and '.join(named)}"] if named else []) + ([", ".join(counted)] if counted else [])
    return f"{'; '.join(parts)} (of {_figures(comparison)})."


def _figures(comparison: Comparison) -> str:
    count = len(comparison.headlines)
    return "1 figure" if count == 1 else f"{count} figures"


# Terminal


def render_terminal(comparison: Comparison, width: int = 100, colour: bool = False) -> str:
    """The comparison for a terminal of `width` columns."""
    console = console_of(width, colour)
    console.print(Text(headline_of(comparison), style=COLOURS[comparison.answer]))
    console.print()
    for line in _sides(comparison):
        console.print(Text(line))
    for title, differences in _tables(comparison):
        console.print(Text(f"\n{title}"), _difference_table(differences))
    console.print()
    console.print(_figure_table(comparison, width))
    console.print()
    for line in _footnotes(comparison):
        console.print(Text(line))
    return written_on(console)


def console_of(width: int, colour: bool) -> Console:
    """A console that keeps what is printed on it, for written_on()."""
    return Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False, emoji=False
    )


def written_on(console: Console) -> str:
    """The text that was printed on a console_of(), without blanks at the ends of lines."""
    written: io.StringIO = console.file  # type: ignore[assignment]
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def bare_table(gap: int = 2) -> Table:
    """A table without lines; `gap` is the number of blanks between two columns."""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_edge=False)


def _figure_table(comparison: Comparison, width: int) -> Table:
    """Figures are aligned at the decimal point if there is room; on a narrow terminal to the right."""
    titles = ("figure", "A", "B", "change", _interval_title(comparison), "verdict")
    columns = list(zip(*map(_row, comparison.figures), strict=True)) or [()] * len(titles)
    first, *figures, verdicts = [list(column) for column in columns]
    at_point = [aligned(column) for column in figures]
    if is_aligned := _width_of([first, *at_point, verdicts], titles, 2) <= width:
        figures, gap = at_point, 2
    else:
        gap = 2 if _width_of([first, *figures, verdicts], titles, 2) <= width else 1
    table = bare_table(gap)
    table.add_column(titles[0], overflow="fold")
    for title, cells in zip(titles[1:-1], figures, strict=True):
        if is_aligned:  # the cells have their blanks already
            table.add_column(title.rjust(max(map(len, cells), default=0)), no_wrap=True)
        else:
            table.add_column(title, justify="right", no_wrap=True)
    table.add_column(titles[-1], overflow="fold")
    for name, *cells, verdict in zip(first, *figures, verdicts, strict=True):
        table.add_row(name, *cells, Text(verdict, style=COLOURS.get(verdict, "dim")))
    return table


def _row(figure: FigureComparison) -> tuple[str, ...]:
    return title_of(figure.name), *cells_of(figure), str(figure.answer or "")


def _width_of(columns: Sequence[Sequence[str]], titles: Sequence[str], gap: int) -> int:
    return sum(max(map(width_of, (title, *cells))) for title, cells in zip(titles, columns, strict=True)) + gap * (
        len(titles) - 1
    )


def _difference_table(differences: Sequence[KeyDifference]) -> Table:
    table = bare_table()
    for title in ("", "A", "B"):
        table.add_column(title, overflow="fold")
    for each in differences:
        table.add_row(each.key, each.a, each.b)
    return table


# Markdown


def render_markdown(comparison: Comparison) -> str:
    """For the comment of a pull request: the judged figures are visible, the others folded."""
    header = ["figure", "A", "B", "change", _interval_title(comparison), "verdict"]
    rows = [
        [title_of(figure.name), *cells_of(figure), f"{EMOJI[figure.answer]} {figure.answer}" if figure.answer else ""]
        for figure in comparison.figures
        if figure.headline
    ]
    parts = [f"**{headline_of(comparison)}**", "\n".join(f"- {line}" for line in _sides(comparison))]
    parts += [_markdown_differences(title, found) for title, found in _tables(comparison)]
    parts += [render_table(header, rows)] if rows else []
    parts.append("\n".join(f"- {line}" for line in _footnotes(comparison)))
    if others := [[title_of(figure.name), *cells_of(figure)] for figure in comparison.figures if not figure.headline]:
        table = render_table(header[:-1], others)
        parts.append(f"<details><summary>Other figures, shown and not judged</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _markdown_differences(title: str, differences: Sequence[KeyDifference]) -> str:
    rows = [[_escaped(each.key), _escaped(each.a), _escaped(each.b)] for each in differences]
    return f"{title}\n\n{render_table(['', 'A', 'B'], rows)}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# Both


def _sides(comparison: Comparison) -> list[str]:
    return [_side("A", comparison.a, comparison.paired), _side("B", comparison.b, comparison.paired)]


def _side(letter: str, side: Side, paired: bool) -> str:
    runs = len(side.runs)
    count = f"1 {'pair' if paired else 'run'}" if runs == 1 else f"{runs} {'pairs' if paired else 'runs'}"
    began = moment(min(run.started_at for run in side.runs))
    return f"{letter}: {side.title}, {count}, {side.runs[0].name}, from {began}"


def _tables(comparison: Comparison) -> list[tuple[str, Sequence[KeyDifference]]]:
    titles = ("The workloads differ:", "The environments differ:")
    tables = zip(titles, (comparison.workload, comparison.environment), strict=True)
    return [(title, differences) for title, differences in tables if differences]


def _interval_title(comparison: Comparison) -> str:
    return f"{100 * comparison.level:.3g}% interval"


def cells_of(figure: FigureComparison) -> tuple[str, str, str, str]:
    """The values of A and B, the change, and its interval: the same in every output."""
    interval = UNKNOWN
    if figure.low is not None and figure.high is not None:
        interval = f"{changed(figure, figure.low)} to {changed(figure, figure.high)}"
    a, b = (quantity(value, figure.unit) for value in (figure.a_typical, figure.b_typical))
    return a, b, changed(figure, figure.change), interval


def _footnotes(comparison: Comparison) -> list[str]:
    refusals = [f"NOT COMPARABLE, but forced: {refusal}" for refusal in comparison.refusals]
    return [*refusals, *comparison.notes, *_needed(comparison), _how_to_read(comparison)]


def _needed(comparison: Comparison) -> list[str]:
    """How many pairs or runs each open figure needs, in the order of the table; nothing if too few were made to
    estimate the noise."""
    open_ones = [
        figure for figure in comparison.headlines if figure.answer == "inconclusive" and figure.scale == "ratio"
    ]
    if not open_ones or min(len(comparison.a.runs), len(comparison.b.runs)) < FEWEST_FOR_NOISE:
        return []
    what = "pairs" if comparison.paired else "runs on each side"
    counts = ", ".join(f"{title_of(figure.name)} {figure.needed or f'over {MOST}'}" for figure in open_ones)
    return [
        f"To detect a change of {percent(comparison.band)} in noise like this, make about this many {what}: {counts}."
    ]


def _how_to_read(comparison: Comparison) -> str:
    return " ".join(
        [
            *_change_in_words(comparison),
            f"Equivalent: the whole interval lies within {percent(comparison.band)}.",
            *_errors_in_words(comparison),
        ]
    )


def _change_in_words(comparison: Comparison) -> list[str]:
    """How the change is estimated. One run against one has nothing to estimate."""
    if len(comparison.a.runs) == len(comparison.b.runs) == 1:
        return ["The change is of B against A."]
    runs = "all pairs of runs" if comparison.paired else "all runs"
    estimate = f"The change of B against A is estimated from {runs}, so it differs from the ratio of the medians."
    return ["A and B are medians over the runs.", estimate]


def _errors_in_words(comparison: Comparison) -> list[str]:
    """How often equal sides are called different, and what is corrected for the number of figures."""
    several, total = len(comparison.headlines) > 1, comparison.total_alpha
    together = f", over all {_figures(comparison)} together" if several else ""
    most = f"at most {comparison.alpha * 100:.3g} of 100 comparisons of equal sides report a difference{together}"
    if total is None:
        sentence = f"{most[0].upper()}{most[1:]}."
    else:
        sentence = f"At this look, {most}; at all looks together at most {total * 100:.3g}."
    return [
        sentence,
        *(["The verdict is corrected for the number of figures, the interval is not."] if several else []),
    ]


# JSON


def render_json(comparison: Comparison) -> str:
    """Everything that the other two outputs show, and the values of each run. Changes are fractions."""
    data: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "answer": comparison.answer,
        "headline": headline_of(comparison),
        "a": _side_values(comparison.a),
        "b": _side_values(comparison.b),
        **{
            name: getattr(comparison, name)
            for name in ("paired", "band", "alpha", "total_alpha", "level", "refusals", "notes")
        },
        "figures": [dataclasses.asdict(figure) for figure in comparison.figures],
        "curves": [dataclasses.asdict(curve) for curve in comparison.curves],
        "environment": [dataclasses.asdict(each) for each in comparison.environment],
        "workload": [dataclasses.asdict(each) for each in comparison.workload],
        "order": comparison.order,
    }
    return json.dumps(data, indent=1) + "\n"


def _side_values(side: Side) -> dict[str, Any]:
    runs = [{"path": as_text(str(run.path)), "label": run.label, "started_at": run.started_at} for run in side.runs]
    return {"title": side.title, "workload_hash": side.runs[0].workload_hash, "runs": runs}
