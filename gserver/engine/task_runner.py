"""Runs the tasks of connections: see Connection.spawn().

A task is part of its connection: a close or a drain waits for it, and the kill of a connection kills it. It has the
handler's deadline, with a timer of its own, because the deadlines of a connection allow for one handler only.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub

from gserver.connection.connection import Connection
from gserver.errors import CloseReason, HandlerTimeout
from gserver.fault_isolation import Killed, shielded

if TYPE_CHECKING:
    Task = gevent.Greenlet[..., Any]

__all__ = ["TaskRunner", "kill_tasks"]


def kill_tasks(conn: Connection) -> None:
    """Kill the tasks of a connection. Never blocks."""
    if conn.tasks is not None:
        gevent.killall(list(conn.tasks.running), Killed, block=False)


class TaskRunner:
    """Runs tasks.

    Args:
        failed: called as failed("task", conn, error) for an exception of a task; returns whether the peer was answered.
        handler_s: returns the handler timeout in seconds; 0: no limit.
    """

    def __init__(
        self, failed: Callable[[str, Connection, BaseException], object], handler_s: Callable[[], float]
    ) -> None:
        self._failed = failed
        self._handler_s = handler_s

    def spawn(self, conn: Connection, function: Callable[..., object], arguments: tuple[Any, ...]) -> Task:
        """Call the function in a greenlet of its own, which is returned."""
        greenlet: Task = gevent.Greenlet(self._run, conn, function, arguments)
        greenlet.gr_context = contextvars.copy_context()  # a greenlet has an empty one
        greenlet.start()
        task = _Task(conn, greenlet, self._handler_s())
        conn.task_began(greenlet)
        greenlet.rawlink(task.ended)
        return greenlet

    def _run(self, conn: Connection, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        except Killed:
            conn.abort(CloseReason.KILLED)
        except gevent.GreenletExit:  # the application has killed it
            pass
        except BaseException as error:
            if not self._failed("task", conn, error):
                conn.close(CloseReason.HANDLER_ERROR)


class _Task:
    """One task, with its deadline."""

    __slots__ = ("_conn", "_greenlet", "_handler_s", "_is_interrupted", "_timer")

    def __init__(self, conn: Connection, greenlet: Task, handler_s: float) -> None:
        self._conn = conn
        self._greenlet = greenlet
        self._handler_s = handler_s
        self._is_interrupted = False
        self._timer: Any = None
        if handler_s:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = get_hub().loop.timer(self._handler_s, ref=False)
        self._timer.start(self._overdue, update=True)  # from now, not from the start of a long loop iteration

    def _overdue(self) -> None:
        self._timer.close()
        self._start_timer()
        shielded("a task's deadline", self._interrupt, conn=self._conn)

    def _interrupt(self) -> None:
        """Raise HandlerTimeout in the task; the second time, abort the connection and kill the task."""
        if self._is_interrupted:
            self._conn.abort(CloseReason.HANDLER_TIMEOUT)
            self._greenlet.kill(Killed, block=False)
            return
        self._is_interrupted = True
        self._conn.close(CloseReason.HANDLER_TIMEOUT)  # takes effect when the last task has ended
        self._greenlet.throw(HandlerTimeout(f"no answer within {self._handler_s:g} s"))

    def ended(self, greenlet: Task) -> None:
        """Called in the hub, once."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        shielded("the end of a task", self._conn.task_ended, greenlet, conn=self._conn)
