"""A report in Markdown, for a file beside the run, a chat or a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadtests.formatting import render_table
from loadtests.report.run_tables import Table, figures_of, keys_of, latencies_of, types_of
from loadtests.report.summary import (
    Failure,
    Saying,
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

__all__ = ["render_markdown", "render_markdown_of_all"]


def render_markdown(run: Run) -> str:
    """The whole run."""
    return "\n\n".join([f"# {_text(title_of_run(run))}", *_parts(run, "##")]) + "\n"


def render_markdown_of_all(runs: Sequence[Run]) -> str:
    """One run, or several beside each other and then each of them."""
    if len(runs) == 1:
        return render_markdown(runs[0])
    header, *rows = summary_of(runs)
    parts = [f"# {len(runs)} runs", _table(Table(header, tuple(rows)))]
    for run in runs:
        parts += [f"## {_text(title_of_run(run))}", *_parts(run, "###")]
    return "\n\n".join(parts) + "\n"


def _parts(run: Run, level: str) -> list[str]:
    heading = (f"{workload_of(run)}. {started(run)}", server_of(run), version_of(run))
    parts = [*(_text(line) for line in heading if line)]
    parts.append("\n".join(map(_saying, sayings(run))))
    parts += [note] if (note := latency_note(run)) else []
    parts += [*_verdict(run), *_problems(run)]
    titled = {"By type of message": types_of(run), "Latencies": latencies_of(run), "Figures": figures_of(run)}
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


def _saying(saying: Saying) -> str:
    return f"- **{saying.value}** {saying.words}" + (f". {_text(saying.why)}" if saying.why else "")


def _table(table: Table) -> str:
    header = [_cell(text) for text in table.header]
    rows = [[_cell(text) for text in row] for row in table.rows]
    return "\n\n".join([render_table(header, rows), *map(_text, table.notes)])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Text that Markdown shows as it is: in one line, and without what would be taken for HTML or emphasis."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(text)).replace("<", "&lt;")
    return re.sub(r"([*`\[]|\b_|_\b)", r"\\\1", text)


def _code(text: str) -> str:
    """Text as code, between more backticks than it has in a row."""
    fence = "`" * (1 + max((len(found) for found in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
