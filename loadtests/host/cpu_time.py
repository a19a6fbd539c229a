"""The CPU time that a tree of processes used between samples, with that of processes that ended. Pure.

A process that ends takes its account with it, and the kernel adds it to that of the parent that waits for it. So a
tree's sum of "cpu_s" and "children_cpu_s" grows by what was used, whichever processes come and go, and each process is
in it once. An account is lost where the parent does not take it: the parent ended first (a double fork is that), or it
ignores SIGCHLD. Then the sum is a lower bound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Used", "have_ended", "used_between", "used_over"]

# The accounts of ended children are read in ticks, user and system time apart, each rounded down.
ROUNDED_S = 2 / os.sysconf("SC_CLK_TCK")

Process = Mapping[str, Any]
Sample = Mapping[str, Any]
Identity = tuple[Any, Any]


@dataclass(frozen=True)
class Used:
    """CPU seconds; `lost` is why they are a lower bound, "" if they are not."""

    seconds: float
    lost: str = ""


def used_over(samples: Sequence[Sample], tree: str = "processes") -> Used:
    """From the first sample to the last. If the account of a process is lost, its last sample counts."""
    steps = [used_between(before, after, tree) for before, after in pairwise(samples)]
    return Used(sum(step.seconds for step in steps), next((step.lost for step in steps if step.lost), ""))


def used_between(before: Sample, after: Sample, tree: str = "processes") -> Used:
    """Between two samples. tree: "processes" of the server, or "generator"."""
    earlier, later = ({_identity(each): each for each in sample.get(tree, [])} for sample in (before, after))
    gained = sum(_total(each) - _total(earlier.get(identity, {})) for identity, each in later.items())
    taken_over = 0.0
    lost = next(_ignoring(later.values()), "")
    for heir, ended in _ended(earlier, later).items():
        left = sum(map(_total, ended))
        growth = _children_s(later[heir]) - _children_s(earlier[heir]) if heir else 0.0
        is_known = heir is not None and not later[heir].get("ignores_children") and left - growth <= ROUNDED_S
        # Subtracted whole, though the heir's account is rounded: the rest of it comes in a later sample.
        taken_over += left if is_known else min(left, growth)
        if not is_known:
            lost = lost or f"the CPU time of process {ended[0]['pid']}, which ended, is in no account of a parent"
    return Used(gained - taken_over, lost)


def have_ended(samples: Sequence[Sample], tree: str = "processes") -> bool:
    """Whether processes ended meanwhile, whether they were seen before or not."""
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
    """Processes that ended meanwhile, by the nearest ancestor that did not; by None those that have none."""
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
    """A number alone may be given to another process; when that started, older runs do not have."""
    return process["pid"], process.get("started_s")


def _total(process: Process) -> float:
    return _own_s(process) + _children_s(process)


def _own_s(process: Process) -> float:
    """Of older runs in ticks."""
    ticks = process.get("cpu_user_s", 0.0) + process.get("cpu_system_s", 0.0)
    return float(process.get("cpu_s", ticks))


def _children_s(process: Process) -> float:
    return float(process.get("children_cpu_s", 0.0))
