"""Runs @stream handlers: one greenlet for each connection."""

from __future__ import annotations

import logging

import gevent

from gserver.connection.stream_connection import StreamConnection, Throttle
from gserver.connection.time_slice import Fairness
from gserver.counters import Counters
from gserver.engine.task_runner import kill_tasks
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program
from gserver.log_records import log_about
from gserver.service import StreamService

__all__ = ["StreamEngine"]

log = logging.getLogger("gserver.streams")


class StreamEngine:
    """Runs the handler of every connection in a gevent greenlet, which is the connection's `runner`."""

    def __init__(
        self, service: StreamService, counters: Counters, fairness: Fairness, throttle: Throttle | None = None
    ) -> None:
        self._handle = service.handle
        self._counters = counters
        self._fairness = fairness
        self._throttle = throttle

    def throttle_by(self, throttle: Throttle | None) -> None:
        """Use another throttle from now on; rates_changed() is called for each connection that there is."""
        if self._throttle is not None:
            self._throttle.end()
        self._throttle = throttle

    def rates_changed(self, conn: StreamConnection) -> None:
        conn.change_throttle(self._throttle)

    def add(self, conn: StreamConnection) -> None:
        conn.handler_starts(self._counters, self._fairness, self._throttle)
        conn.occupied_by(gevent.spawn(self._run, conn))

    def wake(self, conn: StreamConnection) -> None:
        """Do nothing: a handler receives before it waits."""

    def drain(self, conn: StreamConnection, reason: CloseReason = CloseReason.DRAINED) -> None:
        conn.start_draining(reason)

    def dismiss(self, conn: StreamConnection, fault: ProtocolError | LimitExceeded) -> None:
        if conn.runner is None:  # no handler has it yet, and only a handler could answer
            conn.close(fault.close_reason)
        else:
            conn.fail_reading(fault)

    def failed(self, what: str, conn: StreamConnection, error: BaseException) -> None:
        self._counters.failed()
        log_about(conn, log, logging.ERROR, "%(what)s failed for %(conn)s", what=what, exc_info=error)
        interrupt_program(error)

    def interrupt(self, conn: StreamConnection, error: BaseException) -> None:
        """Do nothing: a stream handler has no deadline, it may run as long as its connection is open."""

    def kill(self, conn: StreamConnection) -> None:
        kill_tasks(conn)
        if conn.is_handled:
            gevent.kill(conn.runner, Killed)
        else:  # its handler has returned, and it waits for its tasks
            conn.abort(CloseReason.KILLED)

    def forget(self, conn: StreamConnection) -> None:
        """Do nothing: a handler that still runs gets ConnectionClosed."""

    def close(self) -> None:
        """Do nothing: every greenlet ends with its connection."""

    def _run(self, conn: StreamConnection) -> None:
        try:
            self._serve(conn)
        finally:
            conn.handler_returned()

    def _serve(self, conn: StreamConnection) -> None:
        try:
            self._handle(conn)
        except Killed:
            conn.abort(CloseReason.KILLED)
        except (ProtocolError, LimitExceeded) as error:
            self._counters.failed()
            log_about(conn, log, logging.DEBUG, "%(conn)s: %(error)s", error=error)
            conn.close(error.close_reason)
        except BaseException as error:
            if isinstance(error, ConnectionClosed) and (conn.peer_finished or conn.is_draining):
                conn.close(_natural_end(conn))
            else:
                self.failed("stream handler", conn, error)
                conn.close(CloseReason.HANDLER_ERROR)
        else:
            conn.close(_natural_end(conn))


def _natural_end(conn: StreamConnection) -> CloseReason:
    """The close reason of a handler that has returned."""
    if conn.peer_finished:
        return CloseReason.PEER_EOF
    return conn.drain_reason if conn.is_draining else CloseReason.FINISHED
