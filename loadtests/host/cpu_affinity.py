"""Which cores the server has, and which the generator: each its own, so that neither takes time from the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Cores", "on_cores", "shared_out"]


@dataclass(frozen=True)
class Cores:
    """Numbers of cores; an empty one is left to the kernel."""

    server: tuple[int, ...] = ()
    generator: tuple[int, ...] = ()

    def shown(self) -> str:
        if not self.server and not self.generator:
            return "not pinned"
        return f"server on {_listed(self.server)}, generator on {_listed(self.generator)}"


def _listed(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores)) or "any"


def shared_out(available: Sequence[int], workers: int) -> Cores:
    """A core for each worker of the server, but never more than half of them; the rest is the generator's. Pure."""
    if len(available) < 2:
        return Cores()
    cut = min(workers, len(available) // 2)
    return Cores(tuple(available[:cut]), tuple(available[cut:]))


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started within it run there, and theirs too."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
