"""Descriptors that a log is written to without blocking, whatever is at the other end.

A pipe, a terminal or a socket blocks its writer when nobody reads it. O_NONBLOCK would change that, but it belongs to
the open file, and standard output and error share theirs with the shell and other programs. So each kind has its way:

    regular file       os.write(): the kernel takes the data into its cache
    socket             MSG_DONTWAIT, which holds for one call
    pipe, terminal     opened again by /proc/self/fd, which makes another open file on it, with an O_NONBLOCK of its own
    all others         poll(), then at most PIPE_BUF bytes: a pipe that polls as writable takes so many without blocking

The last way is also that of a pipe or a terminal that may not be opened again, because another user made it. It is not
perfect there: another process may fill the pipe after poll(), with a page full of lines between two system calls, and a
terminal that was stopped polls as writable while it has room for one byte.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import stat
from collections.abc import Callable
from functools import partial
from select import PIPE_BUF, POLLOUT, poll  # kept from before gevent patches: its poll() switches to other greenlets

__all__ = ["Output"]

_AGAIN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_APPEND = _AGAIN | os.O_APPEND | os.O_CREAT


def _nothing_to_close() -> None:
    pass


class Output:
    """Where a log goes.

    Attributes:
        descriptor: for dup2() and poll().
        write: write(data) returns how many bytes were written; BlockingIOError if none could be now, another OSError if
            it failed.
        close: closes what this object has opened or was given.
    """

    def __init__(
        self, descriptor: int, write: Callable[[bytes], int], close: Callable[[], None] = _nothing_to_close
    ) -> None:
        self.descriptor = descriptor
        self.write = write
        self.close = close

    @classmethod
    def of_path(cls, path: str) -> Output:
        """Open a file to append to; OSError. A FIFO without a reader is refused: opening it would block."""
        return cls.of_descriptor(os.open(path, _APPEND, 0o666))

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Output:
        """Take over a descriptor that of_path() opened, in this process or in another one."""
        return cls(descriptor, partial(os.write, descriptor), partial(os.close, descriptor))

    @classmethod
    def of_standard(cls, descriptor: int, *, may_hold: bool = True) -> Output:
        """Use standard output or error.

        may_hold: whether what is there now may be kept open. A process that will leave its terminal must not: the
        reader at the other end would wait for the end of file in vain.
        """
        with contextlib.suppress(OSError):
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                return cls(descriptor, partial(os.write, descriptor))
            if may_hold and stat.S_ISSOCK(mode):
                return cls._of_socket(os.dup(descriptor))
            if may_hold and (stat.S_ISFIFO(mode) or os.isatty(descriptor)):
                return cls.of_descriptor(os.open(f"/proc/self/fd/{descriptor}", _AGAIN))
        return cls(descriptor, partial(_write_polled, descriptor))

    @classmethod
    def _of_socket(cls, descriptor: int) -> Output:
        sock = _socket.socket(fileno=descriptor)
        return cls(descriptor, lambda data: sock.send(data, _socket.MSG_DONTWAIT), sock.close)

    def wait(self, seconds: float) -> None:
        """Block until it may be written to, or until the time is over."""
        _is_writable(self.descriptor, seconds)

    def put_under(self, standard: int) -> None:
        """Let a standard descriptor lead to the same file, for code that may block."""
        if stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.dup2(self.descriptor, standard)
            return
        with contextlib.suppress(OSError):  # another user's
            blocking = os.open(f"/proc/self/fd/{self.descriptor}", _AGAIN)
            os.set_blocking(blocking, True)
            os.dup2(blocking, standard)
            os.close(blocking)

    def is_same_file(self, descriptor: int) -> bool:
        """Whether `descriptor` leads to the same file, pipe or terminal."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.fstat(descriptor))
        except OSError:
            return False


def _write_polled(descriptor: int, data: bytes) -> int:
    if not _is_writable(descriptor, 0.0):
        raise BlockingIOError
    return os.write(descriptor, data[:PIPE_BUF])


def _is_writable(descriptor: int, seconds: float) -> bool:
    """An error counts as writable: the write will raise it."""
    waiting = poll()
    waiting.register(descriptor, POLLOUT)
    return bool(waiting.poll(max(0.0, seconds) * 1000))
