"""Sleeping until a moment of the monotonic clock, to some ten microseconds.

gevent's own sleep rounds up to the next millisecond, because its loop's epoll_wait() does: half a millisecond that a
response time would have of the generator. A timer file descriptor wakes the loop when it is time. One is enough for
all greenlets of a process: it is always set to the earliest of them.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import time
from typing import Any

import gevent
from greenlet import getcurrent

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_READ = 1
NS_IN_S = 10**9


class _Times(ctypes.Structure):
    """struct itimerspec"""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """The sleepers of one event loop."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._hub: Any = gevent.get_hub()
        self._watcher = self._hub.loop.io(self._fd, _READ)
        self._watcher.start(self._ring)
        # [when, number, greenlet]; the greenlet of one that was killed is None
        self._sleepers: list[list[Any]] = []
        self._numbers = itertools.count()
        self._set_for_ns = 0  # 0: not set

    def sleep_until(self, due_ns: int) -> None:
        """Return at `due_ns` of the monotonic clock; at the loop's next turn if that has passed."""
        entry = [due_ns, next(self._numbers), getcurrent()]
        heapq.heappush(self._sleepers, entry)
        if not self._set_for_ns or due_ns < self._set_for_ns:
            self._set(due_ns)
        try:
            self._hub.switch()
        finally:
            entry[2] = None

    def _ring(self) -> None:
        """In the hub: wake whose time has come."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._set_for_ns = 0
        # All that are due by now, not only by what it was set for: where the loop was busy for ten milliseconds, one
        # sleeper a turn takes so long to catch up that 3.7% of a swarm's sends were late, and 2.5% with all at once.
        sleepers, reached_ns = self._sleepers, time.monotonic_ns()
        while sleepers and (sleepers[0][2] is None or sleepers[0][0] <= reached_ns):
            greenlet = heapq.heappop(sleepers)[2]
            if greenlet is not None:
                greenlet.switch()
        if sleepers and (not self._set_for_ns or sleepers[0][0] < self._set_for_ns):
            self._set(sleepers[0][0])

    def _set(self, due_ns: int) -> None:
        times = _Times(0, 0, *divmod(max(1, due_ns), NS_IN_S))
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(times), None)
        self._set_for_ns = due_ns

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        os.close(self._fd)
