"""What the processes of a tree cost, read so that reading costs little, whatever they hold.

What is dear is read seldom: telling sockets from files (a readlink for each descriptor), and the memory that a process
shares with nobody (USS: the kernel goes through its page tables, and holds up its page faults meanwhile).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Budget", "Plateau", "Tree"]

PROC = Path("/proc")
# How much of the time may go into what is dear.
DEAR_SHARE = 0.005
# How long the descriptors must have stayed the same, within a hundredth, for a plateau.
PLATEAU_S = 2.0
PLATEAU_SPREAD = 0.01


@dataclass
class Budget:
    """Allows something so seldom that it takes no more than a share of the time."""

    share: float = DEAR_SHARE
    not_before_s: float = 0.0

    def allows(self, now_s: float) -> bool:
        return now_s >= self.not_before_s

    def spent(self, now_s: float, cost_s: float) -> None:
        self.not_before_s = now_s + cost_s / self.share


@dataclass
class Plateau:
    """Whether a tree holds the same descriptors for a while, within a hundredth."""

    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _began_s: float | None = None

    def add(self, now_s: float, descriptors: int) -> None:
        self._began_s = now_s if self._began_s is None else self._began_s
        self._recent.append((now_s, descriptors))
        while self._recent[0][0] < now_s - PLATEAU_S:
            self._recent.popleft()

    @property
    def descriptors(self) -> int:
        return self._recent[-1][1] if self._recent else 0

    @property
    def is_level(self) -> bool:
        if self._began_s is None or self._recent[-1][0] - self._began_s < PLATEAU_S:
            return False
        counts = [count for _, count in self._recent]
        return max(counts) - min(counts) <= PLATEAU_SPREAD * max(counts)


@dataclass
class Tree:
    """The processes under a root, the root included; psutil.NoSuchProcess where there is no such root."""

    root_pid: int
    _known: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._root = psutil.Process(self.root_pid)

    def sample(self, sockets: bool = False, uss: bool = False) -> list[dict[str, Any]]:
        """What each process has cost so far; nothing once the root has ended, or its number is another's.

        psutil.AccessDenied where a process may not be read: figures without it would be wrong, and nobody would see.
        """
        samples = []
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                samples.append(_sample(process, sockets, uss))
        if not samples or samples[0]["pid"] != self.root_pid:  # whoever is left of it belongs to somebody else now
            return []
        return samples

    def _processes(self) -> Iterator[psutil.Process]:
        if not self._root.is_running():
            return
        found = {self.root_pid: self._root}
        for pid in _descendants(self.root_pid):
            known = self._known.get(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                found[pid] = known if known is not None and known.is_running() else psutil.Process(pid)
        self._known = found
        yield from found.values()


def _descendants(root: int) -> Iterator[int]:
    """The kernel's own list of each thread's children: psutil asks every process of the host who its parent is."""
    waiting = [root]
    while waiting:
        for child in _children(waiting.pop()):
            yield child
            waiting.append(child)


def _children(pid: int) -> list[int]:
    try:
        lists = [thread / "children" for thread in (PROC / str(pid) / "task").iterdir()]
        return [int(child) for each in lists for child in each.read_text().split()]
    except FileNotFoundError:  # it has ended, or its kernel has no such list
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return []
    except ProcessLookupError:
        return []


def _sample(process: psutil.Process, sockets: bool, uss: bool) -> dict[str, Any]:
    with process.oneshot():
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(process.pid)
        cpu, switches = process.cpu_times(), process.num_ctx_switches()
        sample = {
            "pid": process.pid,
            "started_s": process.create_time(),  # with the number, what tells a process from its namesake
            "cpu_user_s": cpu.user,
            "cpu_system_s": cpu.system,
            "rss_bytes": process.memory_info().rss,
            "descriptors": _count_descriptors(process),
            "threads": process.num_threads(),
            "switches_voluntary": switches.voluntary,
            "switches_involuntary": switches.involuntary,
        }
        if uss:
            sample["uss_bytes"] = process.memory_full_info().uss
    if sockets:
        sample["sockets"] = _count_sockets(process.pid)
    return sample


def _count_descriptors(process: psutil.Process) -> int:
    """The size of the folder is their number (Linux 6.2); before that each has to be listed."""
    try:
        return (PROC / str(process.pid) / "fd").stat().st_size or int(process.num_fds())
    except PermissionError:
        raise psutil.AccessDenied(process.pid) from None


def _count_sockets(pid: int) -> int:
    try:
        entries = os.scandir(PROC / str(pid) / "fd")
    except PermissionError:
        raise psutil.AccessDenied(pid) from None
    count = 0
    with entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                count += os.readlink(entry.path).startswith("socket:")
    return count
