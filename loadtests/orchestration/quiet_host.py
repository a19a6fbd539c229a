"""Waits until this host is quiet enough for a valid run, which is cheaper than invalid runs.

A host is quiet if other processes and the hypervisor use less CPU time than the limits above which the verdict on a run
is "noisy-host".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from loadtests.host.capacity import inspect_host
from loadtests.results.validity import OTHERS_PERCENT, STEAL_PERCENT

__all__ = ["HostBusy", "await_quiet", "why_busy"]

#: The time of about two runs of a profile of 20 s. Waiting longer rarely helps: on a host that other users kept busy,
#: all of 899 measurements of one second in a row, over 15 minutes, found it busy.
PATIENCE_S = 60.0
#: Length of one measurement. In a shorter one, a process that wakes up once per second may or may not be seen.
WATCH_S = 2.0


class HostBusy(Exception):
    """The host did not become quiet; the text is one line for the user."""


def await_quiet(notify: Callable[[str], None], watch: Callable[[], tuple[float, float]] | None = None) -> None:
    """Wait until one measurement finds the host quiet; HostBusy after PATIENCE_S seconds.

    Args:
        notify: gets a line at the beginning and at the end of a wait.
        watch: measures; returns the cores that other processes use, and the share of CPU time that is stolen.
    """
    watch = watch or _watch
    began_s = time.monotonic()
    busy = why_busy(*watch(), os.cpu_count() or 1)
    if not busy:
        return
    notify(f"the host is too busy: {busy}; waiting up to {PATIENCE_S:.0f} s for it to become quiet")
    while busy:
        if time.monotonic() - began_s > PATIENCE_S:
            raise HostBusy(f"the host was too busy for {PATIENCE_S:.0f} s: {busy}; --force makes runs nevertheless")
        busy = why_busy(*watch(), os.cpu_count() or 1)
    notify(f"the host is quiet, after {time.monotonic() - began_s:.0f} s")


def why_busy(others_cores: float, steal: float, cores: int) -> str:
    """What exceeds its limit; "" for a quiet host. Pure."""
    others_percent, steal_percent = 100 * others_cores / cores, 100 * steal
    found = []
    if others_percent > OTHERS_PERCENT:
        found.append(f"other processes use {others_percent:.0f}% of its cores (limit {OTHERS_PERCENT:.0f}%)")
    if steal_percent > STEAL_PERCENT:
        found.append(f"its hypervisor gives {steal_percent:.1f}% of its time to others (limit {STEAL_PERCENT:.0f}%)")
    return " and ".join(found)


def _watch() -> tuple[float, float]:
    host = inspect_host(WATCH_S)
    return host.others_cores, host.steal
