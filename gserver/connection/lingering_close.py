"""Lingering close: wait for the peer to read the last reply before the socket is closed.

If a socket is closed with unread input, the kernel sends a reset, and the reset discards what the peer has not read yet
(RFC 1122, 4.2.2.13; measured here: 8 error replies of 8 lost). So the sending side is shut down, and input is discarded
until the peer closes too, within limits of time and bytes. It needs no greenlet, and one timer serves all sockets.

Deadlines use the monotonic clock. loop.now() is the wall clock: if that is set back, it would keep sockets as long.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub

from gserver.fault_isolation import shielded

__all__ = ["LingeringClose"]

DISCARD_BYTES = 64 * 1024
# The most sockets that linger at a time; one more closes the oldest. A flood of refused clients must not use up the
# descriptors.
MAX_WAITING = 1024
# The most bytes that a peer may still send: as much as a fast one has in flight, but no unlimited upload.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024


class LingeringClose:
    """The sockets that wait for their peers to close.

    Args:
        timeout_s: how long a socket may stay, in seconds.
        on_empty: called whenever the last of them was closed.

    It closes every socket that it takes.
    """

    def __init__(self, timeout_s: float, on_empty: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._on_empty = on_empty
        self._loop = get_hub().loop
        self._timer: Any = None
        # In order of their deadlines, because all have the same timeout.
        self._waiting: dict[_socket.socket, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def sockets(self) -> list[_socket.socket]:
        return list(self._waiting)

    def take(self, sock: _socket.socket) -> None:
        """Shut down the sending side of `sock`, and close it once the peer has closed its own.

        The caller must not use `sock` any more.
        """
        try:
            sock.shutdown(_socket.SHUT_WR)
        except OSError:  # the peer is gone already
            sock.close()
            return
        if len(self._waiting) >= MAX_WAITING:
            self._drop(next(iter(self._waiting)))
        wait = self._waiting[sock] = _Wait(self._loop, sock, time.monotonic() + self._timeout_s)
        wait.watcher.start(self._readable, sock, wait)
        if self._timer is None:
            self._start_timer(self._timeout_s)

    def close(self) -> None:
        """Close all sockets that are left."""
        for sock in list(self._waiting):
            self._drop(sock)
        self._stop_timer()

    def _readable(self, sock: _socket.socket, wait: _Wait) -> None:
        if not shielded("a lingering close", self._discard, sock, wait) and sock in self._waiting:
            shielded("a lingering close", self._drop, sock)

    def _discard(self, sock: _socket.socket, wait: _Wait) -> None:
        try:
            data = sock.recv(DISCARD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        wait.discarded_bytes += len(data)
        if not data or wait.discarded_bytes > MAX_DISCARDED_BYTES:
            self._drop(sock)

    def _drop(self, sock: _socket.socket) -> None:
        watcher = self._waiting.pop(sock).watcher
        watcher.stop()
        watcher.close()
        sock.close()
        if not self._waiting:
            self._on_empty()

    def _start_timer(self, after_s: float) -> None:
        self._timer = self._loop.timer(after_s, ref=False)
        # update: the loop's clock is as old as the loop iteration, which a handler may have made long.
        self._timer.start(shielded, "ending lingering closes", self._expire, update=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _expire(self) -> None:
        self._stop_timer()
        # A millisecond of tolerance: the loop's clock and this one are not read at the same moment.
        now = time.monotonic() + 0.001
        try:
            for sock in [sock for sock, wait in self._waiting.items() if wait.deadline <= now]:
                self._drop(sock)
        finally:
            if self._waiting:
                next_deadline = next(iter(self._waiting.values())).deadline
                self._start_timer(max(0.0, next_deadline - now))


class _Wait:
    __slots__ = ("deadline", "discarded_bytes", "watcher")

    def __init__(self, loop: Any, sock: _socket.socket, deadline: float) -> None:
        self.watcher = loop.io(sock.fileno(), 1)
        self.deadline = deadline
        self.discarded_bytes = 0
