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

from loadtests.comparison import Comparison, FigureComparison, KeyDifference, Side
from loadtests.text import human, percent, render_table, title_of

__all__ = ["headline_of", "render_json", "render_markdown", "render_terminal"]

SCHEMA_VERSION = 1
KIND = "gserver load test comparison"
_COLOURS = {"better": "green", "worse": "bold red", "equivalent": "cyan", "inconclusive": "yellow"}
_SIGNS = {"better": "+", "worse": "!", "equivalent": "=", "inconclusive": "?"}
_EMOJI = {"better": "\N{LARGE GREEN CIRCLE}", "worse": "\N{LARGE RED CIRCLE}", "equivalent": "\N{LARGE BLUE CIRCLE}"}
_EMOJI["inconclusive"] = "\N{MEDIUM WHITE CIRCLE}"
_KINDS = {"response": "response time", "service": "service time"}


def headline_of(comparison: Comparison) -> str:
    """The whole in one sentence."""
    by_answer: dict[str, list[str]] = {}
    for figure in comparison.headlines:
        by_answer.setdefault(str(figure.answer), []).append(_title(figure))
    parts = [
        f"{answer} in {_listed(by_answer[answer])}" if answer in ("worse", "better") else f"{answer} in {len(names)}"
        for answer in ("worse", "better", "equivalent", "inconclusive")
        if (names := by_answer.get(answer))
    ]
    if not parts:
        return "Nothing can be said: the two sides have no headline figure in common."
    return f"{comparison.answer.capitalize()}: B is {', '.join(parts)} of {len(comparison.headlines)} figures."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Terminal


def render_terminal(comparison: Comparison, width: int = 100, colour: bool = False) -> str:
    """For a terminal so many columns wide."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False, emoji=False
    )
    console.print(Text(headline_of(comparison), style=_COLOURS[comparison.answer]))
    console.print()
    for line in _sides(comparison):
        console.print(Text(line))
    for title, differences in _tables(comparison):
        console.print(Text(f"\n{title}"), _difference_table(differences))
    console.print()
    console.print(_figure_table(comparison))
    for line in _footnotes(comparison):
        console.print(Text(line))
    written: io.StringIO = console.file  # type: ignore[assignment]
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _figure_table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("figure", ratio=None, overflow="fold")
    for title in ("A", "B", "B against A", _interval_title(comparison)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for figure in comparison.figures:
        style = _COLOURS.get(str(figure.answer), "dim")
        table.add_row(_title(figure), *_cells(figure), Text(_verdict(figure), style=style))
    return table


def _difference_table(differences: Sequence[KeyDifference]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for title in ("", "A", "B"):
        table.add_column(title, overflow="fold")
    for each in differences:
        table.add_row(each.key, each.a, each.b)
    return table


# Markdown


def render_markdown(comparison: Comparison) -> str:
    """Fit for a pull request's comment: the verdicts in sight, what else there is folded away."""
    header = ["figure", "A", "B", "B against A", _interval_title(comparison), "verdict"]
    rows = [
        [_title(figure), *_cells(figure), f"{_EMOJI[figure.answer]} {_verdict(figure)}" if figure.answer else ""]
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
    name, _, quantile = figure.name.rpartition("_")
    return f"{_KINDS[name]} {quantile}" if name in _KINDS else title_of(figure.name)


def _cells(figure: FigureComparison) -> list[str]:
    interval = "-"
    if figure.low is not None and figure.high is not None:
        interval = f"{_change(figure, figure.low)} to {_change(figure, figure.high)}"
    typical = [human(figure.a_typical, figure.unit), human(figure.b_typical, figure.unit)]
    return [*typical, _change(figure, figure.change), interval]


def _change(figure: FigureComparison, value: float) -> str:
    if figure.scale == "ratio":
        return percent(value, signed=True)
    return f"{'+' if value > 0 else ''}{human(value, figure.unit)}"


def _verdict(figure: FigureComparison) -> str:
    return ": ".join(filter(None, [str(figure.answer or ""), figure.reason]))


def _footnotes(comparison: Comparison) -> list[str]:
    refusals = [f"NOT COMPARABLE, and forced: {refusal}" for refusal in comparison.refusals]
    return [*refusals, *comparison.notes, _how_to_read(comparison)]


def _how_to_read(comparison: Comparison) -> str:
    return (
        f"A and B are medians over the runs. Equivalent: the interval lies within {percent(comparison.band)}. "
        f"Equal sides are called different at most {comparison.alpha * 100:.3g} times in 100, "
        f"over all {len(comparison.headlines)} figures together."
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
    runs = [{"path": str(run.path), "label": run.label, "started_at": run.started_at} for run in side.runs]
    return {"title": side.title, "workload_hash": side.runs[0].workload_hash, "runs": runs}
