"""`loadtests list`: the named workloads, and what each is for."""

from __future__ import annotations

import argparse

from loadtests.formatting import render_table
from loadtests.workloads.profiles import PROFILES, Profile

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: there is nothing to choose."""


def main(arguments: argparse.Namespace) -> int:
    """Print the table; return the exit status."""
    rows = [
        [each.name, each.description, each.tells, f"{each.sockets:,}", _rate(each), f"{each.total_s:,.0f} s"]
        for each in PROFILES.values()
    ]
    print(render_table(["profile", "what it does", "what it tells", "sockets", "exchanges/s", "takes"], rows))
    return 0


def _rate(profile: Profile) -> str:
    return f"{profile.sockets * profile.rate:,.0f}" if profile.rate else "as fast as answered"
