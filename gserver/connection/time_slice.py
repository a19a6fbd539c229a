"""Fairness: who has had the processor for long lets the others go first.

Whoever gives way stands in a queue, of which one goes on for each turn of the loop, after everybody with input had a
turn. So however many connections flood, another one waits for a slice of one of them and not of all.

Not by gevent.sleep(0), which comes back before the loop has looked for input: it runs callbacks for as long as there
are any, up to fifty at a time. (Another connection's median beside one that floods, on one worker: 67 ms that way, and
2.4 ms with an idle watcher, which keeps the loop from waiting. Its priority is the highest, for at any other it would
have to wait until nobody has input. That one at a time goes on: beside 50 that flood, 190 ms without and 3 ms with it.)
"""

from __future__ import annotations

from collections import deque
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

__all__ = ["SLICE_S", "Fairness"]

#: For how long one connection may keep the others waiting.
SLICE_S = 0.001


class Fairness:
    """The queue of those who gave way, of one server. Closes: close()."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter[None]] = deque()
        self._idle: Any = None

    def let_others_go(self) -> None:
        """Block the calling greenlet until it is its turn again."""
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
        waiter.switch(None)  # does nothing if it was killed meanwhile

    def close(self) -> None:
        """Let go of the watcher; nobody may be waiting any more."""
        if self._idle is not None:
            self._idle.stop()
            self._idle.close()
            self._idle = None
