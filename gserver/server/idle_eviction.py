"""Finds the connection that has been idle longest, to evict it when the server is full and sheds.

A server that sheds is under load, so it does not scan all connections each time. It sorts them once, and takes them in
that order as long as they have stayed idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gserver.connection.connection import Connection

__all__ = ["IdleEviction"]

# If no connection is idle, the next scan of all comes no sooner than this.
SCAN_AGAIN_S = 0.05


class IdleEviction:
    """Finds the connection that has been idle longest.

    Args:
        connections: returns all connections of the server.
    """

    def __init__(self, connections: Callable[[], Iterable[Connection]]) -> None:
        self._connections = connections
        self._sorted: list[tuple[float, Connection]] = []  # the longest idle last
        self._scanned_at = -SCAN_AGAIN_S

    def take(self) -> Connection | None:
        """Return the connection that has waited longest for the next message of its peer; None if none waits."""
        conn = self._next()
        if conn is None and time.monotonic() - self._scanned_at >= SCAN_AGAIN_S:
            self._scanned_at = time.monotonic()
            idle = ((conn.active_at, conn) for conn in self._connections() if _is_idle(conn))
            self._sorted = sorted(idle, key=lambda entry: -entry[0])
            conn = self._next()
        return conn

    def _next(self) -> Connection | None:
        while self._sorted:
            active_at, conn = self._sorted.pop()
            if conn.active_at == active_at and _is_idle(conn):
                return conn
        return None


def _is_idle(conn: Connection) -> bool:
    """Return whether `conn` waits for its peer with nothing left to send: closing it frees its place at once."""
    return conn.is_listening and conn.outbox is None
