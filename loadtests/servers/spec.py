"""Parses the spec of a server on the command line, such as gserver:json@main. Pure.

gserver:json                                  the installed gserver with an application: echo, json or MODULE:NAME
gserver:json@GIT-REF                          the same with another commit of this repository
gserver:echo?greenlets=dedicated&workers=2    with settings, by their names
peer:node-json                                one of the peers, the servers to compare with
cmd:ANY COMMAND {port}                        any program that listens on this port of 127.0.0.1
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from gserver.config.settings import declared
from loadtests.servers.peer_commands import peer_command

__all__ = ["Spec", "parse_command", "parse_spec"]

KINDS = ("gserver:", "peer:", "cmd:")
_GSERVER = re.compile(r"(?P<app>[^@?(]+(\(.*\))?)(@(?P<ref>[^?]+))?(\?(?P<query>.*))?")
#: Settings that a run sets itself.
RESERVED = ("bind", "daemon", "stats_socket")
SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
        text: the spec as typed.
        served: the application of gserver, the peer's name, or the command.
        ref: the commit as typed; None: the installed gserver.
        flags: of gserver, for the settings.
        workers: of gserver; None: those of the profile.
    """

    text: str
    kind: Literal["gserver", "peer", "cmd"]
    served: str
    ref: str | None = None
    flags: tuple[str, ...] = ()
    workers: int | None = None

    @property
    def profile(self) -> str:
        """The name of the default profile for this server."""
        return "echo" if re.search(r"\becho\b", self.served) else "json"


def parse_spec(text: str) -> Spec:
    """Parse a spec; ValueError explains an error in one line."""
    kind, _, rest = text.partition(":")
    if kind == "cmd":
        parse_command(rest)
        return Spec(text, "cmd", rest)
    if kind == "peer":
        peer_command(rest)
        return Spec(text, "peer", rest)
    if kind == "gserver" and (found := _GSERVER.fullmatch(rest)):
        settings = _settings(found["query"])
        workers = settings.pop("workers", None)
        return Spec(text, "gserver", found["app"], found["ref"], _flags(settings), int(workers[0]) if workers else None)
    raise ValueError(
        f"the server is {text!r}, expected gserver:APP[@GIT-REF][?SETTING=VALUE&...], peer:NAME or cmd:COMMAND"
    )


def parse_command(text: str) -> list[str]:
    """Split a server's command into words; ValueError without a placeholder {port}."""
    words = shlex.split(text)
    if not any("{port}" in word for word in words):
        raise ValueError(f"{text!r} has no placeholder for its port: {{port}}")
    return words


def _settings(query: str | None) -> dict[str, list[str]]:
    """Setting -> checked values; several if the setting may be repeated."""
    settings: dict[str, list[str]] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        field = _field(name)
        if not equals:
            raise ValueError(f"setting {name} has no value: write {name}=VALUE")
        _check(field, unquote(value))
        settings.setdefault(name, []).append(unquote(value))
        if len(settings[name]) > 1 and not _repeats(field):
            raise ValueError(f"setting {name} is given twice")
    return settings


def _field(name: str) -> dataclasses.Field[Any]:
    fields = {field.name: field for field in declared() if field.metadata["flags"] and field.name not in RESERVED}
    if name in fields:
        return fields[name]
    if name in {field.name for field in declared()}:
        raise ValueError(f"setting {name} cannot be chosen for a load test")
    similar = difflib.get_close_matches(name, fields, 1)
    raise ValueError(
        f"unknown setting {name!r}" + (f", did you mean {similar[0]!r}?" if similar else ": see gserver --help")
    )


def _repeats(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata["argument"].get("action") == "append")


def _is_switch(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata["argument"].get("action") == "store_true")


def _check(field: dataclasses.Field[Any], value: str) -> None:
    if _is_switch(field):
        if value not in SWITCH:
            raise ValueError(f"setting {field.name} is {value!r}, must be true or false")
        return
    try:
        field.metadata["check"]([value] if _repeats(field) else value)
    except ValueError as error:
        raise ValueError(f"setting {field.name} is {error}") from None


def _flags(settings: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(word for name, values in settings.items() for word in _words(_field(name), values))


def _words(field: dataclasses.Field[Any], values: Sequence[str]) -> list[str]:
    flag = next(flag for flag in reversed(field.metadata["flags"]) if flag.startswith("--"))
    if _is_switch(field):
        return [flag] if SWITCH[values[0]] else []
    return [f"{flag}={value}" for value in values]
