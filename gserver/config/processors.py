"""The number of processors that this process may use: its CPU affinity, and the CPU quota of its control groups.

A container sees all processors of its machine. Its quota is time: 1.5 processors are 150 ms in each period of 100 ms,
on any of them. A server with more workers than its quota has processors is stopped by the kernel for the rest of each
period, in the middle of whatever it does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

from gserver.config.control_groups import ControlGroup, control_groups

__all__ = ["processors_within", "usable_processors"]


def usable_processors(proc: str = "/proc/self") -> int:
    """Return how many processors this process can keep busy, rounded up; at least 1."""
    quotas = [quota for group in control_groups("cpu", proc) for quota in _quotas(group)]
    return processors_within(len(os.sched_getaffinity(0)), quotas)


def processors_within(affinity: int, quotas: Iterable[float]) -> int:
    """Return the smallest of `affinity` and `quotas`, which are numbers of processors, rounded up; at least 1. Pure."""
    return max(1, math.ceil(min([affinity, *quotas])))


def _quotas(group: ControlGroup) -> Iterator[float]:
    """The quota of the group and those of its parents, as numbers of processors. Groups without a quota have none."""
    for folder in group.with_parents():
        if group.version == 2:
            words = _words(folder, "cpu.max")  # "150000 100000", or "max 100000"
        else:
            words = _words(folder, "cpu.cfs_quota_us") + _words(folder, "cpu.cfs_period_us")  # -1: no quota
        if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
            quota, period = map(int, words)
            if quota and period:
                yield quota / period


def _words(folder: str, name: str) -> list[str]:
    try:
        with open(os.path.join(folder, name)) as file:
            return file.read().split()
    except OSError:  # the root group has no quota, or this version does not control the CPU
        return []
