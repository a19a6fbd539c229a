"""A report on a terminal, by rich; the same text without colours where there is none."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadtests.report.summary import (
    SHORTFALLS,
    Failure,
    failures_of,
    latency_note,
    one_line,
    sayings,
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
# Of the classes of failure: all of them are in the other outputs.
MOST_FAILURES = 10
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
        table.add_row(saying.value, Text(f"{saying.words}. {saying.why}" if saying.why else saying.words))
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
    """The verdict: its state, what the server did not do, what limits belief; and what went wrong."""
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
    header, *rows = summary_of(runs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(header[0])
    for title in header[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
