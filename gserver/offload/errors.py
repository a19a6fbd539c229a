"""The exceptions of offload.thread() and offload.process(). Those of the function itself are raised as they are."""

from __future__ import annotations

from gserver.errors import GServerError

__all__ = ["Died", "Full", "Timeout"]


class Full(GServerError):
    """The call is refused: as many calls wait for a thread or a process as the setting offload_queue allows.

    Example:
        def handle(line, conn):
            try:
                return offload.thread(len, line)
            except offload.Full:
                return b"busy"

        assert handle(b"hello", None) == 5
    """


class Timeout(GServerError, TimeoutError):
    """The call did not return within its timeout.

    Example:
        import time

        try:
            offload.thread(time.sleep, 0.5, timeout=0.01)
        except offload.Timeout as error:
            print(error)
    """


class Died(GServerError):
    """The process that ran the function ended before it had sent a result, or no process can be started.

    Example:
        import os

        # With the setting offload_processes = 1
        try:
            offload.process(os._exit, 3)
        except offload.Died as error:
            print(error)
    """


# Users see them as offload.Full, also in tracebacks.
for _error in (Full, Timeout, Died):
    _error.__module__ = "gserver.offload"
