"""The live settings: those that running workers take over, so that no connection has to be closed. Pure.

A reload that changes live settings only applies them to the running workers. `gserverctl set` changes them until the
next reload. All other settings need new workers: what they do happens once, when a worker starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any

from gserver.config.listener_settings import Listener
from gserver.config.settings import Settings, declared
from gserver.errors import ConfigError

__all__ = ["LIVE", "changed_names", "plain_values", "reason_for_new_workers", "with_values"]

#: The names of the live settings.
LIVE = frozenset(
    [
        "tcp_keepalive_idle",
        "tcp_keepalive_interval",
        "tcp_keepalive_count",
        "worker_connections",
        "min_workers",
        "timeout",
        "max_requests",
        "max_requests_jitter",
        "worker_max_age",
        "worker_max_age_jitter",
        "worker_max_rss",
        "worker_max_rss_jitter",
        "ready_timeout",
        "shutdown_delay",
        "graceful_timeout",
        "drain_spread",
        "reload_surge",
        "reload_settle",
        "handshake_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "read_idle_timeout",
        "message_timeout",
        "handler_timeout",
        "write_timeout",
        "max_connection_age",
        "max_connection_age_jitter",
        "block_warning",
        "max_connections",
        "full_action",
        "max_connections_per_ip",
        "max_connections_per_network",
        "ipv4_network_bits",
        "ipv6_network_bits",
        "ip_action",
        "max_accept_rate",
        "accept_rate_action",
        "max_message_rate",
        "max_byte_rate",
        "rate_action",
        "send_buffer_limit",
        "allow",
        "deny",
        "proxy_allow_ips",
        "loglevel",
        "access_log_format",
    ]
)
# How deep functions that hooks use are compared: a hook, a function that it calls, and one that that one calls.
_DEPTH = 3
#: What a function has beside its code and its globals.
_PARTS: tuple[Callable[[FunctionType], Any], ...] = (
    lambda function: function.__defaults__,
    lambda function: function.__kwdefaults__,
    lambda function: function.__dict__,
)


def changed_names(before: Settings, after: Settings) -> list[str]:
    """The names of the settings that differ.

    A config file is run again at each reload, so its hooks are new functions each time. Two hooks are the same if
    their code is the same, and the values that they use.
    """
    return [field.name for field in declared() if not _is_same(getattr(before, field.name), getattr(after, field.name))]


def reason_for_new_workers(changed: Sequence[str], fixed: Sequence[str]) -> str | None:
    """Why a reload that changes these settings needs new workers, in a few words; None if it changes live ones only.

    Args:
        changed: the names of the settings that the reload changes.
        fixed: the names of those that differ, but cannot be changed by a reload.
    """
    others = [name for name in (*changed, *fixed) if name not in LIVE]
    if others:
        return f"setting {others[0]} has changed"
    return None if changed else "no setting has changed"


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values, by name. ConfigError if one is not live or not valid."""
    for name in values:
        if name in {field.name for field in declared()} and name not in LIVE:
            raise ConfigError(f"setting {name} needs new workers: change the configuration, and reload")
    return settings.with_checked(values)


def plain_values(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The values of live settings as JSON has them, as with_values() takes them."""
    return {name: _plain(getattr(settings, name)) for name in names}


def _plain(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, tuple) else value


def _is_same(before: Any, after: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is still the same, as far as can be seen: where it is not certain, it is another one."""
    if before is after:
        return True
    if isinstance(before, FunctionType) and isinstance(after, FunctionType):
        return depth > 0 and _is_same_function(before, after, depth)
    if isinstance(before, Listener) and isinstance(after, Listener):  # ssl_context of a listener is a function
        return replace(before, own=()) == replace(after, own=()) and _is_same(before.own, after.own, depth)
    if type(before) is tuple and type(after) is tuple:
        return len(before) == len(after) and all(map(_is_same, before, after, itertools.repeat(depth)))
    try:  # the repr: 1, 1.0 and True are equal, also within tuples and dictionaries
        return type(before) is type(after) and bool(before == after) and repr(before) == repr(after)
    except Exception:  # of the user's __eq__ or __repr__
        return False


def _is_same_function(before: FunctionType, after: FunctionType, depth: int) -> bool:
    return (
        _at_line_1(before.__code__) == _at_line_1(after.__code__)
        and before.__closure__ is None
        and after.__closure__ is None
        and all(_is_same(part(before), part(after)) for part in _PARTS)
        and all(
            _is_same(before.__globals__.get(name), after.__globals__.get(name), depth - 1)
            for name in _names_in(before.__code__)
        )
    )


def _at_line_1(code: CodeType) -> CodeType:
    """The code as if it began at line 1: a line more above it in the config file changes nothing."""
    inner = tuple(_at_line_1(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_firstlineno=1, co_consts=inner)


def _names_in(code: CodeType) -> set[str]:
    """The global names and attributes that the code uses, with those of the functions inside."""
    inner = (_names_in(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)
