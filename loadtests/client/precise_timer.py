"""Sleeps until a time of the monotonic clock, to within some ten microseconds.

gevent's own sleep rounds up to the next millisecond, because the epoll_wait() of its loop does. That would add half a
millisecond of the generator's to each response time. Here a timer file descriptor wakes the loop. One descriptor is
enough for all greenlets of a process: it is always set to the earliest time.
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

from loadtests.units import NS_IN_S

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_READ = 1
#: The sleepers are checked this often even if the timer never expires.
BACKSTOP_S = 1.0


class _Times(ctypes.Structure):
    """struct itimerspec"""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Wakes the sleeping greenlets of one event loop.

    The timer is never read: setting it again, or turning it off, also makes its descriptor unreadable. So each expiry
    costs one system call.

    close() closes the descriptor and the watchers.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        # [due time, number, greenlet]; the greenlet is None once it no longer sleeps
        self._sleepers: list[list[Any]] = []
        self._numbers = itertools.count()
        self._set_for_ns: int | None = None  # None: the timer is off
        self._is_waking = False
        self._error: BaseException | None = None
        self._hub: Any = gevent.get_hub()
        self._watcher = self._hub.loop.io(self._fd, _READ)
        self._watcher.start(self._wake_due)
        self._backstop = self._hub.loop.timer(BACKSTOP_S, BACKSTOP_S, ref=False)
        self._backstop.start(self._wake_due)

    def sleep_until(self, due_ns: int) -> None:
        """Return at `due_ns` of the monotonic clock; if that has passed, in the loop's next iteration.

        OSError: the timer could not be set; it is raised in every sleeper. GreenletExit: the alarm was closed.
        """
        if self._error is not None:
            raise self._error
        entry = [due_ns, next(self._numbers), getcurrent()]
        heapq.heappush(self._sleepers, entry)
        # While sleepers are woken, the timer is not set for each of them that sleeps again, but once at the end.
        if not self._is_waking and (self._set_for_ns is None or due_ns < self._set_for_ns):
            self._set(due_ns)
        try:
            self._hub.switch()
        finally:
            entry[2] = None

    def _wake_due(self) -> None:
        """In the hub: wake the greenlets that are due, then set the timer for the next one, whatever they raise."""
        self._is_waking = True
        try:
            # All that are due by now, not only the one that the timer was set for. After the loop was busy for ten
            # milliseconds, waking one sleeper in each iteration made 3.7% of a swarm's sends late; waking all made 2.5%
            # late. A greenlet that sleeps again until a time that has passed waits for the next iteration, so that
            # input is read in between.
            for entry in self._due_by(time.monotonic_ns()):
                self._wake(entry)
        finally:
            self._is_waking = False
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
        except BaseException:  # of a greenlet that is not gevent's; the others must still be woken
            self._hub.handle_error(greenlet, *sys.exc_info())

    def _set(self, due_ns: int | None) -> None:
        """Let the timer expire at `due_ns`, or never if that is None; its descriptor is readable only after that."""
        if self._error is not None:
            return
        times = _Times(0, 0, *divmod(0 if due_ns is None else max(1, due_ns), NS_IN_S))
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(times), None) < 0:
            self._fail(OSError(ctypes.get_errno(), "timerfd_settime failed"))
        self._set_for_ns = due_ns

    def _fail(self, error: BaseException) -> None:
        """Stop for good: raise `error` in every sleeper, and in every later call of sleep_until()."""
        self._error = error
        self._watcher.stop()
        self._backstop.stop()
        for entry in self._sleepers:
            self._hub.loop.run_callback(self._throw, entry, error)
        self._sleepers.clear()

    def _throw(self, entry: list[Any], error: BaseException) -> None:
        if entry[2] is not None:
            entry[2].throw(error)

    def close(self) -> None:
        """Raise GreenletExit in all sleepers, and release the descriptor and the watchers."""
        self._fail(gevent.GreenletExit("the alarm was closed"))
        self._watcher.close()
        self._backstop.close()
        os.close(self._fd)
