"""Render a report for a terminal with rich, or as the same text without colours."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadtests.formatting import aligned
from loadtests.report.summary import (
    SHORTFALLS,
    Failure,
    failures_of,
    key_figures,
    latency_note,
    one_line,
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

__all__ = ["WIDTH", "render_summary", "render_terminal", "shown_runs"]

WIDTH = 100
# Classes of failure that are shown; the other outputs have all of them.
MOST_FAILURES = 10
COLOURS = {"valid": "green", "generator-bound": "yellow", "noisy-host": "yellow"}


def render_terminal(runs: Sequence[Run], width: int = WIDTH) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(shown_runs(runs))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def render_summary(run: Run) -> str:
    """The report of one run as plain text."""
    return render_terminal([run])


def shown_runs(runs: Sequence[Run]) -> RenderableType:
    """The report of one run; for several, a table of their key figures and then the verdict of each."""
    if len(runs) == 1:
        return _run(runs[0])
    return Group(_beside(runs), *(part for run in runs for part in ("", _heading(run), _remarks(run))))


def _run(run: Run) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(style="dim")
    keys = key_figures(run)
    for key, value in zip(keys, aligned([each.value for each in keys]), strict=True):
        table.add_row(key.title, value, Text(f"{key.words}. {key.why}" if key.why else key.words))
    parts: list[RenderableType] = [_heading(run), "", Padding(table, (0, 0, 0, 2)), ""]
    if note := latency_note(run):
        parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2)), ""]
    return Group(*parts, _remarks(run))


def _heading(run: Run) -> RenderableType:
    lines = (f"{workload_of(run)}. {started(run)}", server_of(run), version_of(run))
    return Group(
        Text(one_line(title_of_run(run)), style="bold"),
        *(Text(line, style="dim", overflow="fold") for line in lines if line),
    )


def _remarks(run: Run) -> RenderableType:
    """The verdict: its state and reasons; then failures and warnings."""
    stamp = verdict_of(run)
    verdict = Text.assemble((f"{stamp.title}.", f"bold {COLOURS.get(stamp.state, 'red')}"), f" {stamp.sentence}")
    parts: list[RenderableType] = [verdict]
    for title, reasons in stamp.parts:
        parts.append(Text(f"  {title}:", style="bold red" if title == SHORTFALLS else "bold"))
        parts += [_indented(reason, 4) for reason in reasons]
    failures = failures_of(run)
    for failure in failures[:MOST_FAILURES]:
        parts += _failed(failure)
    if (left := len(failures) - MOST_FAILURES) > 0:
        parts.append(_indented(f"{left:,} more classes of failure; `loadtests report RUN --markdown` prints all.", 2))
    parts += [_indented(f"Warning: {warning}", 2) for warning in run.warnings]
    return Group(*parts)


def _failed(failure: Failure) -> list[RenderableType]:
    lines: list[RenderableType] = [_indented(f"Error: {one_line(failure.what)}: {failure.count:,}", 2)]
    if failure.example:
        lines.append(_indented(f"the first: {shortened(failure.example)}", 4))
    return lines


def _indented(text: str, columns: int) -> RenderableType:
    return Padding(Text(text, overflow="fold"), (0, 0, 0, columns))


def _beside(runs: Sequence[Run]) -> Table:
    """A column for each run: its words to the left, its figures at their decimal points."""
    header, verdicts, *rows = summary_of(runs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(title)
    columns = [aligned(column) for column in zip(*rows, strict=True)]
    table.add_row(*verdicts)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table
