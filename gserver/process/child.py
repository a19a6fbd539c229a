"""Forks child processes: a child runs one function, flushes its output, and exits. It never returns to the caller.

All forks of the server use this module: workers, preload processes and the processes between them, the file watcher, a
new arbiter that cannot be executed, the processes of -D. A child that returned would run the code of its parent a
second time, and end the other children of its parent.
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
    """Fork a process that calls run() and exits with the returned status; return its pid.

    Args:
        fork: the original os.fork, if gevent has patched it.
    """
    pid = fork()
    if pid == 0:
        run_and_exit(run)
    return pid


def run_and_exit(run: Callable[[], int]) -> NoReturn:
    """Call run(), flush all output, and exit with the status that run() returns.

    The process always exits here, also if run(), a flush or a signal handler raises. The status is 1 if run() did not
    return.
    """
    status = FAILED
    try:
        status = _status_of(run)
        for flush in (finish, _flush_stdout, _flush_stderr):
            _try(flush)
    finally:
        os._exit(status)  # no call before it, so that no further exception can occur


def _status_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except BaseException:
        _try(_log_failure)
        return FAILED


def _try(step: Callable[[], None]) -> None:
    """Call step(), and ignore exceptions (a pipe without a reader, a full disk), so that the next step runs."""
    with contextlib.suppress(BaseException):
        step()


def _log_failure() -> None:
    log.exception("A child failed (pid: %d)", os.getpid())


def _flush_stdout() -> None:
    sys.stdout.flush()


def _flush_stderr() -> None:
    sys.stderr.flush()
