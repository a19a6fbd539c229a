"""The setting `listeners`: validates it, and converts it into one Listener for each address. Pure.

    listeners = {
        "0.0.0.0:5000": {"app": "shop:devices", "name": "devices", "certfile": "devices.pem", "idle_timeout": 600},
        "127.0.0.1:5001": {"app": "shop:admin", "allow": "127.0.0.1"},
    }

An entry has the application (app), perhaps a name, and settings of its own. Everything else is inherited from the
settings beside it. Without this setting there is a Listener for each address of `bind`, so that the server has one way
to serve only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind, parse_bind
from gserver.config.application_text import parse_text
from gserver.config.validators import Check, Reworded
from gserver.errors import ConfigError

__all__ = [
    "ALLOWED",
    "MAX_LISTENERS",
    "Listener",
    "listeners_of_addresses",
    "listeners_text",
    "parse_listeners",
    "with_passed_sockets",
]

ALLOWED = "a dictionary such as {'0.0.0.0:5000': {'app': 'shop:devices', 'name': 'devices'}}, with a listener or more"
#: A worker gets the addresses that a reload removes in one message of 64 KiB; each has up to 200 bytes.
MAX_LISTENERS = 250
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_PLAIN = "of letters, digits, and - _ . : only"


@dataclass(frozen=True)
class Listener:
    """An address that is listened on, and what is served there.

    Attributes:
        bind: the address; for a socket that systemd has passed, its descriptor.
        name: unique; handlers, logs and gserverctl have it. Default: the address as the user wrote it.
        app: the text of the application; None: the APP of the command line.
        own: the settings of this listener, validated, by name; it inherits all others.
        address: the address as the user wrote it.
        is_declared: whether the setting `listeners` has it; False: it is an address of `bind`.
    """

    bind: Bind
    name: str
    app: str | None = None
    own: tuple[tuple[str, Any], ...] = field(default=(), repr=False)  # may contain a password
    address: str = ""
    is_declared: bool = False

    def values(self) -> dict[str, Any]:
        """The own settings, as they replace those of the server.

        A listener with a certificate of its own does not inherit the key of another one.
        """
        values = dict(self.own)
        return {"keyfile": None, **values} if "certfile" in values else values


def listeners_of_addresses(binds: Iterable[Bind]) -> tuple[Listener, ...]:
    """The listeners of a server without the setting `listeners`: one for each address, named by it."""
    return tuple(Listener(bind, str(bind), address=str(bind)) for bind in binds)


def parse_listeners(value: Any, checks: Mapping[str, Check], others: Collection[str]) -> tuple[Listener, ...]:
    """Validate the setting. ValueError, or Reworded with the listener, the key and the fault.

    Args:
        checks: the validators of the settings that a listener may have, by name.
        others: the names of all other settings.
    """
    if not isinstance(value, Mapping) or not value:
        raise ValueError
    if len(value) > MAX_LISTENERS:
        raise Reworded(f"a dictionary of {len(value)} listeners, must have at most {MAX_LISTENERS}")
    found: list[Listener] = []
    for address, entry in value.items():
        try:
            listener = _parse(address, entry, checks, others)
            _check_unique(listener, found)
        except (ValueError, ConfigError) as error:
            raise Reworded(f"wrong in {address!r}: {error}") from None
        found.append(listener)
    return tuple(found)


def _parse(address: Any, entry: Any, checks: Mapping[str, Check], others: Collection[str]) -> Listener:
    if not isinstance(address, str):
        raise ValueError("the key must be an address, as text")
    bind = parse_bind(address)
    if not isinstance(entry, Mapping):
        raise ValueError(f"the value is of type {type(entry).__name__}, must be a dictionary with an app")
    for key in entry:
        _check_key(key, checks, others)
    own = []
    for key in entry:
        if key not in ("app", "name"):
            try:
                own.append((key, checks[key](entry[key])))
            except ValueError as error:
                raise ValueError(f"{key} is {error}") from None
    return Listener(bind, _name(entry, address), _app(entry), tuple(own), address, is_declared=True)


def _check_key(key: Any, checks: Mapping[str, Check], others: Collection[str]) -> None:
    known = ["app", "name", *checks]
    if key in known:
        return
    if key == "bind":
        raise ValueError("bind cannot be set here: the address is the key of the listener")
    if key == "listeners":
        raise ValueError("a listener cannot have listeners")
    if key in others:
        raise ValueError(f"{key} is a setting of the whole server: set it beside listeners, not in one of them")
    near = difflib.get_close_matches(key, [*known, *others], 1) if isinstance(key, str) else []
    raise ValueError(
        f"unknown key {key!r}, " + (f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(known)}")
    )


def _name(entry: Mapping[str, Any], address: str) -> str:
    name = entry.get("name", address)
    if name is not address and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"name is {name!r}, must be text {_PLAIN}")
    return str(name)


def _app(entry: Mapping[str, Any]) -> str:
    if "app" not in entry:
        raise ValueError("app is missing, must be MODULE:NAME, MODULE:FACTORY(ARGS), echo or json")
    app = entry["app"]
    if not isinstance(app, str):
        raise ValueError(f"app is {app!r}, must be text such as MODULE:NAME")
    return parse_text(app).text


def _check_unique(listener: Listener, others: Sequence[Listener]) -> None:
    for other in others:
        if _place(listener.bind) == _place(other.bind):
            raise ValueError(f"{other.address!r} is the same address: each must be there once")
        if listener.name == other.name:
            raise ValueError(f"name is {listener.name!r}, which {other.address!r} has too: each name must be unique")


def _place(bind: Bind) -> object:
    """What two listeners cannot share: the options of a unix socket are no part of it."""
    if isinstance(bind, UnixBind):
        return bind.path
    return TcpBind(bind.host or "0.0.0.0", bind.port) if isinstance(bind, TcpBind) else bind


def with_passed_sockets(listeners: Sequence[Listener], sockets: Iterable[FdBind]) -> tuple[Listener, ...]:
    """Replace the address of a listener by the sockets that systemd has passed under its name.

    A name may have several sockets: then all of them belong to the listener. ConfigError if there is no listener of
    that name, or if another listener has the descriptor of such a socket as its address.
    """
    passed: dict[str, list[FdBind]] = {}
    for socket in sockets:
        passed.setdefault(socket.name, []).append(socket)
    names = [listener.name for listener in listeners]
    for name, found in passed.items():
        if name not in names:
            raise ConfigError(
                f"the socket {found[0]} that systemd has passed has the name {name!r} (FileDescriptorName=), must be "
                f"the name of a listener: {', '.join(names)}"
            )
    for listener in listeners:
        for name, found in passed.items():
            if listener.bind in found and listener.name != name:
                raise ConfigError(f"listener {listener.name!r} has the address {listener.bind}, the socket of {name!r}")
    return tuple(
        replace(listener, bind=bind) for listener in listeners for bind in passed.get(listener.name, [listener.bind])
    )


def listeners_text(value: Any, checks: Mapping[str, Check]) -> str:
    """The setting as text, without passwords."""
    if not isinstance(value, tuple) or not all(isinstance(each, Listener) for each in value):
        return f"a value of type {type(value).__name__}" if isinstance(value, Collection) and value else repr(value)
    by_address = {each.address: each for each in value}  # one with several passed sockets is there several times
    return "{" + ", ".join(f"{address!r}: {_entry_text(each, checks)}" for address, each in by_address.items()) + "}"


def _entry_text(listener: Listener, checks: Mapping[str, Check]) -> str:
    entry = {"app": repr(listener.app)}
    if listener.name != listener.address:
        entry["name"] = repr(listener.name)
    for name, value in listener.own:
        without_secrets = checks[name].without_secrets
        entry[name] = _value_text(value) if without_secrets is None or value is None else without_secrets(value)
    return "{" + ", ".join(f"{name!r}: {text}" for name, text in entry.items()) + "}"


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value_text, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, str | int):
        return repr(value)
    return getattr(value, "__name__", None) or repr(str(value))
