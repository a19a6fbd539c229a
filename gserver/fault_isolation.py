"""Nothing that user code raises, and no fault of a callback, ends more than its own connection.

Handlers run in greenlets of their own and may raise anything, SystemExit and asyncio's CancelledError among it. The one
exception that is the server's is Killed. The code that keeps time, accepts and sends runs in the hub, as callbacks of
the event loop. An exception that left a callback could stop its mechanism for good: gevent stops an I/O watcher whose
callback raises, and a timer that its callback sets again at the end is not set. So these callbacks run in shielded(),
and log_hub_errors() sends to the error log what is raised elsewhere.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any

from gevent import get_hub
from greenlet import GreenletExit

__all__ = ["Killed", "interrupt_program", "log_hub_errors", "shielded"]

log = logging.getLogger("gserver.server")


class Killed(GreenletExit):
    """Raised by the server in a handler that did not finish in time. A plain GreenletExit is the handler's own."""


def shielded(what: str, callback: Callable[..., Any], *arguments: Any, conn: object = None) -> bool:
    """Call `callback`, in the hub. What it raises is logged as an error of `what`, and goes no further; then False.

    Args:
        conn: the connection that `what` is about, if it is about one; named in the log.
    """
    try:
        callback(*arguments)
    except BaseException as error:
        log.exception("%s failed%s", what, "" if conn is None else f" for {conn}")
        interrupt_program(error)
        return False
    return True


def interrupt_program(error: BaseException) -> None:
    """Hand a Ctrl-C that happened to arrive in user code, or in a callback, to the main greenlet of the program.

    Only where Ctrl-C raises KeyboardInterrupt: a program that embeds a TcpServer. In a worker SIGINT is ignored.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        hub: Any = get_hub()
        hub.loop.run_callback(hub.handle_system_error, type(error), error)


def log_hub_errors() -> None:
    """Log what greenlets and callbacks raise in this thread's hub; none of it ends the process.

    gevent itself prints it on standard error, and ends the program for a SystemExit or a KeyboardInterrupt. For a
    worker: its other connections must not end because a greenlet of the application called sys.exit().
    """
    hub: Any = get_hub()
    hub.handle_error = _log_error


def _log_error(context: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, GreenletExit):
        log.error("%r failed", context, exc_info=(kind, error, trace))
