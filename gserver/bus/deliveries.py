"""The messages that wait to be delivered in this process, and the greenlet that delivers them.

Messages are delivered one after the other, in the order in which they were published or have arrived. A message goes
to those that have subscribed when its delivery begins. After each time slice the other connections have a
turn: a fan-out to thousands delays nobody.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet

from gserver.bus.subscriptions import Subscriber, Subscriptions
from gserver.bus.wire import InvalidBody, read_body
from gserver.connection.connection import Connection
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.errors import ConnectionClosed
from gserver.fault_isolation import interrupt_program

__all__ = ["OVERHEAD_BYTES", "Deliveries"]

#: What a waiting message counts in addition to its body: the memory of the objects around it.
OVERHEAD_BYTES = 200
# The clock is read after so many connections: 8 of them take some 50 us.
LOOK_EVERY = 8

log = logging.getLogger("gserver.bus")


class Deliveries:
    """Delivers messages to the subscribers.

    Args:
        origin: the name of this bus.
        most_bytes: how many bytes of messages may wait.
        delivered: called with the number of connections that have got a message.
        failed: called with an error, and the subscriber that does not get a message because of it; None: nobody gets
            the message.
        has_room: called when less than half of `most_bytes` waits, after is_full was true.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        origin: bytes,
        most_bytes: int,
        delivered: Callable[[int], None],
        failed: Callable[[BaseException, Subscriber | None], None],
        has_room: Callable[[], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._origin = origin
        self._most_bytes = most_bytes
        self._delivered, self._failed, self._has_room = delivered, failed, has_room
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._was_full = self._is_closed = False
        self._fairness = Fairness()
        self._slice_began = 0.0
        self._greenlet: Greenlet[..., Any] | None = None

    @property
    def is_idle(self) -> bool:
        return self._greenlet is None

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more should be received. Then has_room() will be called."""
        self._was_full = self._was_full or self._size > self._most_bytes
        return self._size > self._most_bytes

    def offer(self, topic: bytes, body: bytes) -> bool:
        """Deliver a message after those that wait; return False, and drop it, if too many wait."""
        if self._queue and self._size + len(body) + OVERHEAD_BYTES > self._most_bytes:
            return self._subscriptions.members(topic) is None
        self.put(topic, body)
        return True

    def put(self, topic: bytes, body: bytes) -> None:
        """Deliver a message after those that wait, if anybody has subscribed to its topic now.

        The caller stops receiving when is_full is true.
        """
        if self._is_closed or self._subscriptions.members(topic) is None:
            return
        self._queue.append((topic, body))
        self._size += len(body) + OVERHEAD_BYTES
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """Deliver nothing more."""
        self._is_closed = True
        self._queue.clear()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._fairness.close()

    def _run(self) -> None:
        try:
            self._slice_began = time.monotonic()
            while self._queue:
                topic, body = self._queue[0]
                self._deliver(topic, body)
                self._queue.popleft()
                self._size -= len(body) + OVERHEAD_BYTES
                if self._was_full and self._size < self._most_bytes / 2:
                    self._was_full = False
                    self._has_room()
                if time.monotonic() - self._slice_began > SLICE_S:
                    self._yield()
        finally:
            self._greenlet = None

    def _deliver(self, topic: bytes, data: bytes) -> None:
        members = self._subscriptions.members(topic)
        if not members:
            return
        try:
            origin, excluded, message = read_body(data)
        except InvalidBody as error:
            self._failed(error, None)
            return
        if origin != self._origin:
            excluded = 0
        until_look, count = LOOK_EVERY, 0
        for conn in tuple(members):
            if conn not in members or conn.number == excluded:  # it may have left in an earlier slice
                continue
            try:
                conn.send_nowait(message)
                count += 1
            except ConnectionClosed:  # by its own limit just now, or it is about to end
                if isinstance(conn, Connection):
                    self._subscriptions.remove_all(conn)
            except BaseException as error:
                if self._is_closed:
                    raise
                self._failed(error, conn)
                interrupt_program(error)
            until_look -= 1
            if not until_look:
                until_look = LOOK_EVERY
                if time.monotonic() - self._slice_began > SLICE_S:
                    self._delivered(count)
                    count = 0
                    self._yield()
        self._delivered(count)

    def _yield(self) -> None:
        self._fairness.yield_to_others()
        self._slice_began = time.monotonic()
