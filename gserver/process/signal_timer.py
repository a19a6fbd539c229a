"""A timer of the kernel that sends a signal to one thread at an interval: timer_create(2), timer_settime(2).

Unlike setitimer(2) it can be aimed at a thread, and takes none of the three timers that a process has only once. A
forked child does not inherit it, and an executed program does not get it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from typing import Any

__all__ = ["SignalTimer"]

_SIGEV_THREAD_ID = 4
_NANOSECONDS = 1_000_000_000


class _SigEvent(ctypes.Structure):
    """struct sigevent of Linux, 64 bytes: sigevent(3type)."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_int * 11),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


class SignalTimer:
    """Runs from now until stop(). OSError if there can be no timer.

    Args:
        number: the signal; the calling thread gets it.
        interval_s: seconds between two signals, of wall time. A signal that is still pending is not sent again.
    """

    def __init__(self, number: int, interval_s: float) -> None:
        self._libc = _library()
        self._id: ctypes.c_void_p | None = ctypes.c_void_p()
        event = _SigEvent(None, number, _SIGEV_THREAD_ID, threading.get_native_id())
        clock = time.CLOCK_MONOTONIC
        _check(self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(self._id)))
        seconds, nanoseconds = divmod(int(interval_s * _NANOSECONDS), _NANOSECONDS)
        interval = _TimeSpec(seconds, nanoseconds)
        try:
            _check(self._libc.timer_settime(self._id, 0, ctypes.byref(_TimerSpec(interval, interval)), None))
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Delete the timer. In the thread that made it, no signal comes after the return."""
        timer, self._id = self._id, None
        if timer is not None:
            self._libc.timer_delete(timer)

    def forget(self) -> None:
        """In a forked child, which has no such timer: do nothing at stop()."""
        self._id = None


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@functools.cache
def _library() -> Any:
    """The C library; before glibc 2.34, these functions are in librt."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timer_create"):
        libc = ctypes.CDLL("librt.so.1", use_errno=True)
    libc.timer_delete.argtypes = [ctypes.c_void_p]
    libc.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.timer_create.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return libc
