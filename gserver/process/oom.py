"""Detects kills by the kernel's OOM killer: compares its counter for the control group at two times.

The kernel logs the processes that it kills, but only root may read that log, and a container has none. All users may
read the number of killed processes of a control group: `oom_kill` in memory.events (cgroup v2) or memory.oom_control
(v1), cgroups(7). If no group can be read, /proc/vmstat has the number for the whole machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from gserver.config.control_groups import control_groups

__all__ = ["OomWatch"]

_MACHINE = "/proc/vmstat"


@dataclass(frozen=True)
class OomWatch:
    """The counter of one file at the time of begin()."""

    path: str | None  # None: no counter can be read
    before: int = 0

    @classmethod
    def begin(cls) -> OomWatch:
        """Read the counter of the control group of this process, or of the machine."""
        for path in (*_group_files(), _MACHINE):
            count = _count(path)
            if count is not None:
                return cls(path, count)
        return cls(None)

    def kills(self) -> int | None:
        """Return how many processes were killed since begin(); None if it is not known."""
        now = None if self.path is None else _count(self.path)
        return None if now is None else max(0, now - self.before)

    def explain(self) -> str:
        """Return, as text, the possible cause of a SIGKILL that the arbiter did not send."""
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
    """Return the files that may have the counter for the control group of a process, the more precise ones first."""
    names = {1: "memory.oom_control", 2: "memory.events"}
    return [os.path.join(group.folder, names[group.version]) for group in control_groups("memory", proc)]
