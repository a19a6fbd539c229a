"""Outputs of a log that never block: files, sockets, pipes and terminals.

A pipe, a terminal or a socket blocks its writer if no program reads it. O_NONBLOCK would prevent that, but it belongs
to the open file, and the shell and other programs share the open files of standard output and error. So:

    regular file       os.write(): the kernel copies the data to its cache
    socket             MSG_DONTWAIT, which applies to one call
    pipe, terminal     opened again through /proc/self/fd: this makes another open file, with its own O_NONBLOCK
    all others         poll(), then at most PIPE_BUF bytes: a pipe that polls as writable accepts so many at once

The last way is also used for a pipe or a terminal of another user, which cannot be opened again. It may block there:
another process may fill the pipe between poll() and write(), and a stopped terminal polls as writable while it has room
for one byte.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import stat
from collections.abc import Callable
from functools import partial
from select import PIPE_BUF, POLLOUT, poll  # the original: gevent's poll() switches to other greenlets

__all__ = ["Output"]

_AGAIN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_APPEND = _AGAIN | os.O_APPEND | os.O_CREAT


def _nothing_to_close() -> None:
    pass


class Output:
    """A destination of a log.

    Attributes:
        descriptor: for dup2() and poll().
        write: write(data) returns the number of bytes written. BlockingIOError if it would block; another OSError if it
            failed.
        close: closes the descriptor, if this object has opened it or has taken it over.
    """

    def __init__(
        self, descriptor: int, write: Callable[[bytes], int], close: Callable[[], None] = _nothing_to_close
    ) -> None:
        self.descriptor = descriptor
        self.write = write
        self.close = close

    @classmethod
    def of_path(cls, path: str) -> Output:
        """Open a file for appending; OSError if that fails, and for a FIFO without a reader, which would block."""
        return cls.of_descriptor(os.open(path, _APPEND, 0o666))

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Output:
        """Take over a descriptor from of_path(), of this process or of another one."""
        return cls(descriptor, partial(os.write, descriptor), partial(os.close, descriptor))

    @classmethod
    def of_standard(cls, descriptor: int, *, may_hold: bool = True) -> Output:
        """Use standard output or error.

        Args:
            may_hold: whether the present file may be opened a second time. False for a process that will leave its
                terminal: the reader at the other end would never get an end of file.
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
        """Block until the output is writable, at most `seconds`."""
        _is_writable(self.descriptor, seconds)

    def put_under(self, standard: int) -> None:
        """Redirect a standard descriptor to this output, for code that may block."""
        if stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.dup2(self.descriptor, standard)
            return
        with contextlib.suppress(OSError):  # it belongs to another user
            blocking = os.open(f"/proc/self/fd/{self.descriptor}", _AGAIN)
            os.set_blocking(blocking, True)
            os.dup2(blocking, standard)
            os.close(blocking)

    def is_same_file(self, descriptor: int) -> bool:
        """Return whether `descriptor` is the same file, pipe or terminal."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.fstat(descriptor))
        except OSError:
            return False


def _write_polled(descriptor: int, data: bytes) -> int:
    if not _is_writable(descriptor, 0.0):
        raise BlockingIOError
    return os.write(descriptor, data[:PIPE_BUF])


def _is_writable(descriptor: int, seconds: float) -> bool:
    """Return whether `descriptor` is writable within `seconds`. After an error, too: the write raises it."""
    waiting = poll()
    waiting.register(descriptor, POLLOUT)
    return bool(waiting.poll(max(0.0, seconds) * 1000))
