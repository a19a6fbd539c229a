"""`loadtests doctor [PROFILE]`: checks before a run what this host can hold, and names the limits to raise.

Exit status 0; 1 if a limit is too low for the given profile; 2 if there is no such profile.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtests.exit_status import EXIT_FAILURE
from loadtests.host.capacity import Host, inspect_host
from loadtests.host.capacity_check import Level, Need, examine, fits, plan, shown_mib
from loadtests.workloads.profiles import PROFILES, Profile

__all__ = ["add_arguments", "main", "render", "render_all"]

DESCRIPTION = "Check what this host can hold, and name the limits to raise."
# Without a terminal: rich would take 80 columns.
PLAIN_WIDTH = 100
EXPECTED = f"one of {', '.join(PROFILES)}"
_COLOURS: dict[Level, str] = {"ok": "green", "doubt": "yellow", "short": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests doctor`."""
    parser.description = DESCRIPTION
    parser.add_argument("profile", metavar="PROFILE", nargs="?", help=f"{EXPECTED} (default: all)")


def main(arguments: argparse.Namespace) -> int:
    """Check this host for one profile, or for all; return the exit status."""
    name: str | None = arguments.profile
    if name is not None and name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: expected {EXPECTED}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    host = inspect_host()
    if name is not None:
        return 0 if render(host, _need(PROFILES[name]), console) else EXIT_FAILURE
    render_all(host, [_need(profile) for profile in PROFILES.values()], console)
    return 0


def _need(profile: Profile) -> Need:
    return Need(profile.name, profile.sockets, profile.connects_per_s)


def render(host: Host, need: Need, console: Console) -> bool:
    """Show all checks for one profile; return whether the host can hold it."""
    findings = examine(host, need)
    is_good = fits(findings)
    title = f"{need.name}: {need.sockets:,} sockets, {need.connects_per_s:,} connects per second"
    _show_table(console, title, [], [(finding.level, finding.check, finding.state) for finding in findings])
    for finding in findings:
        if finding.fix:
            console.print(Text(f"  {finding.check}: {finding.fix}", _COLOURS[finding.level]), soft_wrap=True)
    verdict = "this host can hold it" if is_good else "this host cannot hold it with its present limits"
    console.print(Text(f"{need.name}: {verdict}", "bold green" if is_good else "bold red"))
    return is_good


def render_all(host: Host, needs: Sequence[Need], console: Console) -> None:
    """Show one line for each profile."""
    rows = [_row(host, need) for need in needs]
    head = ["", "profile", "sockets", "processes", "addresses", "memory", "because of"]
    _show_table(console, "What this host can hold (processes: of the server, and as many of the swarm)", head, rows)


def _row(host: Host, need: Need) -> tuple[Level, *tuple[str, ...]]:
    findings, least = examine(host, need), plan(host, need)
    levels: tuple[Level, ...] = ("short", "doubt")
    worst: Level = next((level for level in levels if any(each.level == level for each in findings)), "ok")
    reasons = ", ".join(each.check for each in findings if each.level == worst != "ok")
    processes, addresses = str(least.processes), str(least.addresses)
    memory = shown_mib(least.memory_bytes)
    return (worst, need.name, f"{need.sockets:,}", processes, addresses, memory, reasons)


def _show_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[tuple[Level, *tuple[str, ...]]]
) -> None:
    """The first column is a level, coloured on a terminal; with a head, columns 2 to 5 are numbers."""
    table = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD if head else None,
        show_header=bool(head),
    )
    for column in range(len(rows[0])):
        justify: Literal["left", "right"] = "right" if head and 2 <= column <= 5 else "left"
        table.add_column(head[column] if head else "", justify=justify)
    for level, *cells in rows:
        table.add_row(Text(level, _COLOURS[level]), *map(escape, cells))
    console.print(table)
