"""Enforces the deadlines of all connections with one timer.

A peer gets an answer where one is due: for a message or a handler that took too long. A silent peer is closed without
an answer, because it would take an answer without a request for the reply to its next request.

The peer may have met its deadline although the worker notices late: timers run before received data is read. So before
a silent peer is closed, its socket is checked for input. And after the event loop has been blocked, no connection is
closed before the loop has run once more. Each of these two delays is granted once for each deadline, so that no peer
can postpone one for ever.

Thousands of connections may be due at once: after a shorter timeout was set, or if their clients stop together. They
are checked in time slices, one for each iteration of the event loop.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from gevent import get_hub

from gserver.connection.connection import Connection, State
from gserver.connection.time_slice import SLICE_S
from gserver.engine.schedulers import Engine
from gserver.errors import CloseReason, HandlerTimeout, MessageTimeout
from gserver.fault_isolation import shielded
from gserver.limits.deadlines import Deadlines
from gserver.limits.timer_wheel import NEVER, Wheel
from gserver.log_records import log_about

__all__ = ["DeadlineTimer"]

log = logging.getLogger("gserver.timekeeper")

# A timer this late means that the event loop was blocked: a handler computed, or the process was stopped.
BLOCKED_LOOP_S = 0.1
# How often a peer that does not read is checked within its deadline. The moment of its progress is known only to lie
# between two checks.
CHECKS_PER_WRITE = 4
#: Deadlines that the peer meets by sending.
_OF_INPUT = {
    CloseReason.HANDSHAKE_TIMEOUT,
    CloseReason.FIRST_BYTE_TIMEOUT,
    CloseReason.MESSAGE_TIMEOUT,
    CloseReason.IDLE_TIMEOUT,
    CloseReason.READ_IDLE_TIMEOUT,
}


class DeadlineTimer:
    """Watches the deadlines of the connections of one server. Stop it with close().

    Args:
        deadlines: how long each step may take.
        engine: the engine that serves the connections; None for a server that never has any.
    """

    def __init__(self, deadlines: Deadlines, engine: Engine[Any] | None) -> None:
        self._engine = engine
        self._wheel: Wheel[Connection] = Wheel(deadlines.tick_s)
        self.change(deadlines)
        self._extended: dict[Connection, float] = {}  # the deadline for which each was given more time
        self._unchecked: deque[Connection] = deque()  # due, but not checked yet
        self._was_blocked = False  # when they were due
        self._timer: Any = None
        self._timer_due = NEVER

    def change(self, deadlines: Deadlines) -> None:
        """Use other deadlines from now on. The caller calls watch_anew() for each connection that there is."""
        self._deadlines = deadlines
        self._fresh_s = deadlines.fresh_s
        self._tick_s = deadlines.tick_s
        self._write_check_s = deadlines.write_s / CHECKS_PER_WRITE or NEVER
        self._wheel.change_tick(self._tick_s)

    def begin(self, conn: Connection) -> None:
        """Watch `conn`, which the service gets just now. Does what watch() would do, in a tenth of the time."""
        due = conn.active_at + self._fresh_s
        self._wheel.place(conn, due)
        if due < self._timer_due:
            self._set_timer()

    def watch(self, conn: Connection) -> None:
        """Watch `conn`, or place it anew because a deadline has begun. Cheap if it is to be checked sooner anyway."""
        if conn.state is not State.CLOSED:
            due = self._deadlines.first(conn)[0]
            if conn.outbox is not None:
                due = min(due, time.monotonic() + self._write_check_s)
            self._wheel.place(conn, due)
            if due < self._timer_due:
                self._set_timer()

    def watch_anew(self, conn: Connection) -> None:
        """The deadlines have changed: check `conn` in time for those that run, and for those that begin unnoticed."""
        if conn.state is not State.CLOSED:
            self.watch(conn)
            due = time.monotonic() + self._fresh_s
            self._wheel.place(conn, due)
            if due < self._timer_due:
                self._set_timer()

    def forget(self, conn: Connection) -> None:
        """Stop watching `conn`, which is closed."""
        self._wheel.remove(conn)
        self._extended.pop(conn, None)

    def close(self) -> None:
        """Stop the timer; no connection is watched any more."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._timer_due = NEVER

    def _set_timer(self) -> None:
        self.close()
        due = time.monotonic() if self._unchecked else self._wheel.next_due
        if due < NEVER:
            self._timer_due = due
            self._timer = get_hub().loop.timer(max(0.0, due - time.monotonic()), ref=False)
            self._timer.start(self._check_due, update=True)

    def _check_due(self) -> None:
        now = time.monotonic()
        slice_ends = now + SLICE_S
        if not self._unchecked:
            self._was_blocked = now - self._timer_due > BLOCKED_LOOP_S
            self._unchecked.extend(self._wheel.take_due(now))
        try:
            while self._unchecked and now < slice_ends:
                conn = self._unchecked.popleft()
                if not shielded("a deadline", self._check, conn, now, self._was_blocked, conn=conn):
                    shielded("closing", conn.abort, CloseReason.HANDLER_ERROR, conn=conn)
                now = time.monotonic()
        finally:
            self._set_timer()

    def _check(self, conn: Connection, now: float, was_blocked: bool) -> None:
        if conn.state is State.CLOSED:  # while it waited for its check
            return
        conn.note_write_progress()
        due, reason = self._deadlines.first(conn)
        if due <= now:
            if self._has_more_time(conn, due, reason, was_blocked):
                self._extended[conn] = due
            else:
                self._expire(conn, reason)
        self._place_again(conn, now, due)

    def _has_more_time(self, conn: Connection, due: float, reason: CloseReason, was_blocked: bool) -> bool:
        if self._extended.get(conn) == due:
            return False
        return was_blocked or (reason in _OF_INPUT and conn.has_input())

    def _place_again(self, conn: Connection, now: float, due: float) -> None:
        if conn.state is not State.CLOSED:
            # Without a deadline, as in a handler that has none, it is still checked now and then.
            latest = now + (self._fresh_s if conn.outbox is None else min(self._fresh_s, self._write_check_s))
            self._wheel.place(conn, min(max(due, now + self._tick_s), latest))

    def _expire(self, conn: Connection, reason: CloseReason) -> None:
        engine = self._engine
        assert engine is not None
        log_about(conn, log, logging.DEBUG, "%(conn)s: %(reason)s", reason=reason.value)
        if reason is CloseReason.AGED and conn.handshake_since is None:
            engine.drain(conn, reason)
        elif reason is CloseReason.MESSAGE_TIMEOUT:
            text = f"message not complete after {self._deadlines.message_s:g} s"
            engine.dismiss(conn, MessageTimeout(text))
        elif reason is CloseReason.HANDLER_TIMEOUT:
            self._interrupt(engine, conn)
        elif reason is CloseReason.WRITE_TIMEOUT:
            conn.abort(reason)
        else:
            conn.close(reason)

    def _interrupt(self, engine: Engine[Any], conn: Connection) -> None:
        """The handler has taken too long: raise HandlerTimeout in it; the second time, abort the connection."""
        if not conn.is_busy:  # the runner waits for something other than a handler
            conn.stop_handler_clock()
        elif conn.close_reason is None:
            conn.close(CloseReason.HANDLER_TIMEOUT)  # takes effect when the handler is left
            engine.interrupt(conn, HandlerTimeout(f"no answer within {self._deadlines.handler_s:g} s"))
        else:
            conn.abort(CloseReason.HANDLER_TIMEOUT)
