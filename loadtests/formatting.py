"""Formats numbers and tables for people, the same for terminals and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap
from unicodedata import east_asian_width

__all__ = [
    "aligned",
    "at_point",
    "change",
    "distinct_from",
    "is_figures",
    "number",
    "percent",
    "quantity",
    "render_table",
    "render_text_table",
    "width_of",
]

# The unit of a figure in run.json -> the units in which it is shown, with their sizes, the smallest first. A count has
# no unit: the name of the figure names what is counted.
_SCALES = {
    "us": (("µs", 1.0), ("ms", 1e3), ("s", 1e6)),
    "ms": (("ms", 1.0), ("s", 1e3)),
    "KiB": (("KiB", 1.0), ("MiB", 1024.0), ("GiB", 1024.0**2)),
    "MiB": (("MiB", 1.0), ("GiB", 1024.0)),
    "exchanges/s": (("/s", 1.0),),
    "switches/s": (("/s", 1.0),),
    **dict.fromkeys(("attempts", "connects", "descriptors", "exchanges", "processes", "sockets"), (("", 1.0),)),
}
# A cell of a table with a number: the part up to the decimal point, and the rest with its unit. No emoji.
_FIGURE = re.compile(
    r"(?P<whole>(?:\* )?(?:at least |over )?[(+-]?\d[\d,]*)(?P<rest>(?:\.\d+)?(?:(?:x|%|\)|\s)[\w\s%/µ.,+()-]*)?)"
)
# Cells of a column of figures that show no number.
_NO_FIGURE = re.compile(r"|-|- of [\d,]+|withheld")


def number(value: float) -> str:
    """Format a number with three significant digits (two below 1) and grouped thousands; a whole number in full.

    The rounded value decides the number of decimals: 9.999 and 10.04 are both 10.0, and 999.6 is 1,000.
    """
    if value == int(value):
        return f"{int(value):,}"
    exponent = _exponent(value, 3)
    decimals = max(0, 2 - exponent) if exponent >= 0 else max(2, 1 - _exponent(value, 2))
    return f"{value:,.{decimals}f}"


def _exponent(value: float, digits: int) -> int:
    """The power of ten of a value after rounding to `digits` significant digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def quantity(value: float, unit: str) -> str:
    """Format a figure in the unit that fits its size: 6.48 ms, not 6,480 µs. `unit` is that of run.json."""
    scales = _SCALES.get(unit, ((unit, 1.0),))
    name, size = scales[0]
    for larger_name, larger in scales[1:]:
        if abs(float(number(value / size).replace(",", ""))) * size >= larger:
            name, size = larger_name, larger
    return f"{number(value / size)}{'' if name.startswith('%') else ' '}{name}".strip()


def percent(fraction: float, signed: bool = False) -> str:
    """Format a fraction in percent, with enough decimals that a small value does not look like zero."""
    value = 100 * fraction
    decimals = 0 if round(abs(value), 1) >= 100 or value == int(value) else 1 if round(abs(value), 2) >= 1 else 2
    shown = f"{value:{'+' if signed and round(value, decimals) else ''},.{decimals}f}"
    return f"{0:.{decimals}f}%" if float(shown.replace(",", "")) == 0 else shown + "%"


def distinct_from(value: float, limit: float, decimals: int = 0) -> str:
    """Format a value that is beyond a limit, with enough decimals to differ from it: 85.2 where the limit is 85."""
    while decimals < 6 and round(value, decimals) == round(limit, decimals):
        decimals += 1
    return f"{value:,.{decimals}f}"


def change(fraction: float) -> str:
    """Format a relative change: in percent with its sign, or as a multiple from tenfold on (23.1x)."""
    if fraction < 10:
        return percent(fraction, signed=True)
    return f"{number(1 + fraction)}x"


# Tables


def is_figures(cells: Sequence[str]) -> bool:
    """Whether a column of a table has figures (and cells for missing ones), not words."""
    return any(map(_FIGURE.fullmatch, cells)) and all(
        _FIGURE.fullmatch(cell) or _NO_FIGURE.fullmatch(cell) for cell in cells
    )


def aligned(cells: Sequence[str]) -> list[str]:
    """Pad the cells of a column to one width: figures at the decimal point, words to the left.

    A cell without a figure among figures ("-", "withheld") ends at the decimal point, or is aligned to the left.
    """
    if not is_figures(cells):
        width = max(map(width_of, cells), default=0)
        return [_padded(cell, width) for cell in cells]
    found = [_FIGURE.fullmatch(cell) for cell in cells]
    whole, rest = (max(len(each[part]) for each in found if each) for part in ("whole", "rest"))
    width = max(whole + rest, *(len(cell) for cell in cells))
    return [
        f"{each['whole'].rjust(width - rest)}{each['rest'].ljust(rest)}"
        if each
        else _missing(cell, width - rest, width)
        for cell, each in zip(cells, found, strict=True)
    ]


def _missing(cell: str, whole: int, width: int) -> str:
    return cell.rjust(whole).ljust(width)


def at_point(cell: str) -> tuple[str, str]:
    """Split a cell at its decimal point: ("1", ".30 ms"). The second part of a cell without a number is ""."""
    found = _FIGURE.fullmatch(cell)
    return (found["whole"], found["rest"]) if found else (cell, "")


def width_of(text: str) -> int:
    """How many columns a text takes on a terminal: an emoji takes two."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def render_text_table(header: Sequence[str], rows: Sequence[Sequence[str]], title_width: int = 14) -> str:
    """Render a table for a terminal: as render_table(), without lines, and with titles that wrap at `title_width`."""
    columns = []
    titles = [wrap(title, title_width) or [""] for title in header]
    height = max(map(len, titles))
    for lines, *cells in zip(titles, *rows, strict=True):
        is_right, shown = is_figures(cells), aligned(cells)
        above = [*[""] * (height - len(lines)), *lines]
        width = max(map(width_of, (*above, *shown)))
        columns.append([_padded(cell, width, is_right) for cell in (*above, *shown)])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table that is also readable as plain text: words to the left, figures at the decimal point.

    The first column has the titles of the rows, which are words.
    """
    columns, rules = [], []
    for place, (title, *cells) in enumerate(zip(header, *rows, strict=True)):
        is_right = place > 0 and is_figures(cells)
        shown = aligned(cells) if is_right else cells
        width = max(map(width_of, (title, *shown)))
        columns.append([_padded(cell, width, is_right) for cell in (title, *shown)])
        rules.append("-" * (width + 1) + (":" if is_right else "-"))
    lines = ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])


def _padded(text: str, width: int, to_the_right: bool = False) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if to_the_right else text + blanks
