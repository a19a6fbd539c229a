"""Schedules the sampler below all other processes (SCHED_IDLE, sched(7)), so that it delays neither swarm nor server.

The sampler shares a core with one of them. At normal priority it runs for some milliseconds, four times a second, while
a send is due: 100 users at 1,000 exchanges/s sent 0.7 to 1.0 % of their requests more than 1 ms late, and 0.3 to 0.4 %
with this and with shorter flushes of the recorder.

A process that never pauses could starve it. So it returns to the normal policy for good once a sample has waited too
long for a core.
"""

from __future__ import annotations

import contextlib
import os

from loadtests.host import kernel_counters

__all__ = ["LONGEST_WAIT_S", "IdleScheduling"]

#: How long a sample may wait for a core, in seconds.
LONGEST_WAIT_S = 0.1


class IdleScheduling:
    """Makes the calling thread SCHED_IDLE until it starves; without effect where the kernel refuses it."""

    def __init__(self) -> None:
        self._waited_s = kernel_counters.waited()
        self.is_active = self._waited_s is not None and _set(os.SCHED_IDLE)

    def sampled(self) -> None:
        """Called after each sample: return to the normal policy if the sample has waited too long for a core."""
        waited_s = kernel_counters.waited() if self.is_active else None
        if waited_s is None or self._waited_s is None:
            return
        if waited_s - self._waited_s > LONGEST_WAIT_S:
            self.is_active = not _set(os.SCHED_OTHER)
        self._waited_s = waited_s


def _set(policy: int) -> bool:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(0))
        return True
    return False
