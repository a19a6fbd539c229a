"""Configures the error log and the access log, and reopens their files.

The error log has one line per event, with time, process and level, in gunicorn's format; the access log has one line
per closed connection. log_formats.py has the formats. Loggers of other packages are not changed. log_handler.py writes
the lines, without blocking.

Only the arbiter reopens files that were moved (log rotation). It sends the descriptors to its children over their
channels. So a child needs no permission for the folder, and a worker that is still booting has the new files when it
begins to serve.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from gserver.config.settings import Settings
from gserver.config.working_directory import absolute
from gserver.errors import ConfigError
from gserver.process.log_formats import access_formatter, error_formatter
from gserver.process.log_handler import LogHandler, finish
from gserver.process.log_output import Output
from gserver.process.systemd import is_journal
from gserver.user_errors import described

__all__ = ["adopt", "configure", "descriptors", "finish", "reopen", "retries_at", "retry", "set_level"]

RETRY_S = 1.0
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2

_errors = logging.getLogger("gserver")
_access = logging.getLogger("gserver.access")
_captures_output = False


def configure(settings: Settings) -> None:
    """Configure both logs.

    ConfigError if a file cannot be opened (then nothing is changed), or if logconfig_dict is invalid.
    """
    global _captures_output
    # A daemon leaves its terminal, and captured output goes to the error log.
    may_hold = not settings.daemon and not (settings.capture_output and settings.errorlog != "-")
    errors = _handlers("error log", settings.errorlog, _STANDARD_ERROR, may_hold)
    try:
        access = _handlers("access log", settings.accesslog, _STANDARD_OUTPUT, may_hold, _errors.error)
    except ConfigError:
        _close(errors)
        raise
    for handler in errors:
        handler.setFormatter(error_formatter(settings.log_format, _is_read_by_journal(handler, _STANDARD_ERROR)))
    for handler in access:
        handler.setFormatter(access_formatter(settings.log_format, _is_read_by_journal(handler, _STANDARD_OUTPUT)))
    _route(_errors, errors)
    _errors.setLevel(settings.loglevel.upper())
    _route(_access, access)
    _access.setLevel(logging.INFO if settings.accesslog else logging.CRITICAL)
    if settings.logconfig_dict is not None:
        try:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings.logconfig_dict})
        except BaseException as error:  # it may contain classes of the user
            raise ConfigError(f"setting logconfig_dict cannot be used: {described(error)}") from error
        own = list(_own())
        _close(handler for handler in [*errors, *access] if handler not in own)  # the dictionary has replaced them
    _captures_output = settings.capture_output
    _capture_output()


def set_level(loglevel: str) -> None:
    """Log from this level on, as the setting loglevel."""
    _errors.setLevel(loglevel.upper())


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


def _is_read_by_journal(handler: LogHandler, standard: int) -> bool:
    return handler.path is None and is_journal(standard, os.environ)


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


def reopen() -> None:
    """Open log files again that were moved (USR1). If a file cannot be opened, logging continues in the old one."""
    adopt((), ())


def descriptors() -> dict[str, int]:
    """Return path -> descriptor of the log files of this process, for adopt() in another process."""
    return {handler.path: handler.output.descriptor for handler in _own() if handler.path is not None}


def adopt(paths: Sequence[str], opened: Sequence[int]) -> None:
    """Reopen the logs with files that another process has opened. Takes over the descriptors."""
    files = dict(zip(paths, opened, strict=False))  # a process at its limit of open files receives fewer
    for handler in [*_errors.handlers, *_access.handlers]:
        path = getattr(handler, "path", None) or getattr(handler, "baseFilename", None)
        try:
            if isinstance(handler, LogHandler) and path is not None:
                given = files.get(path)
                handler.use(Output.of_path(path) if given is None else Output.of_descriptor(os.dup(given)))
            elif isinstance(handler, logging.FileHandler):  # of logconfig_dict
                _reopen(handler)
        except OSError as error:
            _errors.error("Cannot open the log %r again, logging continues in the old file: %s", path, error.strerror)
    for descriptor in opened:
        os.close(descriptor)
    _capture_output()


def _reopen(handler: logging.FileHandler) -> None:
    file = open(handler.baseFilename, "a", encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115  kept open
    before = handler.setStream(file)
    if before is not None:
        before.close()


def retries_at(now: float) -> float | None:
    """Return when to call retry(), for a process that sleeps otherwise; None if no line waits."""
    return now + RETRY_S if any(handler.is_behind for handler in _own()) else None


def retry() -> None:
    """Write lines that wait, and report lost ones. Call it every RETRY_S seconds. Never blocks."""
    for handler in _own():
        handler.retry()


def _own() -> Iterator[LogHandler]:
    for logger in (_access, _errors):
        yield from (handler for handler in logger.handlers if isinstance(handler, LogHandler))


def _capture_output() -> None:
    """Redirect standard output and error to the error log, if capture_output is set and the log is a file."""
    for handler in _errors.handlers if _captures_output else ():
        if isinstance(handler, LogHandler) and handler.path is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # broken or closed
                    stream.flush()
            for standard in (_STANDARD_OUTPUT, _STANDARD_ERROR):
                handler.output.put_under(standard)
