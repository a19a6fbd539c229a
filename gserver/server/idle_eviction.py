"""Which connection has been idle longest: the one that makes room when a server is full and sheds.

A server that sheds is under pressure, so not every connection is looked at each time: they are sorted once, and taken
in that order for as long as they have stayed idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gserver.connection.connection import Connection

__all__ = ["LongestIdle"]

# With nobody idle, the next look at all of them comes no sooner than this.
LOOK_AGAIN_S = 0.05


class LongestIdle:
    """Args: connections: called for those that there are."""

    def __init__(self, connections: Callable[[], Iterable[Connection]]) -> None:
        self._connections = connections
        self._sorted: list[tuple[float, Connection]] = []  # the longest idle last
        self._looked_at = -LOOK_AGAIN_S

    def take(self) -> Connection | None:
        """The connection that waits for its peer's next message and has done so longest; None if none does."""
        conn = self._next()
        if conn is None and time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = time.monotonic()
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
    """Nothing is owed to it either: it goes, and its place is free, as soon as it is closed."""
    return conn.is_listening and conn.outbox is None
