"""Fault isolation: an exception of user code or of a callback ends at most its own connection.

Handlers run in greenlets and may raise anything, also SystemExit and asyncio's CancelledError. The server's own
exception is Killed. The code for deadlines, accepting and sending runs in the hub, in callbacks of the event loop. An
exception that left a callback could stop its mechanism permanently: gevent stops an I/O watcher with a callback that
raises, and a timer that its callback restarts at the end is not restarted. So these callbacks run in shielded(), and
log_hub_errors() logs exceptions from elsewhere to the error log.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any

from gevent import get_hub
from greenlet import GreenletExit

from gserver.log_records import Identified, log_about

__all__ = ["Killed", "interrupt_program", "log_hub_errors", "shielded"]

log = logging.getLogger("gserver.server")


class Killed(GreenletExit):
    """Raised by the server in a handler that did not finish in time. A plain GreenletExit is the application's."""


def shielded(what: str, callback: Callable[..., Any], *arguments: Any, conn: Identified | None = None) -> bool:
    """Call `callback` in the hub; log an exception, and do not propagate it. Return whether there was none.

    Args:
        what: what the callback does; in the log line.
        callback: called with `arguments`.
        conn: the connection that it is done for; in the log line. Default: None, not for a connection.
    """
    try:
        callback(*arguments)
    except BaseException as error:
        if conn is None:
            log.exception("%s failed", what)
        else:
            log_about(conn, log, logging.ERROR, "%(what)s failed for %(conn)s", what=what, exc_info=True)
        interrupt_program(error)
        return False
    return True


def interrupt_program(error: BaseException) -> None:
    """If `error` is the KeyboardInterrupt of a Ctrl-C, raise it in the main greenlet of the program.

    The signal may have arrived while user code or a callback ran. This applies only where Ctrl-C raises
    KeyboardInterrupt, in a program that embeds a TcpServer. A worker ignores SIGINT.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        hub: Any = get_hub()
        hub.loop.run_callback(hub.handle_system_error, type(error), error)


def log_hub_errors() -> None:
    """Log exceptions of greenlets and callbacks in this thread's hub; none of them ends the process.

    gevent itself prints them on standard error, and ends the program for SystemExit and KeyboardInterrupt. A worker
    must not lose its other connections because a greenlet of the application called sys.exit().
    """
    hub: Any = get_hub()
    hub.handle_error = _log_error


def _log_error(context: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, GreenletExit):
        log.error("%r failed", context, exc_info=(kind, error, trace))
