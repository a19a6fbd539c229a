"""What a forked child does: it runs one function, flushes, and ends. It never returns into its parent's code.

All forks of the server end here: workers, molds and what stands between them, the file watcher, a new arbiter that
cannot be executed, the processes of -D. A child that returned would run its parent's code a second time, and end its
parent's other children.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from gserver.process.log_handler import finish

__all__ = ["fork_child", "run_and_exit"]

log = logging.getLogger("gserver")

FAILED = 1


def fork_child(run: Callable[[], int], fork: Callable[[], int] = os.fork) -> int:
    """Fork a process that calls run() and ends with the status that it returns; return its pid.

    Args:
        fork: os.fork, as it was before anything was patched.
    """
    pid = fork()
    if pid == 0:
        run_and_exit(run)
    return pid


def run_and_exit(run: Callable[[], int]) -> NoReturn:
    """Call run(), flush what can be flushed, and end this process with the status that run() returns.

    Whatever is raised, by run(), by a flush or by a signal handler in between, the process ends here: with status 1 if
    run() did not return.
    """
    status = FAILED
    try:
        status = _status_of(run)
        for flush in (finish, _flush_stdout, _flush_stderr):
            _try(flush)
    finally:
        os._exit(status)  # no call stands before it at which another exception could come


def _status_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except BaseException:
        _try(_log_failure)
        return FAILED


def _try(step: Callable[[], None]) -> None:
    """The reader of a pipe is gone, a disk is full, a descriptor is closed: none of it keeps the next step away."""
    with contextlib.suppress(BaseException):
        step()


def _log_failure() -> None:
    log.exception("A child failed (pid: %d)", os.getpid())


def _flush_stdout() -> None:
    sys.stdout.flush()


def _flush_stderr() -> None:
    sys.stderr.flush()
