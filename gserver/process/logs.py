"""Where the logs go, how they look, and how they are opened again.

The error log has a line for each event, with time, process and level, as gunicorn writes it; the access log one for
each closed connection. Loggers of other packages are left alone. log_handler.py writes the lines, without blocking.

Files that were moved away are opened again by the arbiter alone, which sends the descriptors to its children over their
channels. So a child needs no rights on the folder, and one that is still booting has them when it begins to serve.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gserver.config.settings import Settings
from gserver.config.working_directory import absolute
from gserver.errors import CloseReason, ConfigError
from gserver.process.log_handler import LogHandler, finish
from gserver.process.log_output import Output
from gserver.user_errors import described

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["access_line", "adopt", "configure", "descriptors", "finish", "reopen", "retries_at", "retry"]

_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"
RETRY_S = 1.0
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2

_errors = logging.getLogger("gserver")
_access = logging.getLogger("gserver.access")
_captures_output = False


def configure(settings: Settings) -> None:
    """Send the logs where the settings say. ConfigError if logconfig_dict is wrong or, with nothing changed, if a file
    cannot be opened.
    """
    global _captures_output
    # A daemon lets go of its terminal, and what is captured goes where the error log goes.
    may_hold = not settings.daemon and not (settings.capture_output and settings.errorlog != "-")
    errors = _handlers("error log", settings.errorlog, _STANDARD_ERROR, may_hold)
    try:
        access = _handlers("access log", settings.accesslog, _STANDARD_OUTPUT, may_hold, _errors.error)
    except ConfigError:
        _close(errors)
        raise
    for handler in errors:
        handler.setFormatter(logging.Formatter(_FORMAT, _TIME_FORMAT))
    _route(_errors, errors)
    _errors.setLevel(settings.loglevel.upper())
    _route(_access, access)
    _access.setLevel(logging.INFO if settings.accesslog else logging.CRITICAL)
    if settings.logconfig_dict is not None:
        try:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings.logconfig_dict})
        except BaseException as error:  # it may name classes of the user's
            raise ConfigError(f"setting logconfig_dict cannot be used: {described(error)}") from error
    _captures_output = settings.capture_output
    _capture_output()


def _handlers(
    title: str,
    where: str | None,
    standard: int,
    may_hold: bool,
    report: Callable[[str], None] | None = None,
) -> list[LogHandler]:
    if where is None:
        return []
    if where == "-":
        return [LogHandler(title, Output.of_standard(standard, may_hold=may_hold), None, report)]
    path = absolute(where)
    try:
        return [LogHandler(f"{title} {where!r}", Output.of_path(path), path, report)]
    except OSError as error:
        raise ConfigError(f"cannot log to {where!r}: {error.strerror}") from error


def _route(logger: logging.Logger, handlers: list[LogHandler]) -> None:
    for before in logger.handlers:
        if isinstance(before, LogHandler) and handlers:
            handlers[0].inherit(before)
    _close(logger.handlers)
    logger.handlers = [*handlers]
    logger.propagate = False


def _close(handlers: Iterable[logging.Handler]) -> None:
    for handler in handlers:
        handler.retire() if isinstance(handler, LogHandler) else handler.close()


# Files that were moved away


def reopen() -> None:
    """Open the files again that somebody has moved away (USR1); one that cannot be opened goes on where it was."""
    adopt((), ())


def descriptors() -> dict[str, int]:
    """The files that this process logs to, by path: for adopt() in another process."""
    return {handler.path: handler.output.descriptor for handler in _own() if handler.path is not None}


def adopt(paths: Sequence[str], opened: Sequence[int]) -> None:
    """Like reopen(), but with the files that another process has opened. Takes over the descriptors."""
    files = dict(zip(paths, opened, strict=False))  # a process at its limit of descriptors receives fewer
    for handler in [*_errors.handlers, *_access.handlers]:
        path = getattr(handler, "path", None) or getattr(handler, "baseFilename", None)
        try:
            if isinstance(handler, LogHandler) and path is not None:
                given = files.get(path)
                handler.use(Output.of_path(path) if given is None else Output.of_descriptor(os.dup(given)))
            elif isinstance(handler, logging.FileHandler):  # of logconfig_dict
                _reopen(handler)
        except OSError as error:
            _errors.error("Cannot open the log %r again, it goes on in the old file: %s", path, error.strerror)
    for descriptor in opened:
        os.close(descriptor)
    _capture_output()


def _reopen(handler: logging.FileHandler) -> None:
    file = open(handler.baseFilename, "a", encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115  as before
    before = handler.setStream(file)
    if before is not None:
        before.close()


# What waits to be written


def retries_at(now: float) -> float | None:
    """When to call retry(), for a process that sleeps otherwise; None if nothing waits."""
    return now + RETRY_S if any(handler.is_behind for handler in _own()) else None


def retry() -> None:
    """Write what could not be written before, and report what was lost; to be called every RETRY_S. Never blocks."""
    for handler in _own():
        handler.retry()


def _own() -> Iterator[LogHandler]:
    for logger in (_access, _errors):
        yield from (handler for handler in logger.handlers if isinstance(handler, LogHandler))


def _capture_output() -> None:
    """Let standard output and error go where the error log goes, if that is a file."""
    for handler in _errors.handlers if _captures_output else ():
        if isinstance(handler, LogHandler) and handler.path is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # broken or closed
                    stream.flush()
            for standard in (_STANDARD_OUTPUT, _STANDARD_ERROR):
                handler.output.put_under(standard)


def access_line(form: str, conn: Connection, reason: CloseReason) -> str:
    """The line of the access log for a connection that has ended."""
    return form % _Atoms(conn, reason)


class _Atoms(dict[str, Any]):
    """What stands for %(x)s; computed when it is asked for, and "-" where there is nothing of that name."""

    def __init__(self, conn: Connection, reason: CloseReason) -> None:
        self._conn = conn
        self._reason = reason

    def __missing__(self, name: str) -> Any:
        conn = self._conn
        if name == "t":
            return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")
        if name == "L":
            return f"{time.monotonic() - conn.opened_at:.6f}"
        plain = {
            "h": conn,
            "r": self._reason.value,
            "M": conn.messages,
            "I": conn.received_bytes,
            "O": conn.sent_bytes,
            "p": os.getpid(),
        }
        return plain.get(name, "-")
