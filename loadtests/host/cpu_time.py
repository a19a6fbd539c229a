"""The CPU time of a process tree between samples, including processes that ended. Pure.

When a process ends, the kernel adds its CPU time to the account of the parent that waits for it ("children_cpu_s").
So the tree's sum of "cpu_s" and "children_cpu_s" grows by the CPU time used, and counts each process once, although
processes start and end. The CPU time is lost if no parent waits: the parent ended first (as in a double fork), or it
ignores SIGCHLD. Then the sum is a lower bound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Used", "have_ended", "used_between", "used_over"]

# The CPU time of ended children is read in ticks, separately for user and system time, each rounded down.
ROUNDED_S = 2 / os.sysconf("SC_CLK_TCK")

Process = Mapping[str, Any]
Sample = Mapping[str, Any]
Identity = tuple[Any, Any]


@dataclass(frozen=True)
class Used:
    """CPU seconds. `lost`: why they are only a lower bound; "" if they are exact."""

    seconds: float
    lost: str = ""


def used_over(samples: Sequence[Sample], tree: str = "processes") -> Used:
    """The CPU time from the first sample to the last. A process with a lost account counts up to its last sample."""
    steps = [used_between(before, after, tree) for before, after in pairwise(samples)]
    return Used(sum(step.seconds for step in steps), next((step.lost for step in steps if step.lost), ""))


def used_between(before: Sample, after: Sample, tree: str = "processes") -> Used:
    """The CPU time between two samples. tree: "processes" (the server) or "generator"."""
    earlier, later = ({_identity(each): each for each in sample.get(tree, [])} for sample in (before, after))
    gained = sum(_total(each) - _total(earlier.get(identity, {})) for identity, each in later.items())
    taken_over = 0.0
    lost = next(_ignoring(later.values()), "")
    for heir, ended in _ended(earlier, later).items():
        left = sum(map(_total, ended))
        growth = _children_s(later[heir]) - _children_s(earlier[heir]) if heir else 0.0
        is_known = heir is not None and not later[heir].get("ignores_children") and left - growth <= ROUNDED_S
        # Subtracted in full, although the heir's account is rounded down: the difference appears in a later sample.
        taken_over += left if is_known else min(left, growth)
        if not is_known:
            lost = lost or f"the CPU time of process {ended[0]['pid']}, which ended, is in no account of a parent"
    return Used(gained - taken_over, lost)


def have_ended(samples: Sequence[Sample], tree: str = "processes") -> bool:
    """Whether processes ended between the samples, including those in no sample."""
    accounts = [sum(_children_s(each) for each in sample.get(tree, [])) for sample in samples]
    seen = [{_identity(each) for each in sample.get(tree, []) if not each.get("has_ended")} for sample in samples]
    return len(set(accounts)) > 1 or any(before - after for before, after in pairwise(seen))


def _ignoring(processes: Iterator[Process] | Any) -> Iterator[str]:
    for each in processes:
        if each.get("ignores_children"):
            yield f"process {each['pid']} ignores SIGCHLD, so the kernel keeps no account of its children that ended"


def _ended(
    earlier: Mapping[Identity, Process], later: Mapping[Identity, Process]
) -> dict[Identity | None, list[Process]]:
    """The processes that ended, by their nearest living ancestor; by None if they have none."""
    by_pid = {each["pid"]: identity for identity, each in earlier.items()}
    found: dict[Identity | None, list[Process]] = {}
    for identity, process in earlier.items():
        if identity in later:
            continue
        heir = by_pid.get(process.get("parent_pid"))
        while heir is not None and heir not in later:
            heir = by_pid.get(earlier[heir].get("parent_pid"))
        found.setdefault(heir, []).append(process)
    return found


def _identity(process: Process) -> Identity:
    """Process id and start time, since ids are reused; runs of older versions have no start time."""
    return process["pid"], process.get("started_s")


def _total(process: Process) -> float:
    return _own_s(process) + _children_s(process)


def _own_s(process: Process) -> float:
    """Runs of older versions have user and system time, in whole ticks."""
    ticks = process.get("cpu_user_s", 0.0) + process.get("cpu_system_s", 0.0)
    return float(process.get("cpu_s", ticks))


def _children_s(process: Process) -> float:
    return float(process.get("children_cpu_s", 0.0))
