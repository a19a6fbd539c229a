"""Which connections and functions of this process have subscribed to which topics.

A connection is removed when it ends. The order of subscribers is that in which they have subscribed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gserver.bus.listeners import Listener
from gserver.connection.connection import Connection

__all__ = ["Subscriber", "Subscriptions"]

Subscriber = Connection | Listener


def _nothing(topic: bytes) -> None:
    pass


class Subscriptions:
    """The subscriptions of the connections of one event loop.

    Args:
        began: called with a topic when it gets its first subscriber.
        ended: called with a topic when its last subscriber has left.
    """

    def __init__(self, began: Callable[[bytes], None] = _nothing, ended: Callable[[bytes], None] = _nothing) -> None:
        self._began, self._ended = began, ended
        self._members: dict[bytes, dict[Subscriber, None]] = {}
        self._topics: dict[Connection, set[bytes]] = {}

    def __len__(self) -> int:
        """The number of subscriptions."""
        return sum(map(len, self._members.values()))

    @property
    def topics(self) -> list[bytes]:
        return list(self._members)

    def members(self, topic: bytes) -> dict[Subscriber, None] | None:
        """The subscribers of a topic, as keys; None if it has none. It changes with them."""
        return self._members.get(topic)

    def add(self, conn: Any, topic: bytes) -> None:
        """ConnectionClosed if the connection is closed."""
        if not isinstance(conn, Connection):
            raise TypeError(f"conn is {conn!r}: a subscriber is the connection of a Service or of a @stream function")
        topics = self._topics.get(conn)
        if topics is None:
            conn.when_closed(self.remove_all)
            topics = self._topics[conn] = set()
        topics.add(topic)
        self._add(conn, topic)

    def add_listener(self, listener: Listener, topic: bytes) -> None:
        """For as long as there is this object."""
        self._add(listener, topic)

    def _add(self, subscriber: Subscriber, topic: bytes) -> None:
        members = self._members.get(topic)
        if members is None:
            members = self._members[topic] = {}
            self._began(topic)
        members[subscriber] = None

    def remove(self, conn: Connection, topic: bytes) -> None:
        topics = self._topics.get(conn)
        if topics is None or topic not in topics:
            return
        topics.remove(topic)
        if not topics:
            del self._topics[conn]
        members = self._members[topic]
        del members[conn]
        if not members:
            del self._members[topic]
            self._ended(topic)

    def remove_all(self, conn: Connection) -> None:
        """The connection has ended."""
        for topic in tuple(self._topics.get(conn, ())):
            self.remove(conn, topic)
