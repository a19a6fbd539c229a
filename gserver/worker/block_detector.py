"""Who keeps the hub from turning: a handler that computes, or blocks in a way that is not gevent's.

While it does, no other connection of the worker is served, and no timer runs. So a thread of the system's own looks at
the hub from outside, some times a second: whether its loop has turned since it last looked, and where it stands. What
it sees is written down at once and logged when the hub turns again, for then it is known how long it took.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gevent import get_hub
from gevent.hub import Hub
from gevent.monkey import get_original

from gserver.connection.connection import Connection
from gserver.engine.schedulers import Runner
from gserver.fault_isolation import shielded

__all__ = ["HubWatch"]

log = logging.getLogger("gserver.worker")

# A block is seen for certain if it lasts this many looks.
LOOKS_A_BLOCK = 2

_sleep = get_original("time", "sleep")
_start_thread = get_original("_thread", "start_new_thread")
_this_thread = get_original("_thread", "get_ident")


class HubWatch:
    """Watches the hub of the thread that makes it. Closes: stop().

    Args:
        block_s: how long the hub may stand still before it is worth a line in the log, in seconds.
    """

    def __init__(self, block_s: float) -> None:
        self._block_s = block_s
        self._loop: Any = get_hub().loop
        self._thread = _this_thread()
        self._longest_s = 0.0
        self._report = ""  # where the hub stood when it was seen to stand still
        self._blocked_s = 0.0
        self._turn = 0  # how often the loop had turned by the last look at which it turned
        self._turned_at = 0.0  # when that was
        self._is_stopped = False
        self._wake = self._loop.async_()
        self._wake.start(shielded, "the report of a block", self._tell)
        _start_thread(self._watch, ())

    def take_longest(self) -> float:
        """The longest that the hub was seen to stand still since this was last asked, in seconds."""
        longest, self._longest_s = self._longest_s, 0.0
        return longest

    def stop(self) -> None:
        """The thread ends within a look; nothing is logged any more."""
        self._is_stopped = True
        self._wake.stop()
        self._wake.close()

    def _watch(self) -> None:
        """The thread."""
        self._turn, self._turned_at = self._loop.iteration, time.monotonic()
        while not self._is_stopped:
            _sleep(self._block_s / LOOKS_A_BLOCK)
            try:
                self._look(time.monotonic(), sys._current_frames().get(self._thread))
            except Exception:  # frames change while they are read: the next look is another one
                continue

    def _look(self, now: float, frame: FrameType | None) -> None:
        if self._loop.iteration != self._turn or frame is None or _is_idle(frame):
            self._turn, self._turned_at = self._loop.iteration, now
            self._turned()
            return
        self._blocked_s = now - self._turned_at
        self._longest_s = max(self._longest_s, self._blocked_s)
        if self._blocked_s >= self._block_s and not self._report:
            self._report = _describe(frame)

    def _turned(self) -> None:
        if self._report and not self._is_stopped:
            self._wake.send()

    def _tell(self) -> None:
        """In the hub, which turns again."""
        report, self._report = self._report, ""
        log.warning("The worker stood still for %.1f s or more: %s", self._blocked_s, report)


def _is_idle(frame: FrameType) -> bool:
    """The hub is in its loop, which waits for events or goes from one to the next."""
    return frame.f_code is Hub.run.__code__


def _frames(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back


def _connection_of(frame: FrameType) -> Connection | None:
    """Of a turn, of a stream, or, where turns are compiled, of the engine that has called one."""
    if not frame.f_globals.get("__name__", "").startswith("gserver."):
        return None
    conn, runner = frame.f_locals.get("conn"), frame.f_locals.get("runner")
    if conn is None and isinstance(runner, Runner):
        conn = runner.conn
    return conn if isinstance(conn, Connection) else None


def _describe(innermost: FrameType) -> str:
    """Who, in what and where: told by the innermost frame of ours that has a connection."""
    called = conn = None
    for frame in _frames(innermost):
        conn = _connection_of(frame)
        if conn is not None:
            break
        called = frame
    who = f"{conn} in " if conn is not None else ""
    what = "" if called is None else f"{called.f_globals.get('__name__')}.{called.f_code.co_name}"
    return f"{who}{what}\n{''.join(traceback.format_stack(innermost))}"
