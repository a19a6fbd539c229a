"""The bus of this process: that of its worker, or, without a worker, one for each event loop.

A bus has a route to the other processes: the links to the other workers of the server, or Redis.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import gevent
from gevent import get_hub

from gserver.bus.deliveries import OVERHEAD_BYTES, Deliveries
from gserver.bus.links import Mesh
from gserver.bus.listeners import Listener
from gserver.bus.subscriptions import Subscriber, Subscriptions
from gserver.bus.wire import body_of, topic_bytes
from gserver.connection.connection import Connection
from gserver.connection.log_throttling import Notices
from gserver.counters import Cells, Counters, bus_cell

__all__ = ["QUEUE_BYTES", "Bus", "current", "listen", "start"]

#: The default of the setting bus_queue.
QUEUE_BYTES = 4 * 1024 * 1024
#: How long a new worker waits for the other workers, or for Redis, before it serves, in seconds.
JOIN_S = 1.0
#: How long a worker that ends waits for others that do not read, in seconds.
FLUSH_S = 0.5
POLL_S = 0.005
_DROPPED = "bus: %(count)d messages dropped: %(why)s"
_FAILED = "bus: %(count)d messages not delivered, the last to %(peer)s: %(why)s"
_INVALID = "bus: %(count)d messages not delivered: %(why)s"

_current: Bus | None = None
#: Topics and functions of listen(). A module of the application may declare them before the worker has its bus.
_listening: list[tuple[bytes, Callable[[Any], object]]] = []
_without_worker: WeakKeyDictionary[Any, Bus] = WeakKeyDictionary()  # by hub


class Route(Protocol):
    """The way of messages to the other processes, and to the deliveries of this one."""

    @property
    def is_joined(self) -> bool:
        """Whether messages reach the other processes now."""

    @property
    def is_sent(self) -> bool:
        """Whether nothing waits to be sent."""

    @property
    def descriptors(self) -> list[int]: ...

    def join(self) -> None:
        """Begin to connect to the other processes."""

    def publish(self, topic: bytes, body: bytes) -> None: ...

    def topic_began(self, topic: bytes) -> None: ...

    def topic_ended(self, topic: bytes) -> None: ...

    def resume(self) -> None: ...

    def close(self, timeout_s: float) -> None: ...


class Bus:
    """The topics of one event loop.

    Args:
        queue_bytes: the setting bus_queue.
        cells: where messages are counted; see gserver.counters. Default: memory of its own.
        ask: asks the arbiter for links to the other workers; None: there are none.
        url: of Redis; None: the other processes are the workers of the server.

    ConfigError if `url` cannot be used.

    Attributes:
        is_used: whether it connects to the other processes, or has.
    """

    def __init__(
        self,
        queue_bytes: int = QUEUE_BYTES,
        cells: Cells | None = None,
        ask: Callable[[], object] | None = None,
        url: str | None = None,
    ) -> None:
        self._queue_bytes = queue_bytes
        self._cells = Counters().cells if cells is None else cells
        self._pid = os.getpid()
        self._hub = get_hub()
        self._notices = Notices()
        self._origin = os.urandom(8)
        self.is_used = self._is_closed = False
        self._subscriptions = Subscriptions(
            lambda topic: self._route.topic_began(topic), lambda topic: self._route.topic_ended(topic)
        )
        self._deliveries = Deliveries(
            self._subscriptions,
            self._origin,
            queue_bytes,
            self._delivered,
            self._not_delivered,
            lambda: self._route.resume(),
        )
        self._mesh = Mesh(queue_bytes, self._deliveries, ask, self._dropped)
        self._route: Route = self._mesh if url is None else self._over_redis(url)
        self._listeners: list[Listener] = []
        for topic, function in _listening:
            self.listen(topic, function)

    def _over_redis(self, url: str) -> Route:
        from gserver.bus.redis_route import RedisRoute

        return RedisRoute(url, self._queue_bytes, self._deliveries, self._subscriptions, self._dropped)

    @property
    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    # For handlers

    def publish(self, topic: str, message: Any, exclude: Connection | None = None) -> None:
        name = self._checked(topic)
        if exclude is not None and not isinstance(exclude, Connection):
            raise TypeError(f"exclude is {exclude!r}, must be a connection, or None")
        body = body_of(self._origin, 0 if exclude is None else exclude.number, message)
        if len(body) + OVERHEAD_BYTES > self._queue_bytes:
            raise ValueError(
                f"the message has {len(body)} bytes: too many for the setting bus_queue, which is {self._queue_bytes}"
            )
        self._count("published")
        if self._is_closed:
            self._dropped(1, "the worker is about to end")
        else:
            self._route.publish(name, body)

    def subscribe(self, conn: Connection, topic: str) -> None:
        self._subscriptions.add(conn, self._checked(topic))

    def unsubscribe(self, conn: Connection, topic: str) -> None:
        self._subscriptions.remove(conn, self._checked(topic))

    def listen(self, topic: bytes, function: Callable[[Any], object]) -> None:
        listener = Listener(function)
        self._listeners.append(listener)
        self._subscriptions.add_listener(listener, topic)

    def _checked(self, topic: str) -> bytes:
        if get_hub() is not self._hub:
            raise RuntimeError("the bus is for the greenlets of the worker: this is another thread")
        if not self.is_used:
            self.join(0.0)
        return topic_bytes(topic)

    # For the worker

    def join(self, timeout_s: float = JOIN_S) -> None:
        """Connect to the other processes, if that has not begun yet; wait for that for at most so long."""
        if not self.is_used:
            self.is_used = True
            self._route.join()
        until = time.monotonic() + timeout_s
        while timeout_s and not self._route.is_joined and time.monotonic() < until:
            gevent.sleep(POLL_S)

    def linked(self, pids: Sequence[str], descriptors: Sequence[int]) -> None:
        """The arbiter has sent the worker's ends of links to other workers."""
        self._mesh.linked(pids, descriptors)

    def all_linked(self) -> None:
        """The arbiter has sent all links to the workers that were there before."""
        self._mesh.all_linked()

    def log_due(self) -> None:
        """Log the counts of what was dropped. Must be called once a second."""
        self._notices.log_due()

    def leave_to_parent(self) -> list[int]:
        """In a process forked from this one: return the descriptors, for the caller to replace."""
        return self._route.descriptors

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Deliver and send what waits, for at most so long, and end."""
        self._is_closed = True
        until = time.monotonic() + timeout_s
        while not self._is_idle and time.monotonic() < until:
            gevent.sleep(POLL_S)
        self._route.close(max(0.0, until - time.monotonic()))
        self._deliveries.close()
        for listener in self._listeners:
            listener.close()
        self._notices.log_all()

    @property
    def _is_idle(self) -> bool:
        is_delivered = self._deliveries.is_idle and all(listener.is_idle for listener in self._listeners)
        return is_delivered and self._route.is_sent

    # What is counted and logged

    def _count(self, event: str, count: int = 1) -> None:
        self._cells[bus_cell(event)] += count

    def _delivered(self, count: int) -> None:
        self._count("delivered", count)

    def _dropped(self, count: int, why: str) -> None:
        self._count("dropped", count)
        for _ in range(count):
            self._notices.note(logging.WARNING, _DROPPED, "", why)

    def _not_delivered(self, error: BaseException, subscriber: Subscriber | None) -> None:
        self._count("dropped")
        why = f"{type(error).__name__}: {error}"
        if isinstance(subscriber, Connection):
            self._notices.note(logging.ERROR, _FAILED, subscriber, why)
        else:
            self._notices.note(logging.ERROR, _INVALID, "", why)


def start(queue_bytes: int, cells: Cells, ask: Callable[[], object], url: str | None = None) -> Bus:
    """Make the bus of this worker, and return it. It does nothing before its first use, or join()."""
    global _current
    _current = Bus(queue_bytes, cells, ask, url)
    return _current


def current() -> Bus:
    """The bus of this process, or without a worker that of this event loop.

    In a process that was forked from a worker, the bus of the worker is not used.
    """
    if _current is not None and _current.is_of_this_process:
        return _current
    hub = get_hub()
    bus = _without_worker.get(hub)
    if bus is None or not bus.is_of_this_process:
        bus = _without_worker[hub] = Bus()
    return bus


def listen(topic: str, function: Callable[[Any], object]) -> None:
    """Have the bus of this process, and of each process that is forked from it, call a function."""
    name = topic_bytes(topic)
    if not callable(function):
        raise TypeError(f"function is {function!r}, must be a function of one argument: the message")
    if (name, function) in _listening:
        return
    _listening.append((name, function))
    own = _current if _current is not None and _current.is_of_this_process else _without_worker.get(get_hub())
    if own is not None:
        own.listen(name, function)
