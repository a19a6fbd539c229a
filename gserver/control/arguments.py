"""The kinds of arguments of control commands. Pure: each validates one value, as gserver.config.validators does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gserver.config.validators import Check, Reworded, switch
from gserver.control.selection import SORT_KEYS, Selection

__all__ = [
    "MAX_ROWS",
    "conditions",
    "flag",
    "network",
    "pid",
    "profile_seconds",
    "record_bytes",
    "record_seconds",
    "recording",
    "row_limit",
    "setting_values",
    "some_text",
    "sort_key",
]

MAX_ROWS = 1_000_000
# The conditions of a listing are sent to each worker, in one message of its channel.
MAX_CONDITIONS = 4096
MAX_TEXT = 200
LONGEST_PROFILE_S = 300
LONGEST_RECORD_S = 30 * 24 * 3600
MAX_RECORD_BYTES = 2**40


def _require(fact: bool) -> None:
    if not fact:
        raise ValueError


def _conditions(value: Any) -> str:
    _require(isinstance(value, str))
    if len(value) > MAX_CONDITIONS:
        raise Reworded(f"text of {len(value)} characters, must be at most {MAX_CONDITIONS}")
    try:
        Selection.parse(value)
    except ValueError as error:
        raise Reworded(f"{value!r:.200}: {error}") from None
    return str(value)


def _whole(minimum: int, maximum: int) -> Check:
    def convert(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum)
        return int(value)

    return Check(f"a whole number from {minimum} to {maximum}", convert)


def _text(value: Any) -> str:
    _require(isinstance(value, str) and 1 <= len(value) <= MAX_TEXT)
    return str(value)


def _sort_key(value: Any) -> str:
    _require(isinstance(value, str) and value in SORT_KEYS)
    return str(value)


def _profile_seconds(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LONGEST_PROFILE_S)
    return float(value)


def _record_seconds(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LONGEST_RECORD_S)
    return float(value)


def _network(value: Any) -> str:
    _require(isinstance(value, str) and len(value) <= MAX_TEXT and "," not in value)
    Selection.parse(f"addr={value}")
    return str(value)


def _setting_values(value: Any) -> Mapping[str, Any]:
    _require(isinstance(value, Mapping) and bool(value))
    return dict(value)


flag = switch
network = Check("an address or a network such as 10.0.0.0/8 or ::1", _network)
pid = _whole(1, 2**31 - 1)
record_bytes = _whole(1, MAX_RECORD_BYTES)
record_seconds = Check(f"a number of seconds, above 0 and up to {LONGEST_RECORD_S}", _record_seconds)
recording = _whole(1, 2**53)
row_limit = _whole(1, MAX_ROWS)
some_text = Check(f"text of at most {MAX_TEXT} characters", _text)
sort_key = Check(f"one of {', '.join(SORT_KEYS)}", _sort_key)
profile_seconds = Check(f"a number of seconds, above 0 and up to {LONGEST_PROFILE_S}", _profile_seconds)
setting_values = Check("an object with a value for each setting", _setting_values)
conditions = Check("conditions such as addr=10.0.0.0/8,state=handling,idle>60", _conditions)
