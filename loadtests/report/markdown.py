"""Render a report in Markdown: for report.md, a chat or a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadtests.formatting import aligned, render_table
from loadtests.report.run_tables import Table, figures_of, keys_of, latencies_of, types_of
from loadtests.report.summary import (
    Failure,
    KeyFigure,
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

__all__ = ["render_markdown", "render_markdown_of_all"]


def render_markdown(run: Run) -> str:
    """The report of one run."""
    return "\n\n".join([f"# {_text(title_of_run(run))}", *_parts(run, "##")]) + "\n"


def render_markdown_of_all(runs: Sequence[Run]) -> str:
    """The report of one run; for several, a table of their key figures and then the report of each."""
    if len(runs) == 1:
        return render_markdown(runs[0])
    parts = [f"# {len(runs)} runs", _side_by_side(runs)]
    for run in runs:
        parts += [f"## {_text(title_of_run(run))}", *_parts(run, "###")]
    return "\n\n".join(parts) + "\n"


def _side_by_side(runs: Sequence[Run]) -> str:
    """A column for each run. The verdicts are words; the other cells are figures, aligned at the decimal point."""
    columns = [
        [*map(_cell, (title, verdict)), *aligned([_cell(each) for each in cells])]
        for title, verdict, *cells in zip(*summary_of(runs), strict=True)
    ]
    header, *rows = zip(*columns, strict=True)
    return render_table(header, rows)


def _parts(run: Run, level: str) -> list[str]:
    heading = (f"{workload_of(run)}. {started(run)}", server_of(run), version_of(run))
    parts = [*(_text(line) for line in heading if line)]
    parts.append("\n".join(map(_key_figure, key_figures(run))))
    parts += [note] if (note := latency_note(run)) else []
    parts += [*_verdict(run), *_problems(run)]
    titled = {"By message type": types_of(run), "Latencies": latencies_of(run), "Figures": figures_of(run)}
    titled |= dict(keys_of(run))
    parts += [f"{level} {title}\n\n{_table(table)}" for title, table in titled.items() if table.rows]
    return parts


def _verdict(run: Run) -> list[str]:
    stamp = verdict_of(run)
    lists = [f"{title}:\n\n" + "\n".join(f"- {_text(each)}" for each in reasons) for title, reasons in stamp.parts]
    return [f"**{stamp.title}.** {stamp.sentence}".strip(), *lists]


def _problems(run: Run) -> list[str]:
    lines = [_failed(failure) for failure in failures_of(run)]
    lines += [f"- Warning: {_text(warning)}" for warning in run.warnings]
    return ["What went wrong:\n\n" + "\n".join(lines)] if lines else []


def _failed(failure: Failure) -> str:
    example = f"; the first: {_code(shortened(failure.example))}" if failure.example else ""
    return f"- Error: {_text(failure.what)}: {failure.count:,}{example}"


def _key_figure(key: KeyFigure) -> str:
    return f"- **{key.title} {key.value}**: {key.words}" + (f". {_text(key.why)}" if key.why else "")


def _table(table: Table) -> str:
    header = [_cell(text) for text in table.header]
    rows = [[_cell(text) for text in row] for row in table.rows]
    return "\n\n".join([render_table(header, rows), *map(_text, table.notes)])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Text in one line, with everything escaped that Markdown would read as HTML or emphasis."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(text)).replace("<", "&lt;")
    return re.sub(r"([*`\[]|\b_|_\b)", r"\\\1", text)


def _code(text: str) -> str:
    """Text as code, between more backticks than the text has in a row."""
    fence = "`" * (1 + max((len(found) for found in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
