"""The exceptions of offload.thread() and offload.process(). Those of the function itself are raised as they are."""

from __future__ import annotations

from gserver.errors import GServerError

__all__ = ["Died", "Full", "Timeout"]


class Full(GServerError):
    """The call is refused: as many calls wait for a thread or a process as the setting offload_queue allows."""


class Timeout(GServerError, TimeoutError):
    """The call did not return within its timeout."""


class Died(GServerError):
    """The process that ran the function ended before it had sent a result, or no process can be started."""


# Users see them as offload.Full, also in tracebacks.
for _error in (Full, Timeout, Died):
    _error.__module__ = "gserver.offload"
