"""Validators: convert the value of a setting from what the user wrote, or reject it with a reason.

Each validator accepts text and the value itself, because flags are text and config files are Python.
"""

from __future__ import annotations

import grp
import inspect
import math
import os
import pwd
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind, parse_bind
from gserver.config.processors import usable_processors
from gserver.config.working_directory import absolute
from gserver.limits.access_list import Network, parse_networks
from gserver.limits.drain_spread import AUTO, Spread

__all__ = [
    "Check",
    "Reworded",
    "access_format",
    "binds",
    "bus_url",
    "byte_rate",
    "directory",
    "file_mask",
    "function_of",
    "group_name",
    "log_configuration",
    "networks",
    "one_of",
    "optional_bind",
    "optional_text",
    "password",
    "queue_size",
    "rate",
    "seconds",
    "size",
    "sni",
    "socket_path",
    "spread",
    "switch",
    "texts",
    "user_name",
    "variables",
    "whole",
    "workers",
]

LARGEST_WHOLE = 2**31 - 1
AUTO_WORKERS = "auto"
_UNITS = ("K", "M", "G")
LEAST_QUEUE_BYTES = 64 * 1024
_REFUSALS = (ValueError, TypeError, LookupError, OverflowError)


@dataclass(frozen=True)
class Check:
    """Validates and converts one value when called; ValueError if the value is not allowed.

    The text of the ValueError follows "setting NAME is ".
    """

    allowed: str  # follows "must be"
    convert: Callable[[Any], Any]  # raises one of _REFUSALS for a value that is not allowed
    without_secrets: Callable[[Any], str] | None = None  # text of a value that may contain passwords

    def __call__(self, value: Any) -> Any:
        try:
            return self.convert(value)
        except Reworded:
            raise
        except _REFUSALS:
            written = _written(value) if self.without_secrets is None else self.without_secrets(value)
            raise ValueError(f"{written}, must be {self.allowed}") from None


class Reworded(ValueError):
    """A refusal with a text of its own, used instead of "must be ..."."""


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not convert numbers of thousands of digits
        return f"too large a value of type {type(value).__name__}"


def _require(fact: bool) -> None:
    if not fact:
        raise ValueError


def whole(minimum: int, maximum: int = LARGEST_WHOLE) -> Check:
    def convert(value: Any) -> int:
        number = int(value) if isinstance(value, str) else value
        _require(isinstance(number, int) and not isinstance(number, bool) and minimum <= number <= maximum)
        return int(number)

    bounds = f"of at least {minimum}" if maximum == LARGEST_WHOLE else f"from {minimum} to {maximum}"
    return Check(f"a whole number {bounds}", convert)


def workers(maximum: int) -> Check:
    """Return a validator for a number of worker processes; "auto" is the number of usable processors."""
    counted = whole(1, maximum)

    def convert(value: Any) -> int:
        if value == AUTO_WORKERS:
            return min(maximum, usable_processors())
        return int(counted.convert(value))

    return Check(f"{AUTO_WORKERS}, or {counted.allowed}", convert)


def _seconds(value: Any) -> float:
    _require(not isinstance(value, bool))
    number = float(value)
    _require(0 <= number < math.inf)
    return number


def _spread(value: Any) -> Spread:
    return "auto" if value == AUTO else _seconds(value)


def _networks(value: Any) -> tuple[Network, ...]:
    try:
        return parse_networks([str(each) for each in ([value] if isinstance(value, str) else value)])
    except ValueError as error:
        raise Reworded(str(error)) from None


def _sni(value: Any) -> tuple[tuple[str, str, str | None], ...]:
    return tuple(_certificate_for(each) for each in ([value] if isinstance(value, str) else value))


def _certificate_for(entry: Any) -> tuple[str, str, str | None]:
    """Parse one entry of `sni`: text, or a tuple (name, certfile, keyfile or None)."""
    if not isinstance(entry, str):
        name, certfile, keyfile = entry
    else:
        name, equals, files = entry.partition("=")
        _require(bool(equals))
        certfile, _, keyfile = files.partition(",")
    _require(all(isinstance(part, str) for part in (name, certfile)) and name != "" and certfile != "")
    return name, certfile, keyfile or None


def _switch(value: Any) -> bool:
    _require(isinstance(value, bool))
    return bool(value)


def _size(value: Any) -> int:
    unit = 1
    if isinstance(value, str) and value[-1:].upper() in _UNITS:
        unit = 1024 ** (_UNITS.index(value[-1].upper()) + 1)
        value = value[:-1]
    number = int(value) if isinstance(value, str) else value
    _require(isinstance(number, int) and not isinstance(number, bool) and number >= 0)
    return int(number * unit)


def _byte_rate(value: Any) -> float:
    return float(_size(value)) if isinstance(value, str) and value[-1:].upper() in _UNITS else _seconds(value)


def _queue_size(value: Any) -> int:
    number = _size(value)
    _require(number >= LEAST_QUEUE_BYTES)
    return number


def _bus_url(value: Any) -> str | None:
    if value is None:
        return None
    _require(isinstance(value, str))
    parts = urlsplit(value)
    _require(
        parts.scheme in ("redis", "rediss", "unix") and bool(parts.path if parts.scheme == "unix" else parts.netloc)
    )
    return str(value)


def _without_account(value: Any) -> str:
    """Show a URL without its user, password and options."""
    if not isinstance(value, str):
        return _without_content(value)
    try:
        parts = urlsplit(value)
    except ValueError:
        return "..."
    return repr(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else "...")


def _directory(value: Any) -> str:
    _require(isinstance(value, str) and os.path.isdir(value))
    return absolute(value)


