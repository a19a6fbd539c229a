"""Reads CPU time, memory and descriptors of a process tree, at a low cost even for large processes.

psutil reads the processes. Four figures are read without it, because it does not have them:

    the CPU clock of a process   all its threads, including ended ones, in nanoseconds; psutil has ticks of 10 ms
    the list of children         from the kernel; psutil reads every process of the host to find them
    smaps_rollup                 anonymous and shared memory without mapped files (see _memory_bytes)
    SigIgn of status             whether the kernel counts the CPU time of ended children (see cpu_time.py)

Two figures are expensive and read seldom: how many descriptors are sockets (a readlink for each), and smaps_rollup, for
which the kernel walks the page tables of the process (0.05 ms for 5 MiB, more for larger ones).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Budget", "Plateau", "Tree", "resident_bytes"]

PROC = Path("/proc")
# The share of a core that expensive readings may use.
EXPENSIVE_SHARE = 0.005
# On a plateau the number of descriptors has stayed within 1% for this long.
PLATEAU_S = 2.0
PLATEAU_SPREAD = 0.01
# How often a sample is read if processes end during it.
ATTEMPTS = 3
_LIBC = ctypes.CDLL(None)
_SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)


@dataclass
class Budget:
    """Limits how often an expensive reading is made, so that it uses no more than a share of a core.

    Costs are CPU time. By elapsed time everything would be expensive on a busy host, and nothing would be read there.
    """

    share: float = EXPENSIVE_SHARE
    not_before_s: float = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a reading may be made now."""
        return now_s >= self.not_before_s

    def spent(self, now_s: float, cost_s: float) -> None:
        """Count a reading that began at `now_s` and used `cost_s` of CPU time."""
        self.not_before_s = now_s + cost_s / self.share


@dataclass
class Plateau:
    """Detects that the number of descriptors of a tree has stayed within 1% for two seconds."""

    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _began_s: float | None = None

    def add(self, now_s: float, descriptors: int) -> None:
        """Add the number of descriptors in a sample."""
        self._began_s = now_s if self._began_s is None else self._began_s
        self._recent.append((now_s, descriptors))
        while self._recent[0][0] < now_s - PLATEAU_S:
            self._recent.popleft()

    @property
    def descriptors(self) -> int:
        """The number in the last sample; 0 before the first."""
        return self._recent[-1][1] if self._recent else 0

    @property
    def is_level(self) -> bool:
        """Whether the tree is on a plateau."""
        if self._began_s is None or self._recent[-1][0] - self._began_s < PLATEAU_S:
            return False
        counts = [count for _, count in self._recent]
        return max(counts) - min(counts) <= PLATEAU_SPREAD * max(counts)


