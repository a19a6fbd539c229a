"""Standard input, output and error, whatever they were at the start; and going to the background.

A program may be started with any of them closed (`<&-`; cron jobs and supervisors). Then the next file or socket that
it opens gets that number, and what is written to standard error goes into it. So they are opened before anything else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import stat
import sys

from gserver.errors import ConfigError
from gserver.process.child import run_and_exit

__all__ = ["Daemon", "drop_unwritten", "is_in_foreground", "leave_terminal", "open_standard"]

_READY = b"ready"


class Daemon:
    """The process in the background, which has its starter wait for ready()."""

    def __init__(self, starter: int) -> None:
        self._starter: int | None = starter

    @classmethod
    def detach(cls) -> Daemon:
        """Return in a new process, without a terminal and in a session of its own; the old one ends with the outcome.

        It ends with status 0 once the new one says ready(), and with 1 if that ends before. ConfigError if there can be
        no new one.
        """
        try:
            waiting, telling = os.pipe()
            child = os.fork()
            if child:
                os.close(telling)
                run_and_exit(functools.partial(cls._await, waiting, child))
            os.close(waiting)
            os.setsid()
            if os.fork():  # a session's leader could get a terminal again
                os._exit(0)
        except OSError as error:
            raise ConfigError(f"cannot go to the background: {error.strerror}") from None
        return cls(telling)

    @staticmethod
    def _await(waiting: int, child: int) -> int:
        try:
            os.waitpid(child, 0)
            return 0 if os.read(waiting, len(_READY)) == _READY else 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT

    def ready(self) -> None:
        """Let the starter go, and with it the terminal. What is logged to standard error is lost from now on."""
        if self._starter is None:
            return
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(self._starter, _READY)
        os.close(self._starter)
        self._starter = None
        leave_terminal()

    def leave_to_child(self) -> None:
        """In a worker: only the arbiter may say that the server is ready."""
        if self._starter is not None:
            os.close(self._starter)
            self._starter = None


def open_standard() -> tuple[int, ...]:
    """Open /dev/null for each of descriptors 0 to 2 that is closed, and Python's files for them; return which were."""
    closed = tuple(descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor))
    for descriptor in closed:  # the lowest number that is free is the one that it gets
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:  # another thread has opened something
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  it is for as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    return closed


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def drop_unwritten() -> None:
    """Flush standard output and error. What cannot be written is dropped, or Python would fail on it at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # full, a pipe without a reader; closed by the application
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.close(nothing)


def leave_terminal() -> None:
    """Let standard input, output and error be nothing, but what goes to a log file already."""
    open_standard()  # the application may have closed one
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nothing, descriptor)
    os.close(nothing)


def is_in_foreground() -> bool:
    """Whether a terminal sends this process its signals."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
