"""Choose the cores for the server and for the load.

A server with one worker gets the first core and the client the last one, so that neither takes CPU time from the other.
A server with several workers shares its cores with the client, as on a machine that is fully loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.host.cpu_affinity import Cores

__all__ = ["describe", "place"]


def place(available: Sequence[int], workers: int) -> Cores | None:
    """Return the cores for a server with so many workers and for the client; None if there are too few."""
    if len(available) < workers:
        return None
    if workers == 1:
        return Cores((min(available),), (max(available),))
    shared = tuple(sorted(available)[:workers])
    return Cores(shared, shared)


def describe(cores: Cores) -> str:
    """The placement of the default jobs, for the heading of the output."""
    if len(cores.server) == 1 and cores.server == cores.generator:
        return f"server and load share core {cores.server[0]}, the only one"
    return f"cores: {cores.shown()}"
