"""How the logs look, where they go, and how they are opened again.

The error log has a line for each event, with time, process and level, as gunicorn writes it; the access log one for
each closed connection. Loggers of other packages are left alone.
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from gserver.errors import CloseReason, ConfigError
from gserver.process.working_folder import absolute
from gserver.settings import Settings

if TYPE_CHECKING:
    from gserver.connection import Connection

__all__ = ["access_line", "configure", "reopen"]

_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

_errors = logging.getLogger("gserver")
_access = logging.getLogger("gserver.access")


def configure(settings: Settings) -> None:
    """Send the logs where the settings say. ConfigError if logconfig_dict is wrong or, with nothing changed, if a file
    cannot be opened.
    """
    errors = _handlers(settings.errorlog, sys.stderr, logging.Formatter(_FORMAT, _TIME_FORMAT))
    try:
        access = _handlers(settings.accesslog, sys.stdout, logging.Formatter("%(message)s"))
    except ConfigError:
        _close(errors)
        raise
    _route(_errors, errors)
    _errors.setLevel(settings.loglevel.upper())
    _route(_access, access)
    _access.setLevel(logging.INFO if settings.accesslog else logging.CRITICAL)
    if settings.logconfig_dict is not None:
        try:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings.logconfig_dict})
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(f"setting logconfig_dict cannot be used: {error}") from error
    if settings.capture_output:
        _capture_output()


def _handlers(where: str | None, stream: TextIO, formatter: logging.Formatter) -> list[logging.Handler]:
    if where is None:
        return []
    try:
        handler = logging.StreamHandler(stream) if where == "-" else logging.FileHandler(absolute(where))
    except OSError as error:
        raise ConfigError(f"cannot log to {where!r}: {error.strerror}") from error
    handler.setFormatter(formatter)
    return [handler]


def _route(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    _close(logger.handlers)
    logger.handlers = handlers
    logger.propagate = False


def _close(handlers: list[logging.Handler]) -> None:
    for handler in handlers:
        handler.close()


def reopen(settings: Settings) -> None:
    """Open the files again that somebody has moved away (USR1); one that cannot be opened goes on where it was."""
    for logger in (_errors, _access):
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                _reopen(handler)
    if settings.capture_output:
        _capture_output()


def _reopen(handler: logging.FileHandler) -> None:
    path = handler.baseFilename
    try:
        file = open(path, "a", encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115  the handler closes it
    except OSError as error:
        _errors.error("Cannot open the log %r again, it goes on in the old file: %s", path, error.strerror)
        return
    before = handler.setStream(file)
    if before is not None:
        before.close()


def _capture_output() -> None:
    """Let standard output and error go where the error log goes, if that is a file."""
    for handler in _errors.handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            sys.stdout.flush()
            sys.stderr.flush()
            for standard in (1, 2):
                os.dup2(handler.stream.fileno(), standard)


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
