"""Signals: a table of their meanings, and the queue of those that the arbiter has received.

The signal handlers do nothing. The interpreter writes the number of each signal into a socket pair
(signal.set_wakeup_fd), and the arbiter's loop selects on it.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import socket
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "WORKER_SIGNALS", "Request", "SignalQueue", "markdown_table"]


class Request(enum.Enum):
    """What the arbiter does on a signal. The values are the texts of docs/signals.md."""

    STOP = (
        "serve on for shutdown_delay, drain all workers within drain_spread + graceful_timeout, then stop; during the "
        "delay: drain now"
    )
    QUIT = "stop after at most 1 second for outstanding replies, without a delay; during a drain: stop at once"
    RELOAD = (
        "read the configuration again and replace the workers one after another; if the new ones fail, the old ones "
        "stay; without new workers if only live settings have changed: see Reload"
    )
    MORE = "one worker more"
    FEWER = "one worker fewer, down to one"
    REOPEN = "open the log files again"
    UPGRADE = (
        "start a new arbiter with the current code on the same sockets; the old one keeps running until TERM or QUIT"
    )
    DISMISS = (
        "drain all workers and keep running without workers; ignored if the server runs in the foreground of a "
        "terminal, which sends it for each new size"
    )
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

#: The signals of a worker. It ignores the others.
WORKER_SIGNALS = {
    signal.SIGTERM: "drain, and exit; the arbiter replaces the worker",
    signal.SIGQUIT: "exit without a drain, within about one second",
    signal.SIGUSR1: "open the log files again",
    signal.SIGUSR2: "log the stack of every greenlet, with its connection",
    signal.SIGABRT: "exit with a core dump, if enabled; sent by the arbiter after a missed heartbeat deadline",
}


class SignalQueue:
    """Queues the signals of SIGNALS. Closes: close(), which restores the previous handlers, or retire()."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._previous = {number: signal.signal(number, _ignore) for number in SIGNALS}
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """For select: readable when read() returns something."""
        return self._receiver.fileno()

    def read(self) -> list[Request]:
        """The requests since the last call, in order. Never blocks."""
        try:
            numbers = self._receiver.recv(4096)
        except BlockingIOError:
            return []
        return [SIGNALS[number] for byte in numbers if (number := _signal(byte)) in SIGNALS]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Block the signals inside the with block: for a fork, so that the child writes none into this queue."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def leave_to_child(self) -> None:
        """In a child process, with signals blocked: detach from the arbiter's queue.

        TERM, QUIT and CHLD get their default actions. All others are ignored, also INT, which a terminal sends to all
        processes of the group.
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
        """Close before the process exits, and ignore the signals: a second TERM must not change the exit status."""
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
    """Do nothing: the wakeup descriptor has delivered the signal."""


def markdown_table() -> str:
    """Both tables, for docs/signals.md."""
    arbiter = [f"| `{number.name[3:]}` | {request.value} |" for number, request in SIGNALS.items()]
    worker = [f"| `{number.name[3:]}` | {meaning} |" for number, meaning in WORKER_SIGNALS.items()]
    head = "| signal | meaning |\n|---|---|\n"
    return (
        f"## To the arbiter\n\n{head}" + "\n".join(arbiter) + f"\n\n## To a worker\n\n{head}" + "\n".join(worker) + "\n"
    )
