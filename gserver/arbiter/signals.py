"""Signals: what each one asks for, in one table, and a queue of those that came.

Signal handlers do nothing: the interpreter writes the number of each signal into a socket pair (signal.set_wakeup_fd),
which the arbiter selects on beside everything else.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "WORKER_SIGNALS", "Request", "SignalQueue", "is_in_foreground", "markdown_table"]


class Request(enum.Enum):
    """What a signal asks the arbiter for."""

    STOP = "drain all workers, within the graceful timeout, and stop"
    QUIT = "stop: a second for the replies that are owed, then the end; during a drain: stop now"
    RELOAD = "read the configuration again, and replace the workers, one after the other, with ones that work"
    MORE = "one worker more"
    FEWER = "one worker fewer, down to one"
    REOPEN = "open the log files again"
    UPGRADE = "start a new arbiter, with the code as it is now, on the same sockets; this one stays until told to go"
    DISMISS = "drain all workers, and go on without any; not when it comes from a terminal that changes its size"
    REAP = "a child has ended"


SIGNALS = {
    signal.SIGTERM: Request.STOP,
    signal.SIGINT: Request.QUIT,
    signal.SIGQUIT: Request.QUIT,
    signal.SIGHUP: Request.RELOAD,
    signal.SIGTTIN: Request.MORE,
    signal.SIGTTOU: Request.FEWER,
    signal.SIGUSR1: Request.REOPEN,
    signal.SIGUSR2: Request.UPGRADE,
    signal.SIGWINCH: Request.DISMISS,
    signal.SIGCHLD: Request.REAP,
}

#: What a worker does with a signal of its own; the others are the arbiter's affair, and ignored.
WORKER_SIGNALS = {
    signal.SIGTERM: "drain, and end; the arbiter replaces it",
    signal.SIGQUIT: "end at once",
    signal.SIGUSR1: "open the log files again",
    signal.SIGUSR2: "log the stack of every greenlet with the connection that it serves",
    signal.SIGABRT: "end with a core dump, where that is enabled; sent to a worker that missed its deadline",
}


class SignalQueue:
    """Takes over the signals of SIGNALS. Closes: close(), which gives them back, or retire()."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._previous = {number: signal.signal(number, _ignore) for number in SIGNALS}
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """For select: readable when there is something to read()."""
        return self._receiver.fileno()

    def read(self) -> list[Request]:
        """What was asked for since the last time, in order. Never blocks."""
        try:
            numbers = self._receiver.recv(4096)
        except BlockingIOError:
            return []
        return [SIGNALS[number] for byte in numbers if (number := _signal(byte)) in SIGNALS]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the signals back for a while: for a fork, whose child must not feed this queue."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def leave_to_child(self) -> None:
        """In a child, with the signals held: stop feeding the arbiter's queue.

        What ends a process ends it again, and children are its own again; all else is the arbiter's, INT too, which a
        terminal sends to everybody.
        """
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            is_default = number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD)
            signal.signal(number, signal.SIG_DFL if is_default else signal.SIG_IGN)
        self._receiver.close()
        self._sender.close()

    def close(self) -> None:
        self._end(self._previous)

    def retire(self) -> None:
        """Close, where the process is about to end: who tells it to once more does not change its exit status."""
        self._end({number: signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN for number in SIGNALS})

    def _end(self, handlers: Mapping[signal.Signals, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()


def _signal(number: int) -> signal.Signals | None:
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor has told the arbiter already."""


def is_in_foreground() -> bool:
    """Whether a terminal sends this process its signals."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def markdown_table() -> str:
    """Both tables, as docs/signals.md has them."""
    arbiter = [f"| `{number.name[3:]}` | {request.value} |" for number, request in SIGNALS.items()]
    worker = [f"| `{number.name[3:]}` | {meaning} |" for number, meaning in WORKER_SIGNALS.items()]
    head = "| signal | meaning |\n|---|---|\n"
    return (
        f"## To the arbiter\n\n{head}" + "\n".join(arbiter) + f"\n\n## To a worker\n\n{head}" + "\n".join(worker) + "\n"
    )
