"""Opens missing standard streams, and moves the server to the background (-D).

A program may be started with closed standard streams (`<&-`, cron jobs, supervisors). Then the next file or socket that
it opens gets the descriptor of a standard stream, and error messages are written into it. So the streams are opened
before anything else.
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
    """The server in the background. The process that started it waits for ready()."""

    def __init__(self, starter: int) -> None:
        self._starter: int | None = starter

    @classmethod
    def detach(cls) -> Daemon:
        """Fork, and return in a new process with its own session and no terminal. The old process waits, and exits.

        The exit status of the old process is 0 after ready(), and 1 if the new process ends before. ConfigError if the
        fork fails.
        """
        try:
            reader, writer = os.pipe()
            child = os.fork()
            if child:
                os.close(writer)
                run_and_exit(functools.partial(cls._await, reader, child))
            os.close(reader)
            os.setsid()
            if os.fork():  # only the leader of a session can get a terminal again
                os._exit(0)
        except OSError as error:
            raise ConfigError(f"cannot go to the background: {error.strerror}") from None
        return cls(writer)

    @staticmethod
    def _await(reader: int, child: int) -> int:
        try:
            os.waitpid(child, 0)
            return 0 if os.read(reader, len(_READY)) == _READY else 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT

    def ready(self) -> None:
        """End the starting process, and leave the terminal. Lines logged to standard error are lost from now on."""
        if self._starter is None:
            return
        with contextlib.suppress(OSError):  # the starting process has ended
            os.write(self._starter, _READY)
        os.close(self._starter)
        self._starter = None
        leave_terminal()

    def leave_to_child(self) -> None:
        """In a worker: close the pipe, because only the arbiter may report that the server is ready."""
        if self._starter is not None:
            os.close(self._starter)
            self._starter = None


def open_standard() -> tuple[int, ...]:
    """Open /dev/null for each closed standard stream, also as a Python file; return the closed descriptors."""
    closed = tuple(descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor))
    for descriptor in closed:  # open() returns the lowest free descriptor
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:  # another thread has opened something
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  open until the process ends
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
    """Flush standard output and error. Drop data that cannot be written; otherwise Python fails when it exits."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # a full disk, a pipe without a reader, closed by the application
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.close(nothing)


def leave_terminal() -> None:
    """Redirect the standard streams to /dev/null, except those that are regular files."""
    open_standard()  # the application may have closed one of them
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nothing, descriptor)
    os.close(nothing)


def is_in_foreground() -> bool:
    """Return whether this process is in the foreground of a terminal, and so receives its signals."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
