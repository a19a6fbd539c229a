"""Why a worker is replaced: the causes, and which of them applies to a worker that has ended. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gserver.arbiter.supervision import Child

__all__ = ["RestartCause", "restart_cause"]


class RestartCause(enum.Enum):
    """Why a worker has ended that is replaced by another one."""

    EXITED = "exited"  # by itself, while it served, or drained on a TERM that was not the arbiter's
    SIGNAL = "signal"  # by a signal that was not the arbiter's, while it served
    TIMEOUT = "timeout"  # killed by the arbiter: no heartbeat or not ready in time, or restart --now
    START_FAILED = "start_failed"  # before it served
    RECYCLED = "recycled"  # it had reached a limit, such as max_requests
    RELOADED = "reloaded"  # by a worker of a new generation


def restart_cause(child: Child, exit_code: int) -> RestartCause | None:
    """The cause for which a worker that has ended is replaced; None if it is not replaced.

    Args:
        exit_code: as from os.waitstatus_to_exitcode(): the exit status, or minus the number of the signal.
    """
    if child.drain_cause is not None:
        return child.drain_cause
    if child.is_surplus:
        return None
    if child.kill_stages_done:
        return RestartCause.TIMEOUT
    if not child.has_served:
        return RestartCause.START_FAILED
    return RestartCause.SIGNAL if exit_code < 0 else RestartCause.EXITED
