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
import sys
import time
from typing import Any

import gevent
from greenlet import getcurrent

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_READ = 1
NS_IN_S = 10**9
#: The sleepers are looked through this often even if the timer stays silent.
BACKSTOP_S = 1.0


class _Times(ctypes.Structure):
    """struct itimerspec"""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """The sleepers of one event loop.

    Nothing is read from the timer: setting it again, or to nothing, makes its descriptor unreadable just as well. So
    each ring costs one system call, and none depends on what another one has read.

    Closes: its descriptor and its watchers, in close().
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        # [when, number, greenlet]; the greenlet of one that sleeps no more is None
        self._sleepers: list[list[Any]] = []
        self._numbers = itertools.count()
        self._set_for_ns: int | None = None  # None: it is not set
        self._is_ringing = False
        self._error: BaseException | None = None
        self._hub: Any = gevent.get_hub()
        self._watcher = self._hub.loop.io(self._fd, _READ)
        self._watcher.start(self._ring)
        self._backstop = self._hub.loop.timer(BACKSTOP_S, BACKSTOP_S, ref=False)
        self._backstop.start(self._ring)

    def sleep_until(self, due_ns: int) -> None:
        """Return at `due_ns` of the monotonic clock; at the loop's next turn if that has passed.

        OSError: the timer could not be set; every sleeper gets it. GreenletExit: the alarm was closed.
        """
        if self._error is not None:
            raise self._error
        entry = [due_ns, next(self._numbers), getcurrent()]
        heapq.heappush(self._sleepers, entry)
        # During a ring the timer is not set for each that sleeps again, but once at the end.
        if not self._is_ringing and (self._set_for_ns is None or due_ns < self._set_for_ns):
            self._set(due_ns)
        try:
            self._hub.switch()
        finally:
            entry[2] = None

    def _ring(self) -> None:
        """In the hub: wake those whose time has come, and set the timer for the next one, whatever they raise."""
        self._is_ringing = True
        try:
            # All that are due by now, not only by what it was set for: where the loop was busy for ten milliseconds,
            # one sleeper a turn takes so long to catch up that 3.7% of a swarm's sends were late, and 2.5% with all at
            # once. Who sleeps again until a moment that has passed waits for the next turn, which looks for input.
            for entry in self._due_by(time.monotonic_ns()):
                self._wake(entry)
        finally:
            self._is_ringing = False
            self._set(self._sleepers[0][0] if self._sleepers else None)

    def _due_by(self, reached_ns: int) -> list[list[Any]]:
        sleepers, due = self._sleepers, []
        while sleepers and (sleepers[0][2] is None or sleepers[0][0] <= reached_ns):
            due.append(heapq.heappop(sleepers))
        return due

    def _wake(self, entry: list[Any]) -> None:
        greenlet = entry[2]
        if greenlet is None:
            return
        try:
            greenlet.switch()
        except BaseException:  # a greenlet that is none of gevent's ends with it here, and the others are woken
            self._hub.handle_error(greenlet, *sys.exc_info())

    def _set(self, due_ns: int | None) -> None:
        """Let the timer expire at `due_ns`, or never; it is readable only after that."""
        if self._error is not None:
            return
        times = _Times(0, 0, *divmod(0 if due_ns is None else max(1, due_ns), NS_IN_S))
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(times), None) < 0:
            self._fail(OSError(ctypes.get_errno(), "timerfd_settime failed"))
        self._set_for_ns = due_ns

    def _fail(self, error: BaseException) -> None:
        """It will never ring again: every sleeper gets the error now, and each that comes gets it at once."""
        self._error = error
        self._watcher.stop()
        self._backstop.stop()
        for entry in self._sleepers:
            self._hub.loop.run_callback(self._end, entry, error)
        self._sleepers.clear()

    def _end(self, entry: list[Any], error: BaseException) -> None:
        if entry[2] is not None:
            entry[2].throw(error)

    def close(self) -> None:
        """End those who still sleep, with GreenletExit."""
        self._fail(gevent.GreenletExit("the alarm was closed"))
        self._watcher.close()
        self._backstop.close()
        os.close(self._fd)
