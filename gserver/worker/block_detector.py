"""Detects handlers that block the event loop: by computing, or by a blocking call that gevent does not patch.

Meanwhile the worker serves no other connection and runs no timer. So a real thread checks the event loop several times
a second: whether it has run since the last check, and if not, which code is running. The thread saves the stack at
once. The worker logs it when the event loop runs again, because only then is the duration known.
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
from gserver.log_records import fields_of, title_of

__all__ = ["BlockDetector"]

log = logging.getLogger("gserver.worker")

# Checks per block_s: a block is certainly noticed if it lasts that many checks.
CHECKS_PER_BLOCK = 2

_sleep = get_original("time", "sleep")
_start_thread = get_original("_thread", "start_new_thread")
_this_thread = get_original("_thread", "get_ident")


class BlockDetector:
    """Watches the event loop of the thread that creates it. Closes: stop().

    Args:
        block_s: blocks from this duration on are logged, in seconds.
    """

    def __init__(self, block_s: float) -> None:
        self._block_s = block_s
        self._loop: Any = get_hub().loop
        self._thread = _this_thread()
        self._longest_s = 0.0
        self._report = ""  # the connection, the function and the stack of the present block
        self._fields: dict[str, str] = {}  # those of its connection
        self._blocked_s = 0.0
        self._iteration = 0  # the loop's count of iterations at the last check at which it had run
        self._ran_at = 0.0  # the time of that check
        self._is_stopped = False
        self._wake = self._loop.async_()
        self._wake.start(shielded, "the report of a block", self._log_block)
        _start_thread(self._watch, ())

    def take_longest(self) -> float:
        """The longest block since the last call, in seconds."""
        longest, self._longest_s = self._longest_s, 0.0
        return longest

    def stop(self) -> None:
        """Stop: the thread ends within one check, and nothing is logged any more."""
        self._is_stopped = True
        self._wake.stop()
        self._wake.close()

    def _watch(self) -> None:
        """The main function of the thread."""
        self._iteration, self._ran_at = self._loop.iteration, time.monotonic()
        while not self._is_stopped:
            _sleep(self._block_s / CHECKS_PER_BLOCK)
            try:
                self._check(time.monotonic(), sys._current_frames().get(self._thread))
            except Exception:  # frames may change while they are read; the next check is new
                continue

    def _check(self, now: float, frame: FrameType | None) -> None:
        if self._loop.iteration != self._iteration or frame is None or _is_idle(frame):
            self._iteration, self._ran_at = self._loop.iteration, now
            self._loop_has_run()
            return
        self._blocked_s = now - self._ran_at
        self._longest_s = max(self._longest_s, self._blocked_s)
        if self._blocked_s >= self._block_s and not self._report:
            report, self._fields = _describe(frame)
            self._report = report  # last: another thread logs as soon as it is set

    def _loop_has_run(self) -> None:
        if self._report and not self._is_stopped:
            self._wake.send()

    def _log_block(self) -> None:
        """In the event loop, after the block: log it."""
        report, self._report = self._report, ""
        text = "The event loop was blocked for %.1f s or more: %s"
        log.warning(text, self._blocked_s, report, extra=self._fields)


def _is_idle(frame: FrameType) -> bool:
    """Whether the hub itself runs: it waits for events, or is between two of them."""
    return frame.f_code is Hub.run.__code__


def _frames(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back


def _connection_of(frame: FrameType) -> Connection | None:
    """The connection of a frame: of the message loop or a stream, or of the runner that called the compiled loop."""
    if not frame.f_globals.get("__name__", "").startswith("gserver."):
        return None
    conn, runner = frame.f_locals.get("conn"), frame.f_locals.get("runner")
    if conn is None and isinstance(runner, Runner):
        conn = runner.conn
    return conn if isinstance(conn, Connection) else None


def _describe(innermost: FrameType) -> tuple[str, dict[str, str]]:
    """The connection, the function that it has called, and the stack; and the fields of the connection.

    The connection is that of the innermost frame of gserver that has one.
    """
    called = conn = None
    for frame in _frames(innermost):
        conn = _connection_of(frame)
        if conn is not None:
            break
        called = frame
    where = f"{title_of(conn)} in " if conn is not None else ""
    function = "" if called is None else f"{called.f_globals.get('__name__')}.{called.f_code.co_name}"
    report = f"{where}{function}\n{''.join(traceback.format_stack(innermost))}"
    return report, {} if conn is None else fields_of(conn)