@dataclass
class Tree:
    """A root process and its descendants; psutil.NoSuchProcess if there is no such process.

    If the parent of a process ends, the kernel gives the process another parent, outside the tree. The process stays in
    this tree if it was in it before, or if it is in the session that the root leads.
    """

    root_pid: int
    _known: dict[int, psutil.Process] = field(default_factory=dict)
    _scans: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self._root = psutil.Process(self.root_pid)

    def sample(self, sockets: bool = False, memory: bool = False) -> list[dict[str, Any]]:
        """The figures of each process so far, the root first; [] if the root has ended, or another process has its pid.

        A process that ends during the sample is missing, or is counted twice: by itself and in its parent's CPU time of
        ended children. The sample is then read again, up to three times.

        sockets, memory: also read these expensive figures. psutil.AccessDenied: a process may not be read; without it
        the figures would be wrong, and nothing would show that.
        """
        for _ in range(ATTEMPTS):
            samples, has_missed = self._read(sockets, memory)
            if not has_missed:
                break
        # Without the root, the other processes have a parent outside the tree.
        is_there = samples and samples[0]["pid"] == self.root_pid and not samples[0].get("has_ended")
        return samples if is_there else []

    def _read(self, sockets: bool, memory: bool) -> tuple[list[dict[str, Any]], bool]:
        """The figures of each process, parents before children, and whether one of them ended meanwhile."""
        samples, has_missed = [], False
        for process in self._processes():
            try:
                samples.append(_sample(process, sockets, memory))
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                has_missed = True
        return samples, has_missed

    def _processes(self) -> Iterator[psutil.Process]:
        if not self._root.is_running():
            return
        found = {self.root_pid: self._root}
        self._add(found, _descendants(self.root_pid))
        for pid in [*self._known, *self._session()]:
            if pid not in found:
                self._add(found, [pid])
                if pid in found:
                    self._add(found, _descendants(pid))
        self._known = found
        yield from found.values()

    def _add(self, found: dict[int, psutil.Process], pids: Iterable[int]) -> None:
        for pid in pids:
            known = self._known.get(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                found[pid] = known if known is not None and known.is_running() else psutil.Process(pid)

    def _session(self) -> list[int]:
        """The pids in the session that the root leads; they need not be its descendants any more.

        It looks at every process of the host, and therefore has a budget.
        """
        now_s, began_s = time.monotonic(), time.process_time()
        if not self._scans.allows(now_s) or _session_of(self.root_pid) != self.root_pid:
            return []
        found = [pid for pid in psutil.pids() if _session_of(pid) == self.root_pid]
        self._scans.spent(now_s, time.process_time() - began_s)
        return found


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _descendants(root: int) -> Iterator[int]:
    """Pids of all descendants, by the kernel's list of each thread's children: psutil reads every process instead."""
    waiting = [root]
    while waiting:
        for child in _children(waiting.pop()):
            yield child
            waiting.append(child)


def _children(pid: int) -> list[int]:
    try:
        lists = [thread / "children" for thread in (PROC / str(pid) / "task").iterdir()]
        return [int(child) for each in lists for child in each.read_text().split()]
    except FileNotFoundError:  # the process has ended, or the kernel has no such list
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return []
    except ProcessLookupError:
        return []


def _sample(process: psutil.Process, sockets: bool, memory: bool) -> dict[str, Any]:
    with process.oneshot():
        has_ended = process.status() == psutil.STATUS_ZOMBIE
        try:
            return _account(process) | (_remains() if has_ended else _holdings(process, sockets, memory))
        except psutil.ZombieProcess:  # the process ended after its status was read
            return _account(process) | _remains()


def _account(process: psutil.Process) -> dict[str, Any]:
    """The identity and the CPU time of a process; a zombie has them too."""
    cpu = process.cpu_times()
    own_s = _cpu_clock_s(process.pid)
    return {
        "pid": process.pid,
        "parent_pid": process.ppid(),
        "started_s": process.create_time(),  # with the pid, identifies the process
        "cpu_s": cpu.user + cpu.system if own_s is None else own_s,
        "cpu_user_s": cpu.user,
        "cpu_system_s": cpu.system,
        "children_cpu_s": cpu.children_user + cpu.children_system,  # of children that ended and were waited for
    }


def _remains() -> dict[str, Any]:
    names = ("rss_bytes", "descriptors", "threads", "switches_voluntary", "switches_involuntary")
    return {"has_ended": True, **dict.fromkeys(names, 0)}


def _holdings(process: psutil.Process, sockets: bool, memory: bool) -> dict[str, Any]:
    switches = process.num_ctx_switches()
    sample: dict[str, Any] = {
        "rss_bytes": process.memory_info().rss,
        "descriptors": _count_descriptors(process),
        "threads": process.num_threads(),
        "switches_voluntary": switches.voluntary,
        "switches_involuntary": switches.involuntary,
    }
    if _ignores_children(process.pid):
        sample["ignores_children"] = True
    if memory:
        sample |= _memory(process.pid)
    if sockets and (count := _count_sockets(process.pid)) is not None:
        sample["sockets"] = count
    return sample


def _cpu_clock_s(pid: int) -> float | None:
    """The CPU clock of a process in seconds; None if the kernel does not provide it, as in some sandboxes."""
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        return None
    try:
        return time.clock_gettime_ns(clock.value) / 1e9
    except OSError:
        return None


def _ignores_children(pid: int) -> bool:
    """Whether a process ignores SIGCHLD: the kernel then does not add the CPU time of ended children (wait(2))."""
    for line in (PROC / str(pid) / "status").read_bytes().splitlines():
        if line.startswith(b"SigIgn:"):
            return bool(int(line.split()[1], 16) & _SIGCHLD_BIT)
    return False


def _memory(pid: int) -> dict[str, Any]:
    """{"memory_bytes"}, or {"memory_error": the reason} if it cannot be read."""
    try:
        return {"memory_bytes": _memory_bytes((PROC / str(pid) / "smaps_rollup").read_text())}
    except ProcessLookupError:
        raise
    except OSError as error:
        return {"memory_error": os.strerror(error.errno or 0)}


def _memory_bytes(rollup: str) -> int:
    """Anonymous and shared memory, in RAM and in swap, in bytes; a page of n processes counts as an n-th (PSS).

    The sum over a tree of forked processes counts each page once. RSS counts a page that workers share once for each
    worker, and does not change when a worker writes to it and gets a copy. USS leaves out memory that stays shared,
    such as a segment in which all workers keep their connections. Mapped files, which are mostly programs and
    libraries, are left out: their share changes when a process outside the server starts or ends.
    """
    sizes = {name: int(size.split()[0]) for name, _, size in (line.partition(":") for line in rollup.splitlines()[1:])}
    in_ram = sizes["Pss_Anon"] + sizes["Pss_Shmem"] if "Pss_Anon" in sizes else sizes["Pss"]  # Linux before 5.9
    return 1024 * (in_ram + sizes.get("SwapPss", 0))


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process from smaps_rollup, in bytes; None if the process ended or is denied.

    The kernel counts the pages for it. "rss_bytes" of a sample comes from statm, whose counters can lag by megabytes.
    """
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    sizes = [line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:")]
    return 1024 * int(sizes[0]) if sizes else None


def _count_descriptors(process: psutil.Process) -> int:
    """The number of open descriptors: the size of /proc/PID/fd (Linux 6.2), or by listing them on older kernels."""
    try:
        return (PROC / str(process.pid) / "fd").stat().st_size or int(process.num_fds())
    except PermissionError:
        raise psutil.AccessDenied(process.pid) from None


def _count_sockets(pid: int) -> int | None:
    """The number of descriptors that are sockets; None if the process belongs to another user."""
    try:
        entries = os.scandir(PROC / str(pid) / "fd")
    except PermissionError:
        return None
    count = 0
    with entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                count += os.readlink(entry.path).startswith("socket:")
    return count
