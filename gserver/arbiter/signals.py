"""The arbiter's signals: what each one asks for, and a queue of those that came.

Signal handlers do nothing: the interpreter writes the number of each signal into a socket pair (signal.set_wakeup_fd),
which the arbiter selects on beside everything else.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import socket
from collections.abc import Iterator
from types import FrameType

__all__ = ["MEANING", "Request", "SignalQueue"]


class Request(enum.Enum):
    DRAIN = "drain"  # finish what was received, within the graceful timeout
    QUIT = "quit"  # stop at once
    REAP = "reap"  # a worker has ended


MEANING = {
    signal.SIGTERM: Request.DRAIN,
    signal.SIGINT: Request.DRAIN,
    signal.SIGQUIT: Request.QUIT,
    signal.SIGCHLD: Request.REAP,
}


class SignalQueue:
    """Takes over the signals of MEANING. Closes: close() gives them back and closes the socket pair."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._previous = {number: signal.signal(number, _ignore) for number in MEANING}
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
        return [MEANING[number] for byte in numbers if (number := _signal(byte)) in MEANING]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the signals back for a while: for a fork, whose child must not feed this queue."""
        signal.pthread_sigmask(signal.SIG_BLOCK, MEANING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, MEANING)

    def leave_to_child(self) -> None:
        """In a child, with the signals held: stop feeding the arbiter's queue. INT is the arbiter's to pass on."""
        signal.set_wakeup_fd(-1)
        for number in MEANING:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        self._receiver.close()
        self._sender.close()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._receiver.close()
        self._sender.close()


def _signal(number: int) -> signal.Signals | None:
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor has told the arbiter already."""
