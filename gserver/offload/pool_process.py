"""One process of the pool, seen from the worker: its start, an exchange of frames with it, and its end.

The process is executed, not forked: it is a fresh interpreter without gevent's patching, without the worker's
descriptors and threads, and with a small memory of its own. It inherits user, environment, working directory and
standard output.

Closes: close(), after the process has ended, closes its socket and its pidfd.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gevent
from gevent import get_hub, socket
from gevent.event import Event

from gserver.offload.child import HEADER_BYTES
from gserver.process.descendants import close_all, descendants, send

__all__ = ["PoolProcess", "ProcessEnded"]

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")
_READABLE = 1  # an event of gevent's loop


class ProcessEnded(Exception):
    """The process has ended, or has closed its socket."""


class PoolProcess:
    """A process that is being started. OSError if that is not possible.

    Args:
        modules: modules that it imports before it is ready.
        title: its name in ps.
        is_silent: whether its standard output and error go to /dev/null.

    Attributes:
        calls: how many calls it has been given.
        status: how it ended: an exit status, or a negative number of a signal; None before, or if it is not known.
        is_outdated: whether it is to be replaced after its next call. For the pool; false at first.
        is_dismissed: whether it was told to end, so that its end is no surprise.
        leaving: set when it was told to end, or has ended.
        ended: set when it has ended, and `status` is known.
    """

    def __init__(self, modules: Sequence[str], title: str, is_silent: bool) -> None:
        self.calls = 0
        self.status: int | None = None
        self.is_outdated = self.is_dismissed = self._is_closed = False
        self.leaving, self.ended = Event(), Event()
        self._sock, theirs = socket.socketpair()
        try:
            self.pid, self._pidfd = execute(theirs.fileno(), is_silent)
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()
        self._setting = pickle.dumps({"path": sys.path, "modules": list(modules), "title": title})
        self._watcher: Any = get_hub().loop.io(self._pidfd, _READABLE)
        self._watcher.start(self._on_end)

    @property
    def descriptors(self) -> list[int]:
        return [self._sock.fileno(), self._pidfd]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, also if the event loop has not noticed yet."""
        if self.ended.is_set() or self._is_closed:
            return True
        try:
            return os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # it is reaped
            return True

    def wait_until_ready(self) -> str:
        """Block until it is ready; return which modules it could not import. ProcessEnded if it has ended instead."""
        return self.exchange(self._setting).decode()

    def exchange(self, request: bytes) -> bytearray:
        """Send a request, and block until the reply is there. ProcessEnded if there will be none."""
        try:
            self._sock.sendall(len(request).to_bytes(HEADER_BYTES, "big"))
            self._sock.sendall(request)
            return self._receive(int.from_bytes(self._receive(HEADER_BYTES), "big"))
        except OSError as error:
            raise ProcessEnded from error

    def dismiss(self) -> None:
        """Close the connection to it, so that it ends after its call."""
        self._leave()
        self._shut_down(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill it, with the processes that its function has started."""
        self._leave()
        if not self.has_ended:
            below = descendants(self.pid)
            send([self._pidfd, *below], signal.SIGKILL)
            close_all(below)

    def close(self) -> None:
        self._is_closed = True
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()
        close_all([self._pidfd])

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._sock.recv_into(rest)
            if not count:
                raise ProcessEnded
            rest = rest[count:]
        return data

    def _on_end(self) -> None:
        """The pidfd is readable. A process that it has forked may still hold its socket."""
        self._watcher.stop()
        gevent.spawn(self._reap)  # not here: gevent's waitpid() may have to wait for its loop, which calls this

    def _reap(self) -> None:
        self.status = reap(self.pid)
        self._shut_down(socket.SHUT_RDWR)
        self.leaving.set()
        self.ended.set()

    def _leave(self) -> None:
        if not self.leaving.is_set():
            self.is_dismissed = True
            self.leaving.set()

    def _shut_down(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:  # the other end is closed
            pass


def execute(descriptor: int, is_silent: bool) -> tuple[int, int]:
    """Execute child.py in a new process with this descriptor and the standard streams; return its pid and a pidfd."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # -P: without the folder of the file in sys.path.
    command = [sys.executable, *flags, "-P", _CHILD, str(descriptor), str(os.getpid())]
    to_null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in ((0, 1, 2) if is_silent else (0,))]
    inherit = (os.POSIX_SPAWN_DUP2, descriptor, descriptor)  # this clears close-on-exec
    # In a patched worker this is gevent's version. Its loop reaps all children as soon as the application uses
    # subprocess, and keeps the status only of those that were started through gevent.
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[*to_null, inherit],
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:  # no descriptor is free
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def reap(pid: int) -> int | None:
    """Return the exit status of a process that has ended, or minus the signal; None if other code has reaped it."""
    try:
        _, status = os.waitpid(pid, 0)
    except OSError:
        return None
    return os.waitstatus_to_exitcode(status)
