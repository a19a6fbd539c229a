"""Whether the kernel's OOM killer was at work: its count for the control group, at two moments.

The kernel logs who it kills, but only root may read that log, and a container has none. What everybody may read is how
many processes of a control group it has killed: `oom_kill` in memory.events (cgroup v2) or memory.oom_control (v1),
cgroups(7). Where no group can be read, the count of the whole machine stands in /proc/vmstat.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["OomWatch"]

_MACHINE = "/proc/vmstat"


@dataclass(frozen=True)
class OomWatch:
    """The count of one file at the moment of begin()."""

    path: str | None  # None: there is nothing to read
    before: int = 0

    @classmethod
    def begin(cls) -> OomWatch:
        """Watch the control group that this process is in now."""
        for path in (*_group_files(), _MACHINE):
            count = _count(path)
            if count is not None:
                return cls(path, count)
        return cls(None)

    def kills(self) -> int | None:
        """How many processes were killed since begin(); None if that cannot be known."""
        now = None if self.path is None else _count(self.path)
        return None if now is None else max(0, now - self.before)

    def explain(self) -> str:
        """What is to be said of a process that got SIGKILL from nobody known."""
        kills = self.kills()
        if kills is None:
            return "sent by another process, or by the kernel's OOM killer"
        where = "on this machine" if self.path == _MACHINE else "in its control group"
        if kills:
            killed = "1 process" if kills == 1 else f"{kills} processes"
            return f"the kernel's OOM killer has killed {killed} {where} since it started: memory ran out"
        return f"sent by another process; the kernel's OOM killer has killed no process {where} since it started"


def _count(path: str) -> int | None:
    try:
        with open(path) as file:
            lines = dict(line.split(maxsplit=1) for line in file)
        return int(lines["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


def _group_files(proc: str = "/proc/self") -> list[str]:
    """The files that may hold the count for the control group of a process, the more exact ones first."""
    try:
        with open(f"{proc}/cgroup", "rb") as groups, open(f"{proc}/mountinfo", "rb") as mounts:
            paths = _paths(os.fsdecode(groups.read()))
            mounted = [os.fsdecode(line).split() for line in mounts]
    except OSError:
        return []
    found = []
    for fields in mounted:
        root, point = fields[3], fields[4]
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == "cgroup" and "memory" in options and "memory" in paths:
            found.append(os.path.join(_below(point, root, paths["memory"]), "memory.oom_control"))
        elif kind == "cgroup2" and "" in paths:
            found.append(os.path.join(_below(point, root, paths[""]), "memory.events"))
    return found


def _paths(text: str) -> dict[str, str]:
    """Controller -> path; "" for version 2. A line is hierarchy:controllers:path."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _below(point: str, root: str, path: str) -> str:
    """Where a group is seen: a container may have only its own part of the tree mounted."""
    inside = path.removeprefix(root) if root != "/" else path
    return os.path.join(point, inside.strip("/"))
