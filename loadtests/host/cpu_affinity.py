"""Pins server and generator to separate cores, so that neither takes CPU time from the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Cores", "on_cores", "split_cores"]


@dataclass(frozen=True)
class Cores:
    """Core numbers; empty: the kernel chooses."""

    server: tuple[int, ...] = ()
    generator: tuple[int, ...] = ()

    def shown(self) -> str:
        if not self.server and not self.generator:
            return "not pinned"
        return f"server on {_listed(self.server)}, generator on {_listed(self.generator)}"


def _listed(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores)) or "any"


def split_cores(available: Sequence[int], workers: int) -> Cores:
    """Give the server one core per worker, at most half of the cores, and the rest to the generator. Pure."""
    if len(available) < 2:
        return Cores()
    cut = min(workers, len(available) // 2)
    return Cores(tuple(available[:cut]), tuple(available[cut:]))


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started within `with` run on these cores, and so do their children."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
