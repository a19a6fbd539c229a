"""A report on a terminal, by rich; the same text without colours where there is none."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadtests.report.words import (
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

__all__ = ["WIDTH", "render_summary", "render_terminal", "shown_runs"]

WIDTH = 100
COLOURS = {"valid": "green", "generator-bound": "yellow", "noisy-host": "yellow"}


def render_terminal(runs: Sequence[Run], width: int = WIDTH) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(shown_runs(runs))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def render_summary(run: Run) -> str:
    """What a person wants to know at the end of a run."""
    return render_terminal([run])


def shown_runs(runs: Sequence[Run]) -> RenderableType:
    """The report of a run, or a table of several and then what each says of itself."""
    if len(runs) == 1:
        return _run(runs[0])
    return Group(_beside(runs), *(part for run in runs for part in ("", _heading(run), _remarks(run))))


def _run(run: Run) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column()
    for saying in sayings(run):
        table.add_row(saying.value, saying.words)
    parts: list[RenderableType] = [_heading(run), _remarks(run), "", Padding(table, (0, 0, 0, 2))]
    if note := latency_note(run):
        parts += ["", Padding(Text(note, style="dim"), (0, 0, 0, 2))]
    return Group(*parts)


def _heading(run: Run) -> RenderableType:
    return Group(
        Text(title_of_run(run), style="bold"),
        Text(f"{workload_of(run)}. {started(run)}", style="dim"),
    )


def _remarks(run: Run) -> RenderableType:
    """The verdict with its reasons, and what went wrong."""
    stamp = verdict_of(run)
    verdict = Text.assemble((f"{stamp.title}.", f"bold {COLOURS.get(stamp.state, 'red')}"), f" {stamp.sentence}")
    lines = [Text(f"  {text}") for text in (*stamp.reasons, *problems_of(run))]
    return Group(verdict, *lines)


def _beside(runs: Sequence[Run]) -> Table:
    header, *rows = summary_of(runs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(header[0])
    for title in header[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
