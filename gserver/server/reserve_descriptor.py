"""A spare descriptor: how a server without descriptors still answers who connects.

Without one, accept() fails for as long as the process is at its limit, and the clients it fails for wait in the
kernel's queue, connected and unanswered, while the listener stays readable and the loop spins. So one descriptor is
kept back, and given up for as long as it takes to accept a client and close it, or another: it knows at once.

Linux looks for a descriptor before it looks for a client, so at the limit accept() fails even when nobody waits. Only
with the spare one given up does it tell the two apart.

Where the interpreter is patched, gevent's os.close() returns first and closes later, when its loop turns. Here a
descriptor must be free at once, so everything is closed by the system's own close(): close_now().
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

from gevent.monkey import get_original

__all__ = ["EXHAUSTED", "SpareDescriptor", "close_now"]

#: What accept() says when the process or the machine has no descriptor or no memory left for another socket.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


Accepted = TypeVar("Accepted")

_close = get_original("os", "close")


def close_now(sock: Any) -> None:
    """Close a socket that nothing watches, of gevent's or of the system's; its descriptor is free on return."""
    _close(sock.detach())


class SpareDescriptor:
    """One descriptor kept back. Closes: close()."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.take()

    @property
    def is_there(self) -> bool:
        return self._fd is not None

    def lend(self, accept: Callable[[], Accepted | None]) -> Accepted | None:
        """Call `accept` with the spare descriptor free, and return what it does: a client, or None if nobody waits.

        With a client the descriptor is gone; take() gets it back once another is free.
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
        """Keep a descriptor back, if none is kept and one is free."""
        if self._fd is not None:
            return
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # somebody was quicker
            pass

    def close(self) -> None:
        if self._fd is not None:
            _close(self._fd)
            self._fd = None
