"""Several comparisons on one page: a line each, for the terminal and in Markdown. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from loadtests.comparison.model import EQUIVALENT, INCONCLUSIVE, Comparison, FigureComparison
from loadtests.formatting import render_table
from loadtests.report.comparison_text import COLOURS, EMOJI, bare_table, change_of, console_of, written_on

__all__ = ["NOTE", "SHOWN", "render_overview", "render_overview_markdown"]

#: What decides between servers, at a rate that all of them carry; the comparison itself has the other figures.
SHOWN = {
    "response_p50": "p50",
    "response_p99": "p99",
    "server_cpu_per_exchange": "CPU/exchange",
    "server_rss_per_socket": "memory/socket",
}
NOTE = (
    "Changes of B against A; p50 and p99 are of the response time. A line has the figures of one comparison, or of "
    "several of the same servers that judge different figures, such as latency and memory. A comparison calls equal "
    "sides different in 5 of 100 cases at most."
)


def render_overview(comparisons: Sequence[Comparison], width: int = 100, colour: bool = False) -> str:
    """For a terminal so many columns wide."""
    console, table = console_of(width, colour), bare_table()
    for title in ("A", "B", *SHOWN.values()):
        table.add_column(title, overflow="fold")
    for a, b, figures in _lines(comparisons):
        table.add_row(a, b, *map(_told, figures))
    console.print(table)
    console.print()
    console.print(Text(f"In brackets what is inconclusive. {NOTE}"))
    return written_on(console)


def _told(figure: FigureComparison | None) -> Text:
    if figure is None:
        return Text("-")
    answer, change = str(figure.answer), change_of(figure, figure.change)
    short: dict[str, str] = {INCONCLUSIVE: f"({change})", EQUIVALENT: answer}
    return Text(short.get(answer, f"{change} {answer}"), style=COLOURS[answer])


def render_overview_markdown(comparisons: Sequence[Comparison]) -> str:
    """With the intervals, which have no room on a terminal."""
    rows = [[a, b, *map(_marked, figures)] for a, b, figures in _lines(comparisons)]
    return f"{render_table(['A', 'B', *SHOWN.values()], rows)}\n\n{NOTE}\n"


def _marked(figure: FigureComparison | None) -> str:
    if figure is None:
        return "-"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" ({change_of(figure, figure.low)} to {change_of(figure, figure.high)})"
    return f"{change_of(figure, figure.change)}{interval} {EMOJI[str(figure.answer)]} {figure.answer}"


def _lines(comparisons: Sequence[Comparison]) -> list[tuple[str, str, list[FigureComparison | None]]]:
    """A, B, and the figures of a line: of all comparisons of the same two servers that judge different figures."""
    lines: list[tuple[str, str, dict[str, FigureComparison]]] = []
    for comparison in comparisons:
        a, b = comparison.a.title, comparison.b.title
        judged = {figure.name: figure for figure in comparison.headlines if figure.name in SHOWN}
        line = next((found for *sides, found in lines if sides == [a, b] and not found.keys() & judged), None)
        if line is None:
            lines.append((a, b, judged))
        else:
            line.update(judged)
    return [(a, b, [found.get(name) for name in SHOWN]) for a, b, found in lines]
