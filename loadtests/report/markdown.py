"""A report in Markdown, for a file beside the run, a chat or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.figures import ENOUGH_BEYOND, QUANTILES, Figure
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
from loadtests.text import quantity, render_table, title_of

__all__ = ["render_markdown", "render_markdown_of_all"]


_OF_FEW = f'"- of 3" stands for a percentile of 3 values: at least {ENOUGH_BEYOND} must lie beyond one that is stated.'


def render_markdown(run: Run) -> str:
    """The whole run."""
    return "\n\n".join([f"# {title_of_run(run)}", *_parts(run, "##")]) + "\n"


def render_markdown_of_all(runs: Sequence[Run]) -> str:
    """One run, or several beside each other and then each of them."""
    if len(runs) == 1:
        return render_markdown(runs[0])
    header, *rows = summary_of(runs)
    parts = [f"# {len(runs)} runs", render_table(*_escaped(header, rows))]
    for run in runs:
        parts += [f"## {title_of_run(run)}", *_parts(run, "###")]
    return "\n\n".join(parts) + "\n"


def _escaped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    return [_cell(text) for text in header], [[_cell(text) for text in row] for row in rows]


def _parts(run: Run, level: str) -> list[str]:
    stamp = verdict_of(run)
    remarks = [*stamp.reasons, *problems_of(run)]
    parts = [f"{workload_of(run)}. {started(run)}", f"**{stamp.title}.** {stamp.sentence}".strip()]
    if remarks:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    parts.append("\n".join(f"- **{saying.value}** {saying.words}" for saying in sayings(run)))
    parts += [note] if (note := latency_note(run)) else []
    if latencies := _latency_table(run):
        parts.append(f"{level} Latencies\n\n{latencies}")
    parts.append(f"{level} Figures\n\n{_figure_table(run)}")
    keys = {
        "Workload": {**run.workload, "hash": run.workload_hash},
        "Server": run.server,
        "Environment": run.environment,
    }
    parts += [f"{level} {title}\n\n{_key_table(values)}" for title, values in keys.items() if values]
    return parts


def _latency_table(run: Run) -> str:
    """A row for each series whose figures are quantiles."""
    rows = []
    for name in _timed(run):
        figures = [run.figure(f"{name}_{quantile}") for quantile in QUANTILES]
        rows.append([_cell(_series(name)), *(_said(figure) for figure in figures)])
    if not rows:
        return ""
    is_marked = any(figure.is_of_few for figure in run.figures)
    return render_table(["", *QUANTILES], rows) + (f"\n\n{_OF_FEW}" if is_marked else "")


def _timed(run: Run) -> list[str]:
    return [figure.name.removesuffix("_p50") for figure in run.figures if figure.name.endswith("_p50")]


def _series(name: str) -> str:
    kind, _, series = name.partition("_")
    if kind not in ("service", "response"):
        return name.replace("_", " ")
    return f"{kind} time, {series or 'all exchanges'}"


def _said(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"- of {figure.count:,}" if figure.is_of_few else quantity(figure.value, figure.unit)


def _figure_table(run: Run) -> str:
    latencies = {f"{name}_{quantile}" for name in _timed(run) for quantile in QUANTILES}
    rows = [
        [title_of(figure.name), _said(figure), _interval(figure)]
        for figure in run.figures
        if figure.name not in latencies
    ]
    return render_table(["figure", "value", "95% interval"], rows)


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{quantity(figure.low, figure.unit)} to {quantity(figure.high, figure.unit)}"


def _key_table(values: Mapping[str, Any]) -> str:
    return render_table(["", "value"], [[key, _cell(str(value))] for key, value in values.items()])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
