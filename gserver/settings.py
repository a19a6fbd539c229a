"""Every setting, declared once: name, flags, default, check, help. The rest is generated from here.

The names are gunicorn's wherever gunicorn has the thing. Precedence: default < config file < command line. A config
file is Python: its module-level names are settings; functions, classes, modules and names that start with an underscore
or an upper-case letter are its own affair.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from gserver.bind import Bind, parse_bind
from gserver.errors import ConfigError

__all__ = ["LOG_LEVELS", "Settings", "add_arguments", "read_config_file"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
GREENLETS = ("pooled", "dedicated")


def _whole(minimum: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or number < minimum:
            raise ValueError(f"{value!r}, must be a whole number of at least {minimum}")
        return number

    return check


def _seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf or isinstance(value, bool):
        raise ValueError(f"{value!r}, must be a number of seconds, 0 or more")
    return number


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r}, must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _binds(value: Any) -> tuple[Bind, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{value!r}, must be an address or a list of addresses")
    return tuple(parse_bind(text) for text in texts)


def _directory(value: Any) -> str:
    if not isinstance(value, str) or not os.path.isdir(value):
        raise ValueError(f"{value!r}, must be a directory")
    return os.path.abspath(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r}, must be True or False")
    return value


def _setting(default: Any, check: Callable[[Any], Any], *flags: str, help: str, **argument: Any) -> Any:
    metadata = {"check": check, "flags": flags, "help": help, "argument": argument}
    return dataclasses.field(default=check(default), metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings, checked. Times are in seconds."""

    bind: tuple[Bind, ...] = _setting(
        "127.0.0.1:3000",
        _binds,
        "-b",
        "--bind",
        help="where to listen: HOST:PORT, [V6]:PORT or unix:PATH; may be repeated",
        metavar="ADDRESS",
        action="append",
    )
    workers: int = _setting(1, _whole(1), "-w", "--workers", help="worker processes", metavar="N")
    backlog: int = _setting(2048, _whole(1), "--backlog", help="connections that may wait to be accepted", metavar="N")
    graceful_timeout: float = _setting(
        30.0,
        _seconds,
        "--graceful-timeout",
        help="how long handlers may take to finish when the server stops",
        metavar="SECONDS",
    )
    greenlets: str = _setting(
        "pooled",
        _one_of(*GREENLETS),
        "--greenlets",
        help="pooled: a greenlet for every connection that has work; dedicated: for every connection",
        metavar="SHAPE",
    )
    patch: bool = _setting(
        True,
        _switch,
        "--no-patch",
        help="do not apply gevent's monkey-patching before the application is imported",
        action="store_false",
    )
    chdir: str = _setting(".", _directory, "--chdir", help="where the application is imported from", metavar="DIR")
    loglevel: str = _setting(
        "info", _one_of(*LOG_LEVELS), "--log-level", help=f"one of {', '.join(LOG_LEVELS)}", metavar="LEVEL"
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings with these values; ConfigError names the setting, the value and what is allowed."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        good = {}
        for name, value in values.items():
            if name not in fields:
                raise ConfigError(_unknown(name, list(fields)))
            try:
                good[name] = fields[name].metadata["check"](value)
            except ValueError as error:
                raise ConfigError(f"setting {name} is {error}") from None
        return cls(**good)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else f": expected one of {known}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` a flag for every setting; a flag that is not used leaves no attribute behind."""
    for field in dataclasses.fields(Settings):
        shown = field.default if not isinstance(field.default, tuple) else " ".join(map(str, field.default))
        switch = field.metadata["argument"].get("action") == "store_false"
        parser.add_argument(
            *field.metadata["flags"],
            dest=field.name,
            default=argparse.SUPPRESS,
            help=field.metadata["help"] + ("" if switch else f" (default {_relative(shown)})"),
            **field.metadata["argument"],
        )


def _relative(default: Any) -> Any:
    return "." if default == os.getcwd() else default


def read_config_file(path: str) -> dict[str, Any]:
    """Run the Python file at `path` and return the settings that it makes, unchecked; ConfigError if it cannot run."""
    names: dict[str, Any] = {"__file__": os.path.abspath(path)}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), names)
    except Exception as error:
        raise ConfigError(f"config file {path!r} cannot be used: {type(error).__name__}: {error}") from error
    return {name: value for name, value in names.items() if _is_setting(name, value)}


def _is_setting(name: str, value: Any) -> bool:
    own_affair = inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value)
    return name[0].islower() and not own_affair
