"""A spare file descriptor, with which a server that has run out of descriptors still closes or serves new clients.

Without it, accept() fails while the process is at its limit. The clients then wait in the kernel's accept queue,
connected and unanswered, while the listener stays readable and the loop spins. So one descriptor is kept in reserve. It
is released to accept a client, until that client or another connection is closed. The refused client gets the close at
once.

Linux allocates the descriptor before it looks for a client. So at the limit, accept() fails even when no client waits.
Only with the spare descriptor released does it distinguish the two cases.

In a patched interpreter, gevent's os.close() returns first and closes later, in the next loop iteration. Here a
descriptor must be free at once, so everything is closed by the system's own close(): close_now().
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

from gevent.monkey import get_original

__all__ = ["EXHAUSTED", "ReserveDescriptor", "close_now"]

#: The errors of accept() when the process or the machine has no descriptor or no memory left for another socket.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


Accepted = TypeVar("Accepted")

_close = get_original("os", "close")


def close_now(sock: Any) -> None:
    """Close a socket that has no watcher, gevent's or the system's; its descriptor is free on return."""
    _close(sock.detach())


class ReserveDescriptor:
    """One descriptor in reserve; close() closes it."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.take()

    @property
    def is_there(self) -> bool:
        return self._fd is not None

    def lend(self, accept: Callable[[], Accepted | None]) -> Accepted | None:
        """Call `accept` with the spare descriptor released; return its result: a client, or None if none waits.

        With a client, the client has the descriptor; take() opens another one once one is free.
        """
        self.close()
        try:
            client = accept()
        except OSError:
            self.take()
            raise
        if client is None:
            self.take()
        return client

    def take(self) -> None:
        """Open the spare descriptor, if it is not open and one is free."""
        if self._fd is not None:
            return
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another thread or process was quicker
            pass

    def close(self) -> None:
        if self._fd is not None:
            _close(self._fd)
            self._fd = None
