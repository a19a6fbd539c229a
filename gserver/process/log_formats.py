"""The formats of the two logs: text, JSON, and either of them for the journal of systemd.

JSON is one object a line, of ASCII characters only, so no program divides a line at an unusual line end. Characters
that are no text (lone surrogates) are written as backslash escapes, as in the text format.

A line for the journal begins with its priority in angle brackets (sd-daemon(3)), and so does each further line of the
same event. The journal itself records the time and the process, so the text format leaves them out there.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from gserver.user_errors import described

__all__ = ["LogFormat", "access_formatter", "error_formatter", "unformattable"]

LogFormat = Literal["text", "json"]

_TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
_TEXT_IN_JOURNAL = "[%(levelname)s] %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S %z"
#: Fields of a record of the access log, in the order in which they are written.
_ACCESS_FIELDS = (
    *(
        "id",
        "peer",
        "proxy_peer",
        "listener",
        "reason",
        "messages",
        "received_bytes",
        "sent_bytes",
        "duration_s",
        "tls",
    ),
)
#: Lowest level -> priority of syslog(3).
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7

_encode = json.JSONEncoder(separators=(",", ":")).encode


def error_formatter(form: LogFormat, in_journal: bool) -> logging.Formatter:
    """Return the formatter of the error log; `in_journal`: systemd's journal reads the log."""
    if form == "json":
        return _Journal(_JsonErrors()) if in_journal else _JsonErrors()
    return _Journal(logging.Formatter(_TEXT_IN_JOURNAL)) if in_journal else logging.Formatter(_TEXT, _TIME)


def access_formatter(form: LogFormat, in_journal: bool) -> logging.Formatter | None:
    """Return the formatter of the access log; None: the message of the record alone, without a formatter."""
    if form == "json":
        return _Journal(_JsonAccess()) if in_journal else _JsonAccess()
    return _Journal(logging.Formatter("%(message)s")) if in_journal else None


def unformattable(record: logging.LogRecord, error: BaseException) -> str:
    """Return a message for a record whose arguments do not fit its message, and so raise `error`."""
    message = record.msg if isinstance(record.msg, str) else type(record.msg)
    return f"{record.name} logged a message that cannot be formatted: {message!r} ({described(error)})"


class _JsonErrors(logging.Formatter):
    """An event of the error log."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time_of(record),
            "level": _text(record.levelname),
            "pid": record.process,
            "logger": _text(record.name),
            "message": _message_of(record),
        }
        for name in ("connection", "peer"):
            value = record.__dict__.get(name)
            if isinstance(value, str):
                event[name] = _text(value)
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = _text(self._traceback(record))
        if record.stack_info:
            event["stack"] = _text(record.stack_info)
        return _encode(event)

    def _traceback(self, record: logging.LogRecord) -> str:
        assert record.exc_info
        try:
            return self.formatException(record.exc_info)
        except BaseException as error:  # it calls methods of the exception, which is of a class of the user
            return f"{type(record.exc_info[1]).__name__}: its traceback cannot be formatted ({described(error)})"


class _JsonAccess(logging.Formatter):
    """A closed connection, or a message that the application has logged to the access log."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {"time": _time_of(record)}
        fields = record.__dict__
        if "received_bytes" in fields:
            event |= {name: fields[name] for name in _ACCESS_FIELDS if name in fields}
        else:
            event["message"] = _message_of(record)
        event["pid"] = record.process
        return _encode(event)


class _Journal(logging.Formatter):
    """Puts the priority before each line of another formatter."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        # The journal ends a line at a null character too. The rest could begin with a priority that a client chose.
        text = self._inner.format(record).replace("\0", "\\x00")
        return prefix + text.replace("\n", "\n" + prefix)


def _priority(level: int) -> int:
    return next((priority for lowest, priority in _PRIORITIES if level >= lowest), _DEBUG_PRIORITY)


def _time_of(record: logging.LogRecord) -> str:
    """The time in the form of RFC 3339, local time with its offset, as in the text format."""
    return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")


def _message_of(record: logging.LogRecord) -> str:
    try:
        return _text(record.getMessage())
    except BaseException as error:  # arguments that do not fit the message
        return _text(unformattable(record, error))


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
