"""The tasks of one connection: greenlets that run beside its handler. See Connection.spawn()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.event import Event

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["Tasks", "greenlets_of"]


class Tasks:
    """The greenlets of one connection that have not ended. It exists only while there are some.

    Attributes:
        running: the greenlets.
        newest: the one that was started last to handle a message; None if there was none. It may have ended.
    """

    __slots__ = ("_one_ended", "newest", "running")

    def __init__(self) -> None:
        self.running: set[Any] = set()
        self.newest: Any = None
        self._one_ended: Event | None = None

    def ended(self, greenlet: Any) -> None:
        """A task has ended, or was killed before it began."""
        self.running.discard(greenlet)
        if self._one_ended is not None:
            self._one_ended.set()
            self._one_ended = None

    def wait_for_fewer_than(self, number: int) -> None:
        """Block the calling greenlet while so many tasks run."""
        while len(self.running) >= number:
            if self._one_ended is None:
                self._one_ended = Event()
            self._one_ended.wait()


def greenlets_of(conn: Connection) -> list[Any]:
    """Return the greenlets that work for a connection and may wait: that of its handler first, then its tasks."""
    handler = [] if conn.runner is None else [conn.runner]
    return handler if conn.tasks is None else [*handler, *conn.tasks.running]