def _optional_text(value: Any) -> str | None:
    _require(value is None or (isinstance(value, str) and value != "" and "\0" not in value))
    return None if value is None else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    _require(isinstance(listed, list | tuple) and all(isinstance(text, str) for text in listed))
    return tuple(listed)


def _variables(value: Any) -> tuple[str, ...]:
    listed = _texts(value)
    _require(all(text.partition("=")[0] and "=" in text for text in listed))
    return listed


def _names_of_variables(value: Any) -> str:
    """Show the names only: the values of environment variables may be passwords."""
    if isinstance(value, list | tuple):
        return " ".join(map(_names_of_variables, value))
    if not isinstance(value, str):
        return _without_content(value)
    name, equals, _ = value.partition("=")
    return f"{name}{equals}..." if equals else repr(value)


def _keys_of(value: Any) -> str:
    """Show the keys only: a logging configuration may contain the password of a mail account."""
    return (
        "{" + ", ".join(f"{key!r}: ..." for key in value) + "}"
        if isinstance(value, Mapping)
        else _without_content(value)
    )


def _without_content(value: Any) -> str:
    if isinstance(value, str) and value:
        return "..."
    return f"a value of type {type(value).__name__}" if isinstance(value, Collection) and value else repr(value)


def _file_mask(value: Any) -> int | None:
    if value is None:
        return None
    number = int(value, 8) if isinstance(value, str) else value
    _require(isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 0o777)
    return int(number)


def _account(find_name: Callable[[str], Any], find_number: Callable[[int], Any]) -> Callable[[Any], str | None]:
    def convert(value: Any) -> str | None:
        if value is None:
            return None
        _require(isinstance(value, str | int) and not isinstance(value, bool))
        text = str(value)
        find_number(int(text)) if text.isdigit() else find_name(text)
        return text

    return convert


class _Sample(dict[str, Any]):
    """Sample values of an access log line: numbers for M, I, O and p, text for all other names."""

    def __missing__(self, name: str) -> Any:
        return 1 if name in ("M", "I", "O", "p") else "text"


def _access_format(value: Any) -> str:
    _require(isinstance(value, str) and value != "")
    value % _Sample()
    return str(value)


def _log_configuration(value: Any) -> Mapping[str, Any] | None:
    _require(value is None or isinstance(value, Mapping))
    return None if value is None else dict(value)


def one_of(*allowed: str) -> Check:
    def convert(value: Any) -> str:
        _require(value in allowed)
        return str(value)

    return Check("one of " + ", ".join(allowed), convert)


def _binds(value: Any) -> tuple[Bind, ...]:
    listed = _texts(value)
    _require(bool(listed))
    try:
        return tuple(parse_bind(text) for text in listed)
    except ValueError as error:
        raise Reworded(str(error)) from None


def _socket_path(value: Any) -> UnixBind | None:
    """PATH[,mode=...][,user=...][,group=...]: as an address, without its unix: in front."""
    if value is None or isinstance(value, UnixBind):
        return value
    _require(isinstance(value, str))
    try:
        bind = parse_bind(value if value.startswith("unix:") else f"unix:{value}")
    except ValueError as error:
        raise Reworded(str(error)) from None
    assert isinstance(bind, UnixBind)
    if bind.is_abstract:
        raise Reworded(f"{value!r}, must be a path: an abstract socket has no permissions")
    return bind


def _optional_bind(value: Any) -> Bind | None:
    if value is None or isinstance(value, TcpBind | UnixBind):
        return value
    _require(isinstance(value, str))
    try:
        bind = parse_bind(value)
    except ValueError as error:
        raise Reworded(str(error)) from None
    _require(not isinstance(bind, FdBind))
    return bind


def function_of(*parameters: str) -> Check:
    """Return a validator for hooks: None, or a function that can be called with these arguments."""

    def convert(value: Any) -> Any:
        if value is not None:
            inspect.signature(value).bind(*parameters)
        return value

    return Check(f"a function of ({', '.join(parameters)})", convert)


networks = Check("networks such as 10.0.0.0/8 or ::1", _networks)
rate = Check("a number of 0 or more", _seconds)
sni = Check("NAME=CERTFILE or NAME=CERTFILE,KEYFILE, or a list of them", _sni)
spread = Check("auto, or a number of seconds, 0 or more", _spread)
seconds = Check("a number of seconds, 0 or more", _seconds)
switch = Check("True or False", _switch)
byte_rate = Check("a number of 0 or more, such as 65536, 64K or 1M", _byte_rate)
size = Check("a number of bytes, such as 65536, 64K, 512M or 1G", _size)
queue_size = Check("a number of bytes, such as 512K or 4M, of at least 64K", _queue_size)
bus_url = Check("redis://HOST:PORT/0, rediss://HOST:PORT/0, unix://PATH, or None", _bus_url, _without_account)
directory = Check("a directory", _directory)
optional_text = Check("text, or None", _optional_text)
password = Check("text, or None", _optional_text, _without_content)
texts = Check("text, or a list of texts", _texts)
variables = Check("NAME=VALUE, or a list of them", _variables, _names_of_variables)
file_mask = Check("an octal number from 0 to 777, or None", _file_mask)
user_name = Check("the name or the number of a user of this machine", _account(pwd.getpwnam, pwd.getpwuid))
group_name = Check("the name or the number of a group of this machine", _account(grp.getgrnam, grp.getgrgid))
access_format = Check("text with placeholders such as %(h)s; %% is a percent sign", _access_format)
log_configuration = Check("a dictionary for logging.config.dictConfig()", _log_configuration, _keys_of)
socket_path = Check("PATH[,mode=660][,user=NAME][,group=NAME]", _socket_path)
optional_bind = Check("one address, HOST:PORT, [V6]:PORT or unix:PATH", _optional_bind)
binds = Check("an address or a list of addresses", _binds)
