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
from gserver.settings import Settings

if TYPE_CHECKING:
    from gserver.connection import Connection

__all__ = ["access_line", "capture_output", "configure", "reopen"]

_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

_errors = logging.getLogger("gserver")
_access = logging.getLogger("gserver.access")


def configure(settings: Settings) -> None:
    """Send the logs where the settings say. ConfigError if a file cannot be opened or logconfig_dict is wrong."""
    _route(_errors, settings.errorlog, sys.stderr, logging.Formatter(_FORMAT, _TIME_FORMAT))
    _errors.setLevel(settings.loglevel.upper())
    _route(_access, settings.accesslog, sys.stdout, logging.Formatter("%(message)s"))
    _access.setLevel(logging.INFO if settings.accesslog else logging.CRITICAL)
    if settings.logconfig_dict is not None:
        try:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings.logconfig_dict})
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(f"setting logconfig_dict cannot be used: {error}") from error


def _route(logger: logging.Logger, where: str | None, stream: TextIO, formatter: logging.Formatter) -> None:
    for handler in logger.handlers:
        handler.close()
    logger.handlers = []
    logger.propagate = False
    if where is None:
        return
    try:
        handler = logging.StreamHandler(stream) if where == "-" else logging.FileHandler(os.path.abspath(where))
    except OSError as error:
        raise ConfigError(f"cannot log to {where!r}: {error.strerror}") from error
    handler.setFormatter(formatter)
    logger.handlers = [handler]


def reopen(settings: Settings) -> None:
    """Open the files again that somebody has moved away (USR1)."""
    if settings.capture_output:
        capture_output()
    for logger in (_errors, _access):
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()  # one in mode "a" opens its file again for the next line


def capture_output() -> None:
    """Let standard output and error go where the error log goes, if that is a file."""
    for handler in _errors.handlers:
        if isinstance(handler, logging.FileHandler):
            sys.stdout.flush()
            sys.stderr.flush()
            with open(handler.baseFilename, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)


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
