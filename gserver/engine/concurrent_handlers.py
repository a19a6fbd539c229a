"""Handles several messages of one connection at the same time: see Service(concurrency=...).

Each message is a task of its connection. While as many run as are allowed, the turn waits, so the connection is not
read: a peer that does not wait for replies cannot start an unlimited number.

In order: a reply waits until the task of the message before has ended. That one has the earlier deadline, so the wait
is not longer than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gserver.connection.connection import Connection
from gserver.counters import SAMPLED_ONE_OF, Counters
from gserver.fault_isolation import Killed
from gserver.service import OnMessage, Service

if TYPE_CHECKING:
    from gserver.engine.task_runner import Task

__all__ = ["ConcurrentHandlers"]


class Answers(Protocol):
    """What a message loop does with the result of a handler."""

    def handler_returned(self, conn: Connection, reply: Any) -> None:
        """Encode and send a reply, if there is one."""

    def handler_failed(self, conn: Connection, error: BaseException) -> None:
        """Log and count an exception, and answer it."""


class ConcurrentHandlers:
    """Takes the place of the service's on_message in a message loop."""

    def __init__(self, service: Service, counters: Counters, answers: Answers) -> None:
        self._on_message: OnMessage = service.on_message
        self._concurrency = service.concurrency
        self._is_ordered = service.ordered
        self._counters = counters
        self._answers = answers
        self._sample_in = SAMPLED_ONE_OF

    def __call__(self, message: Any, conn: Connection) -> None:
        """Start the handler; block while too many run for this connection."""
        conn.wait_for_room_in_turn()  # a reply of a task does not wait for the peer to read
        tasks = conn.tasks
        if tasks is not None and len(tasks.running) >= self._concurrency:
            conn.step_aside(lambda: tasks.wait_for_fewer_than(self._concurrency))
        before = conn.tasks.newest if conn.tasks is not None and self._is_ordered else None
        task = conn.spawn(self._handle, message, conn, before)
        if conn.tasks is not None:
            conn.tasks.newest = task

    def _handle(self, message: Any, conn: Connection, before: Task | None) -> None:
        reply, failure = self._result(message, conn)
        if before is not None:
            before.join()  # however it ended: it may have been killed before it began
        try:
            if failure is None:
                self._answers.handler_returned(conn, reply)
        except Killed:
            raise
        except BaseException as error:  # a reply that cannot be encoded
            failure = error
        if failure is not None:
            self._answers.handler_failed(conn, failure)

    def _result(self, message: Any, conn: Connection) -> tuple[Any, BaseException | None]:
        """Call the handler; return its reply and its exception. A task that is killed waits for nothing more."""
        try:
            return self._timed(message, conn), None
        except Killed:
            raise
        except BaseException as error:
            return None, error

    def _timed(self, message: Any, conn: Connection) -> Any:
        """Call the handler. The time of one of SAMPLED_ONE_OF is counted, as in the message loop."""
        self._sample_in -= 1
        if self._sample_in:
            return self._on_message(message, conn)
        self._sample_in = SAMPLED_ONE_OF
        return self._counters.timed(self._on_message, message, conn)
