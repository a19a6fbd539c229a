"""A comparison in words and tables: for the terminal, for a pull request's comment, and as JSON. Computes nothing."""

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
from loadtests.formatting import change, percent, quantity, render_table, title_of
from loadtests.inference.power import MOST
from loadtests.text_encoding import as_text

__all__ = [
    "COLOURS",
    "EMOJI",
    "bare_table",
    "change_of",
    "console_of",
    "headline_of",
    "render_json",
    "render_markdown",
    "render_terminal",
    "written_on",
]

SCHEMA_VERSION = 1
FEWEST_FOR_NOISE = 3
KIND = "gserver load test comparison"
COLOURS = {"better": "green", "worse": "bold red", "equivalent": "cyan", "inconclusive": "yellow"}
EMOJI = {"better": "\N{LARGE GREEN CIRCLE}", "worse": "\N{LARGE RED CIRCLE}", "equivalent": "\N{LARGE BLUE CIRCLE}"}
EMOJI["inconclusive"] = "\N{MEDIUM WHITE CIRCLE}"
# Short, so that a table fits into 80 columns.
_TITLES = {
    "error_rate": "errors",
    "server_cpu_per_exchange": "CPU per exchange",
    "server_rss_per_socket": "memory/connection",
    "server_rss_peak": "memory, peak",
}
_UNITS = {"exchanges/s": "/s"}


def headline_of(comparison: Comparison) -> str:
    """The whole in one sentence."""
    by_answer: dict[str, list[str]] = {}
    for figure in comparison.headlines:
        by_answer.setdefault(str(figure.answer), []).append(_title(figure))
    if not by_answer:
        return "Nothing can be said: the two sides have no headline figure in common."
    named = [f"{answer} in {_listed(by_answer[answer])}" for answer in ("worse", "better") if answer in by_answer]
    counted = [f"{len(by_answer[each])} {each}" for each in ("equivalent", "inconclusive") if each in by_answer]
    parts = ([f"B is {' and '.join(named)}"] if named else []) + ([", ".join(counted)] if counted else [])
    return f"{comparison.answer.capitalize()}: {'; '.join(parts)} (of {_figures(comparison)})."


def _figures(comparison: Comparison) -> str:
    count = len(comparison.headlines)
    return "1 figure" if count == 1 else f"{count} figures"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Terminal


def render_terminal(comparison: Comparison, width: int = 100, colour: bool = False) -> str:
    """For a terminal so many columns wide."""
    console = console_of(width, colour)
    console.print(Text(headline_of(comparison), style=COLOURS[comparison.answer]))
    console.print()
    for line in _sides(comparison):
        console.print(Text(line))
    for title, differences in _tables(comparison):
        console.print(Text(f"\n{title}"), _difference_table(differences))
    console.print()
    console.print(_figure_table(comparison))
    console.print()
    for line in _footnotes(comparison):
        console.print(Text(line))
    return written_on(console)


def console_of(width: int, colour: bool) -> Console:
    """One that keeps what is printed on it."""
    return Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False, emoji=False
    )


