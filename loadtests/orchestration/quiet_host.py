"""Waits until the host is quiet enough for a run that can be believed, instead of finding out by whole runs.

Quiet is what the verdict on a run means by it: what other processes use of all cores, and what a hypervisor gives to
other machines, are below the limits above which a run is "noisy-host".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from loadtests.host.capacity import look
from loadtests.results.validity import OTHERS_PERCENT, STEAL_PERCENT

__all__ = ["HostBusy", "await_quiet", "why_busy"]

#: About two runs of a profile of 20 s. On a host that other users kept busy, all of 899 looks of a second, in turn,
#: found it busy: in those 15 minutes no run could have been believed, neither the first nor the tenth.
PATIENCE_S = 60.0
#: Of one look. Shorter than this, a process that wakes up once a second makes a host busy or quiet by chance.
WATCH_S = 2.0


class HostBusy(Exception):
    """The host did not become quiet; the text is one line for a person."""


def await_quiet(say: Callable[[str], None], watch: Callable[[], tuple[float, float]] | None = None) -> None:
    """Wait until one look finds the host quiet; HostBusy if that has not come in PATIENCE_S.

    watch: returns the cores that other processes use, and the share of the time that is stolen.
    """
    watch = watch or _watch
    began_s = time.monotonic()
    busy = why_busy(*watch(), os.cpu_count() or 1)
    if not busy:
        return
    say(f"the host is too busy: {busy}; waiting up to {PATIENCE_S:.0f} s for it to become quiet")
    while busy:
        if time.monotonic() - began_s > PATIENCE_S:
            raise HostBusy(f"the host was too busy for {PATIENCE_S:.0f} s: {busy}; --force makes runs all the same")
        busy = why_busy(*watch(), os.cpu_count() or 1)
    say(f"the host is quiet, after {time.monotonic() - began_s:.0f} s")


def why_busy(others_cores: float, steal: float, cores: int) -> str:
    """What is above its limit; "" for a quiet host. Pure."""
    others_percent, steal_percent = 100 * others_cores / cores, 100 * steal
    found = []
    if others_percent > OTHERS_PERCENT:
        found.append(f"other processes use {others_percent:.0f}% of its cores (limit {OTHERS_PERCENT:.0f}%)")
    if steal_percent > STEAL_PERCENT:
        found.append(f"its hypervisor gives {steal_percent:.1f}% of its time to others (limit {STEAL_PERCENT:.0f}%)")
    return " and ".join(found)


def _watch() -> tuple[float, float]:
    host = look(WATCH_S)
    return host.others_cores, host.steal
