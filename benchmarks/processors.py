"""Which processors the server and the load run on.

A server that serves on one processor has the first to itself and the load the last, so that neither takes time from the
other. A server of several processes shares its processors with the load, as it would on a machine that is full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Placement", "available", "pinned", "place"]


@dataclass(frozen=True)
class Placement:
    server: frozenset[int]
    client: frozenset[int]

    def __str__(self) -> str:
        if len(self.server) == 1 and self.server == self.client:
            return f"server and load share processor {min(self.server)}, the only one"
        return f"server on processor {_listed(self.server)}, load on {_listed(self.client)}"


def _listed(processors: Set[int]) -> str:
    return " and ".join(map(str, sorted(processors)))


def available() -> set[int]:
    """The processors that this process may use."""
    return os.sched_getaffinity(0)


def place(processors: Set[int], cores: int) -> Placement | None:
    """Where a server that is to have `cores` of the `processors` runs, and its load; None if there are not so many."""
    if len(processors) < cores:
        return None
    if cores == 1:
        return Placement(frozenset({min(processors)}), frozenset({max(processors)}))
    shared = frozenset(sorted(processors)[:cores])
    return Placement(shared, shared)


@contextmanager
def pinned(processors: Set[int]) -> Iterator[None]:
    """Processes that are started within it run on `processors` only, and so do all that they start."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
