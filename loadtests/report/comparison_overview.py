"""Render several comparisons as a table with a line for each, for the terminal and in Markdown. Computes no figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap

from rich.table import Table
from rich.text import Text

from loadtests.comparison.model import EQUIVALENT, INCONCLUSIVE, Comparison, FigureComparison
from loadtests.formatting import render_table, width_of
from loadtests.report.comparison_text import COLOURS, EMOJI, bare_table, cells_of, console_of, written_on
from loadtests.report.summary import UNKNOWN
from loadtests.results.figure_catalog import title_of

__all__ = ["NOTE", "SHOWN", "render_overview", "render_overview_markdown"]

#: The figures that decide between servers at a load that all of them sustain. Each comparison has the others too.
SHOWN = {
    name: title_of(name)
    for name in ("response_p50", "response_p99", "server_cpu_per_exchange", "server_rss_per_socket")
}
#: Blanks between two columns.
GAP = 2
NOTE = (
    "Changes are of B against A. A line has the figures of one comparison, or of several comparisons of the same "
    "servers that judge different figures, such as latency and memory. Of 100 comparisons of equal sides, at most 5 "
    "report a difference."
)


def render_overview(comparisons: Sequence[Comparison], width: int = 100, colour: bool = False) -> str:
    """The table for a terminal of `width` columns."""
    console = console_of(width, colour)
    console.print(
        _table([(a, b, [_verdict(each) for each in figures]) for a, b, figures in _lines(comparisons)], width)
    )
    console.print()
    console.print(Text(f"A change in brackets is inconclusive. {NOTE}"))
    return written_on(console)


def _table(lines: Sequence[tuple[str, str, Sequence[Text]]], width: int) -> Table:
    """If there is no room, the titles of figures wrap first, then the figures; the names of servers fold last."""
    columns = [*zip(*((a, b, *(text.plain for text in verdicts)) for a, b, verdicts in lines), strict=True)]
    widths = [max(map(width_of, column)) for column in columns]
    titles = ["A", "B", *SHOWN.values()]
    if _total(map(max, widths, map(len, titles))) > width:
        titles[2:] = [_wrapped(title, most) for title, most in zip(titles[2:], widths[2:], strict=True)]
    words = [_longest_word(cells) for cells in zip(titles[2:], *zip(*columns[2:], strict=True), strict=True)]
    keeps_names = _total([*widths[:2], *words]) <= width
    table = bare_table(GAP)
    for place, title in enumerate(titles):
        is_name = place < 2
        table.add_column(
            title, overflow="fold", no_wrap=is_name and keeps_names, min_width=None if is_name else words[place - 2]
        )
    for a, b, verdicts in lines:
        table.add_row(a, b, *verdicts)
    return table


def _total(widths: Iterable[int]) -> int:
    columns = list(widths)
    return sum(columns) + GAP * (len(columns) - 1)


def _wrapped(title: str, width: int) -> str:
    """`title` in lines of at most `width` columns, or of its longest word."""
    return "\n".join(wrap(title, max(width, _longest_word([title]))))


def _longest_word(cells: Iterable[str]) -> int:
    return max(len(word) for cell in cells for word in cell.split())


def _verdict(figure: FigureComparison | None) -> Text:
    if figure is None:
        return Text(UNKNOWN)
    answer, (_, _, change, _) = str(figure.answer), cells_of(figure)
    short: dict[str, str] = {INCONCLUSIVE: f"({change})", EQUIVALENT: answer}
    return Text(short.get(answer, f"{change} {answer}"), style=COLOURS[answer])


def render_overview_markdown(comparisons: Sequence[Comparison]) -> str:
    """The table in Markdown, with the intervals, for which a terminal has no room."""
    rows = [[a, b, *map(_verdict_with_interval, figures)] for a, b, figures in _lines(comparisons)]
    return f"{render_table(['A', 'B', *SHOWN.values()], rows)}\n\n{NOTE}\n"


def _verdict_with_interval(figure: FigureComparison | None) -> str:
    if figure is None:
        return UNKNOWN
    _, _, change, interval = cells_of(figure)
    between = f" ({interval})" if interval != UNKNOWN else ""
    return f"{change}{between} {EMOJI[str(figure.answer)]} {figure.answer}"


def _lines(comparisons: Sequence[Comparison]) -> list[tuple[str, str, list[FigureComparison | None]]]:
    """(A, B, figures) of each line. Comparisons of the same two servers that judge different figures share a line."""
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
