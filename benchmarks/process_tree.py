"""What a process and all its descendants have used: processor time and memory, from /proc.

Processor time is counted in clock ticks (10 ms on most kernels), user and system together, and with it that of children
that have ended and were waited for, so that it never falls. Memory is what is resident: smaps_rollup's Rss, which
counts pages; that of stat and statm is summed up lazily and lags behind by megabytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Usage

__all__ = ["ProcessStat", "parse_rss", "parse_stat", "tree_of", "usage_of"]

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Where the fields stand behind the name of the program in /proc/PID/stat; proc(5) counts two more.
_PARENT, _UTIME, _CSTIME = 1, 11, 14


@dataclass(frozen=True)
class ProcessStat:
    pid: int
    parent: int
    cpu_ticks: int


def parse_stat(text: str) -> ProcessStat:
    """The content of /proc/PID/stat; the program's name in it may hold spaces and parentheses."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    ticks = sum(int(field) for field in fields[_UTIME : _CSTIME + 1])
    return ProcessStat(int(head.partition(" ")[0]), int(fields[_PARENT]), ticks)


def parse_rss(text: str) -> int:
    """The resident bytes that /proc/PID/smaps_rollup tells; 0 for a process that has no memory any more."""
    found = re.search(r"^Rss:\s+(\d+) kB$", text, re.M)
    return int(found[1]) * 1024 if found else 0


def tree_of(root: int, processes: Iterable[ProcessStat]) -> list[ProcessStat]:
    """The process `root` and its descendants among `processes`, in any order."""
    children: dict[int, list[ProcessStat]] = {}
    found = []
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:
        found += children.get(process.pid, [])
    return found


def usage_of(root: int) -> Usage:
    """What the tree of the process `root` has used by now; processes that end meanwhile are left out."""
    tree = tree_of(root, _all_processes())
    return Usage(sum(each.cpu_ticks for each in tree) * TICK_S, sum(_rss_of(each.pid) for each in tree))


def _all_processes() -> Iterable[ProcessStat]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (text := _read(entry / "stat")):
            yield parse_stat(text)


def _rss_of(pid: int) -> int:
    return parse_rss(_read(PROC / str(pid) / "smaps_rollup"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
