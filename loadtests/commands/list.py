"""`loadtests list`: shows the profiles, and what each is for."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from loadtests.workloads.profiles import PROFILES, Profile

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Show the profiles: the load of each, and what it is for."
WIDTH = 100
HEAD = ("profile", "sockets", "exchanges/s", "takes", "what it measures, and the load")
GAP = "  "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`loadtests list` has no arguments."""
    parser.description = DESCRIPTION


def main(arguments: argparse.Namespace) -> int:
    """Print the table; return the exit status."""
    print(render_profiles(list(PROFILES.values())))
    return 0


def render_profiles(profiles: Sequence[Profile]) -> str:
    """A table of at most 100 columns: words are left-aligned, numbers right-aligned, the load is on a second line."""
    rows = [(each.name, f"{each.sockets:,}", _rate(each), f"{each.total_s:,.0f} s", each.purpose) for each in profiles]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), HEAD[:-1], strict=True)]
    lines = [_line(HEAD, widths)]
    for profile, row in zip(profiles, rows, strict=True):
        indent = " " * (widths[0] + len(GAP))
        load = textwrap.wrap(profile.description, WIDTH, initial_indent=indent, subsequent_indent=indent)
        lines += [_line(row, widths), *load]
    return "\n".join(lines)


def _line(cells: tuple[str, ...], widths: Sequence[int]) -> str:
    name, *numbers, text = cells
    aligned = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
    return GAP.join([f"{name:{widths[0]}}", *aligned, text])


def _rate(profile: Profile) -> str:
    """Of all users together; "max" for a profile without pauses."""
    return f"{profile.sockets * profile.rate:,.0f}" if profile.rate else "max"
