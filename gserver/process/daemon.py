"""Going to the background, and telling whoever started the server how that went."""

from __future__ import annotations

import os
import stat
import sys

__all__ = ["Daemon", "is_in_foreground", "leave_terminal"]

_READY = b"ready"


class Daemon:
    """The process in the background, which has its starter wait for ready()."""

    def __init__(self, starter: int) -> None:
        self._starter: int | None = starter

    @classmethod
    def detach(cls) -> Daemon:
        """Return in a new process, without a terminal and in a session of its own; the old one ends with the outcome.

        It ends with status 0 once the new one says ready(), and with 1 if that ends before.
        """
        waiting, telling = os.pipe()
        child = os.fork()
        if child:
            os.close(telling)
            cls._await(waiting, child)
        os.close(waiting)
        os.setsid()
        if os.fork():  # a session's leader could get a terminal again
            os._exit(0)
        return cls(telling)

    @staticmethod
    def _await(waiting: int, child: int) -> None:
        os.waitpid(child, 0)
        word = os.read(waiting, len(_READY))
        sys.stdout.flush()
        os._exit(0 if word == _READY else 1)

    def ready(self) -> None:
        """Let the starter go, and with it the terminal. What is logged to standard error is lost from now on."""
        if self._starter is None:
            return
        os.write(self._starter, _READY)
        os.close(self._starter)
        self._starter = None
        leave_terminal()

    def leave_to_child(self) -> None:
        """In a worker: only the arbiter may say that the server is ready."""
        if self._starter is not None:
            os.close(self._starter)
            self._starter = None


def leave_terminal() -> None:
    """Let standard input, output and error be nothing, but what goes to a log file already."""
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
