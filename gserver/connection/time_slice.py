"""Fairness: a connection that has used up its time slice lets the other connections run first.

A greenlet that yields waits in a queue. One greenlet of the queue continues for each iteration of the event loop, after
every connection with input had a turn. So however many connections flood, another connection waits for one time slice,
not for the slices of all of them.

gevent.sleep(0) would not do: it returns before the loop has checked for input, because the loop runs callbacks for as
long as there are any, up to fifty at a time. Median latency of another connection beside one that floods, on one
worker: 67 ms with sleep(0), 2.4 ms with an idle watcher, which keeps the loop from waiting. The idle watcher has the
highest priority; with any other it would wait until no connection has input. Only one greenlet continues at a time:
beside 50 connections that flood, the median is 190 ms without this rule and 3 ms with it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

__all__ = ["SLICE_S", "Fairness"]

#: How long one connection may delay the others, in seconds.
SLICE_S = 0.001


class Fairness:
    """The queue of greenlets that have yielded, of one server. close() closes its watcher."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter[None]] = deque()
        self._idle: Any = None

    def yield_to_others(self) -> None:
        """Block the calling greenlet until the other connections had a turn."""
        waiter: Waiter[None] = Waiter()
        self._waiting.append(waiter)
        if self._idle is None:
            loop: Any = get_hub().loop
            self._idle = loop.idle(priority=loop.MAXPRI)
        if not self._idle.active:
            self._idle.start(self._next)
        waiter.get()

    def _next(self) -> None:
        waiter = self._waiting.popleft()
        if not self._waiting:
            self._idle.stop()
        waiter.switch(None)  # does nothing if the greenlet was killed meanwhile

    def close(self) -> None:
        """Close the watcher. No greenlet may be waiting any more."""
        if self._idle is not None:
            self._idle.stop()
            self._idle.close()
            self._idle = None