def written_on(console: Console) -> str:
    """What was printed on a console_of(), without blanks at the ends of lines."""
    written: io.StringIO = console.file  # type: ignore[assignment]
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def bare_table() -> Table:
    """Columns, and nothing drawn around them."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)


def _figure_table(comparison: Comparison) -> Table:
    table = bare_table()
    table.add_column("figure", ratio=None, overflow="fold")
    for title in ("A", "B", "change", _interval_title(comparison)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for figure in comparison.figures:
        style = COLOURS.get(str(figure.answer), "dim")
        table.add_row(_title(figure), *_cells(figure), Text(str(figure.answer or ""), style=style))
    return table


def _difference_table(differences: Sequence[KeyDifference]) -> Table:
    table = bare_table()
    for title in ("", "A", "B"):
        table.add_column(title, overflow="fold")
    for each in differences:
        table.add_row(each.key, each.a, each.b)
    return table


# Markdown


def render_markdown(comparison: Comparison) -> str:
    """Fit for a pull request's comment: the verdicts in sight, what else there is folded away."""
    header = ["figure", "A", "B", "change", _interval_title(comparison), "verdict"]
    rows = [
        [_title(figure), *_cells(figure), f"{EMOJI[figure.answer]} {figure.answer}" if figure.answer else ""]
        for figure in comparison.figures
        if figure.headline
    ]
    parts = [f"**{headline_of(comparison)}**", "\n".join(f"- {line}" for line in _sides(comparison))]
    parts += [_markdown_differences(title, found) for title, found in _tables(comparison)]
    parts += [render_table(header, rows)] if rows else []
    parts.append("\n".join(f"- {line}" for line in _footnotes(comparison)))
    if others := [[_title(figure), *_cells(figure)] for figure in comparison.figures if not figure.headline]:
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
    return f"{letter}: {side.title}, {count}, {side.runs[0].name}, from {min(run.started_at for run in side.runs)}"


def _tables(comparison: Comparison) -> list[tuple[str, Sequence[KeyDifference]]]:
    titles = ("The workloads differ:", "The environments differ:")
    tables = zip(titles, (comparison.workload, comparison.environment), strict=True)
    return [(title, differences) for title, differences in tables if differences]


def _interval_title(comparison: Comparison) -> str:
    return f"{100 * comparison.level:.3g}% interval"


def _title(figure: FigureComparison) -> str:
    return _TITLES.get(figure.name) or title_of(figure.name)


def _cells(figure: FigureComparison) -> list[str]:
    interval = "-"
    if figure.low is not None and figure.high is not None:
        interval = f"{change_of(figure, figure.low)} to {change_of(figure, figure.high)}"
    typical = [_value(figure, value) for value in (figure.a_typical, figure.b_typical)]
    return [*typical, change_of(figure, figure.change), interval]


def _value(figure: FigureComparison, value: float) -> str:
    return quantity(value, _UNITS.get(figure.unit, figure.unit))


def change_of(figure: FigureComparison, value: float) -> str:
    """A change of a figure, or an end of its interval, with its sign."""
    if figure.scale == "ratio":
        return change(value)
    return f"{'+' if value > 0 else ''}{_value(figure, value)}"


def _footnotes(comparison: Comparison) -> list[str]:
    refusals = [f"NOT COMPARABLE, and forced: {refusal}" for refusal in comparison.refusals]
    return [*refusals, *comparison.notes, *_needed(comparison), _how_to_read(comparison)]


def _needed(comparison: Comparison) -> list[str]:
    """How many it would take, in the order of the table; nothing where too few are known to say how noisy they are."""
    open_ones = [
        figure for figure in comparison.headlines if figure.answer == "inconclusive" and figure.scale == "ratio"
    ]
    if not open_ones or min(len(comparison.a.runs), len(comparison.b.runs)) < FEWEST_FOR_NOISE:
        return []
    what = "pairs" if comparison.paired else "runs on each side"
    counts = ", ".join(f"{_title(figure)} {figure.needed or f'over {MOST}'}" for figure in open_ones)
    return [f"To tell a change of {percent(comparison.band)}, by the noise seen, about so many {what}: {counts}."]


def _how_to_read(comparison: Comparison) -> str:
    together = f", over all {_figures(comparison)} together" if len(comparison.headlines) > 1 else ""
    return (
        "A and B are medians over the runs; the change is B against A. "
        f"Equivalent: the interval lies within {percent(comparison.band)}. "
        f"Equal sides are called different at most {comparison.alpha * 100:.3g} times in 100{together}."
    )


# JSON


def render_json(comparison: Comparison) -> str:
    """Everything that the other two show, and the values of each run; changes are fractions."""
    data: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "answer": comparison.answer,
        "headline": headline_of(comparison),
        "a": _side_values(comparison.a),
        "b": _side_values(comparison.b),
        **{name: getattr(comparison, name) for name in ("paired", "band", "alpha", "level", "refusals", "notes")},
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
