"""The timekeeper: looks at connections when their deadlines come, with one timer for all of them, and ends them.

What it does is said to the peer where a reply is owed: for a message or a handler that took too long. Whoever was
silent is closed without a word, for a reply that nobody asked for would be taken for that to the next question.

A deadline is the peer's, and it may have been met although the worker came late: timers run before what has arrived is
read. So before a silent peer is closed, its socket is looked at for input; and after the loop has stood still, nobody
is closed before it has turned once. Each is granted once for each deadline, so that nobody can put one off for ever.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from gevent import get_hub

from gserver.connection.connection import Connection, State
from gserver.engine.schedulers import Engine
from gserver.errors import CloseReason, HandlerTimeout, MessageTimeout
from gserver.fault_isolation import shielded
from gserver.limits.deadlines import Deadlines
from gserver.limits.timer_wheel import NEVER, Wheel

__all__ = ["Timekeeper"]

log = logging.getLogger("gserver.timekeeper")

# Coming so much later than planned means that the loop stood still: a handler computed, or the process was stopped.
STOOD_STILL_S = 0.1
# A peer that does not read is looked at so often within its deadline: progress is only known to have come in between.
LOOKS_A_WRITE = 4
#: Deadlines that are met by something arriving.
_OF_INPUT = {
    CloseReason.HANDSHAKE_TIMEOUT,
    CloseReason.FIRST_BYTE_TIMEOUT,
    CloseReason.MESSAGE_TIMEOUT,
    CloseReason.IDLE_TIMEOUT,
    CloseReason.READ_IDLE_TIMEOUT,
}


class Timekeeper:
    """Watches the deadlines of connections.

    Args:
        deadlines: how long each thing may take.
        engine: where the connections are served; None: there never are any.
    """

    def __init__(self, deadlines: Deadlines, engine: Engine[Any] | None) -> None:
        self._deadlines = deadlines
        self._engine = engine
        self._fresh_s = deadlines.fresh_s
        self._tick_s = deadlines.tick_s
        self._write_look_s = deadlines.write_s / LOOKS_A_WRITE or NEVER
        self._wheel: Wheel[Connection] = Wheel(self._tick_s)
        self._excused: dict[Connection, float] = {}  # which deadline each was given more time for, once
        self._timer: Any = None
        self._timer_due = NEVER

    def begin(self, conn: Connection) -> None:
        """`conn` was accepted just now. What watch() would do, for a tenth of the time."""
        due = conn.active_at + self._fresh_s
        self._wheel.place(conn, due)
        if due < self._timer_due:
            self._set_timer()

    def watch(self, conn: Connection) -> None:
        """From now on, or because `conn` waits for something else now. Costs nothing if it is looked at sooner."""
        if conn.state is not State.CLOSED:
            due = self._deadlines.first(conn)[0]
            if conn.outbox is not None:
                due = min(due, time.monotonic() + self._write_look_s)
            self._wheel.place(conn, due)
            if due < self._timer_due:
                self._set_timer()

    def forget(self, conn: Connection) -> None:
        """`conn` is closed."""
        self._wheel.remove(conn)
        self._excused.pop(conn, None)

    def close(self) -> None:
        """Let go of the timer; nothing is watched any more."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._timer_due = NEVER

    def _set_timer(self) -> None:
        self.close()
        due = self._wheel.next_due
        if due < NEVER:
            self._timer_due = due
            self._timer = get_hub().loop.timer(max(0.0, due - time.monotonic()), ref=False)
            self._timer.start(self._look, update=True)

    def _look(self) -> None:
        now = time.monotonic()
        stood_still = now - self._timer_due > STOOD_STILL_S
        try:
            for conn in self._wheel.take_due(now):
                if not shielded("a deadline", self._judge, conn, now, stood_still, conn=conn):
                    shielded("closing", conn.abort, CloseReason.HANDLER_ERROR, conn=conn)
        finally:
            self._set_timer()

    def _judge(self, conn: Connection, now: float, stood_still: bool) -> None:
        conn.note_write_progress()
        due, reason = self._deadlines.first(conn)
        if due <= now:
            if self._is_excused(conn, due, reason, stood_still):
                self._excused[conn] = due
            else:
                self._expire(conn, reason)
        self._look_again(conn, now, due)

    def _is_excused(self, conn: Connection, due: float, reason: CloseReason, stood_still: bool) -> bool:
        if self._excused.get(conn) == due:
            return False
        return stood_still or (reason in _OF_INPUT and conn.has_input())

    def _look_again(self, conn: Connection, now: float, due: float) -> None:
        if conn.state is not State.CLOSED:
            # While it waits for nothing, such as in a handler without a deadline, it still comes up now and then.
            latest = now + (self._fresh_s if conn.outbox is None else min(self._fresh_s, self._write_look_s))
            self._wheel.place(conn, min(max(due, now + self._tick_s), latest))

    def _expire(self, conn: Connection, reason: CloseReason) -> None:
        engine = self._engine
        assert engine is not None
        log.debug("%s: %s", conn, reason.value)
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
        """Its handler has taken too long; the second time, that it would not end either."""
        if not conn.is_busy:  # its runner waits for something else
            conn.handler_since = None
        elif conn.close_reason is None:
            conn.close(CloseReason.HANDLER_TIMEOUT)  # when it is out of its handler
            engine.interrupt(conn, HandlerTimeout(f"no answer within {self._deadlines.handler_s:g} s"))
        else:
            conn.abort(CloseReason.HANDLER_TIMEOUT)
