"""Runs @stream handlers: one greenlet for each connection."""

from __future__ import annotations

import logging

import gevent
from gevent import get_hub

from gserver.connection.connection import READ
from gserver.connection.stream_connection import StreamConnection, Throttle
from gserver.connection.time_slice import Fairness
from gserver.counters import Counters
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program
from gserver.service import StreamService

__all__ = ["StreamEngine"]

log = logging.getLogger("gserver.streams")


class StreamEngine:
    """A gevent greenlet for every connection; `runner` is that greenlet."""

    def __init__(
        self, service: StreamService, counters: Counters, fairness: Fairness, throttle: Throttle | None = None
    ) -> None:
        self._handle = service.handle
        self._counters = counters
        self._fairness = fairness
        self._throttle = throttle

    def add(self, conn: StreamConnection) -> None:
        conn.counters, conn.fairness, conn.throttle = self._counters, self._fairness, self._throttle
        conn.handler_starts()
        conn.watcher = get_hub().loop.io(conn.sock.fileno(), READ)
        conn.runner = gevent.spawn(self._run, conn)

    def wake(self, conn: StreamConnection) -> None:
        """Nothing: a handler receives before it waits."""

    def drain(self, conn: StreamConnection, reason: CloseReason = CloseReason.DRAINED) -> None:
        conn.start_draining(reason)

    def dismiss(self, conn: StreamConnection, fault: ProtocolError | LimitExceeded) -> None:
        if conn.runner is None:  # no handler has it yet, and nobody knows what to say
            conn.close(fault.close_reason)
        else:
            conn.fail_reading(fault)

    def failed(self, what: str, conn: StreamConnection, error: BaseException) -> None:
        self._counters.failed()
        log.error("%s failed for %s", what, conn, exc_info=error)
        interrupt_program(error)

    def interrupt(self, conn: StreamConnection, error: BaseException) -> None:
        """Nothing: a stream handler may take as long as its connection lives."""

    def kill(self, conn: StreamConnection) -> None:
        gevent.kill(conn.runner, Killed)

    def forget(self, conn: StreamConnection) -> None:
        """Nothing: a handler that still runs finds its connection closed."""

    def close(self) -> None:
        """Nothing: every greenlet ends with its connection."""

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
            log.debug("%s: %s", conn, error)
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
    """Why a handler that returned did so."""
    if conn.peer_finished:
        return CloseReason.PEER_EOF
    return conn.drain_reason if conn.is_draining else CloseReason.FINISHED
