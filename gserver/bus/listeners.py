"""Functions that subscribe to a topic: bus.listen(). Each has a greenlet and a bounded queue of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet

from gserver.fault_isolation import interrupt_program

__all__ = ["Listener", "ListenerFull"]

log = logging.getLogger("gserver.bus")

#: How many messages may wait for one function.
MOST_WAITING = 1000


class ListenerFull(Exception):
    """As many messages wait for a function as may."""


class Listener:
    """A function as a subscriber: it has what the deliveries need of a connection.

    Attributes:
        number: never that of a connection.
    """

    number = -1

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function
        self._waiting: deque[Any] = deque()
        self._greenlet: Greenlet[..., Any] | None = None

    @property
    def is_idle(self) -> bool:
        return self._greenlet is None

    def send_nowait(self, message: Any) -> None:
        """Call the function with a message, after those before it; ListenerFull if too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise ListenerFull(f"{MOST_WAITING} messages wait for {self._function!r}")
        self._waiting.append(message)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """Call the function no more."""
        self._waiting.clear()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                try:
                    self._function(message)
                except BaseException as error:
                    log.exception("bus: %r failed", self._function)
                    interrupt_program(error)
        finally:
            self._greenlet = None
