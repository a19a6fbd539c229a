"""Going to the background, and telling whoever started the server how that went."""

from __future__ import annotations

import functools
import os
import signal
import stat
import sys

from gserver.process.child import run_and_exit

__all__ = ["Daemon", "leave_terminal"]

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
            run_and_exit(functools.partial(cls._await, waiting, child))
        os.close(waiting)
        if not _is_last():
            os._exit(0)
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
        os.write(self._starter, _READY)
        os.close(self._starter)
        self._starter = None
        leave_terminal()

    def leave_to_child(self) -> None:
        """In a worker: only the arbiter may say that the server is ready."""
        if self._starter is not None:
            os.close(self._starter)
            self._starter = None


def _is_last() -> bool:
    """In the first child: begin a session and fork once more; whether this process is the one that goes on."""
    try:
        os.setsid()
        return os.fork() == 0  # a session's leader could get a terminal again
    except OSError as error:
        run_and_exit(functools.partial(_failed, error))


def _failed(error: OSError) -> int:
    print(f"gserver: cannot go to the background: {error.strerror}", file=sys.stderr)
    return 1


def leave_terminal() -> None:
    """Let standard input, output and error be nothing, but what goes to a log file already."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nothing, descriptor)
    os.close(nothing)
