"""Which connections a control command is about, and in which order they are listed. Pure.

    addr=10.0.0.0/8,state=handling,idle>60

Conditions are separated by commas, and all must hold. `=` compares text (addr: a network or an address); `>` and `<`
compare numbers. A row that lacks a field fulfils no condition on it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gserver.limits.access_list import AccessList, parse_networks

__all__ = ["NUMBERS", "SORT_KEYS", "STATES", "Selection"]

#: The states of a connection in a listing.
STATES = ("handshaking", "idle", "receiving", "handling", "streaming", "sending", "throttled", "draining")
#: Names of numbers in conditions and sort keys -> the field of a row. bytes is the sum of both directions.
NUMBERS = {
    "age": "age_s",
    "idle": "idle_s",
    "bytes": "bytes",
    "messages": "messages",
    "outbox": "outbox_bytes",
    "handling": "handling_s",
}
SORT_KEYS = tuple(NUMBERS)
_TEXTS = ("id", "addr", "state", "listener", "tls", "worker")
_FORM = re.compile(r"([a-z]+)\s*([=<>])(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """The connections that fulfil all conditions.

    Attributes:
        connection: the id, if there is a condition on it.
        worker: the pid, if there is a condition on it.
    """

    conditions: tuple[Callable[[Row], bool], ...] = ()
    connection: str | None = None
    worker: int | None = None

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Parse conditions; an empty text selects all. ValueError names what is wrong."""
        conditions, found = [], {}
        for part in filter(str.strip, text.split(",")):
            match = _FORM.fullmatch(part.strip())
            if match is None or not match[3].strip():
                raise ValueError(f"{part!r} is no condition, must be NAME=TEXT, NAME>NUMBER or NAME<NUMBER")
            name, comparison, value = match[1], match[2], match[3].strip()
            if name in found and comparison == "=":
                raise ValueError(f"there are two conditions on {name}")
            found[name] = value
            conditions.append(_condition(name, comparison, value))
        worker = found.get("worker")
        return cls(tuple(conditions), found.get("id"), None if worker is None else int(worker))

    def selects(self, row: Row) -> bool:
        return all(condition(row) for condition in self.conditions)


def _condition(name: str, comparison: str, value: str) -> Callable[[Row], bool]:
    if comparison == "=":
        return _text_condition(name, value)
    if name not in NUMBERS:
        raise ValueError(f"{name!r} is no number of a connection, must be one of {', '.join(NUMBERS)}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    field, compare = NUMBERS[name], _COMPARE[comparison]
    return lambda row: row[field] is not None and compare(row[field], number)


def _text_condition(name: str, value: str) -> Callable[[Row], bool]:
    if name not in _TEXTS:
        allowed = f"{', '.join(_TEXTS)}; with > or <: {', '.join(NUMBERS)}"
        raise ValueError(f"{name!r} is nothing that a connection is selected by, must be one of {allowed}")
    if name == "addr":
        network = AccessList(parse_networks([value]), ())
        return lambda row: row["address"] is not None and network.permits((row["address"], 0))
    if name == "state" and value not in STATES:
        raise ValueError(f"{value!r} is no state of a connection, must be one of {', '.join(STATES)}")
    if name == "tls":
        if value not in ("yes", "no"):
            raise ValueError(f"{value!r} is no answer to tls, must be yes or no")
        return lambda row: (row["tls"] is not None) == (value == "yes")
    if name == "worker":
        if not (value.isascii() and value.isdigit() and len(value) <= 10):
            raise ValueError(f"{value!r} is no process id")
        pid = int(value)
        return lambda row: row["worker"] == pid
    return lambda row: row[name] == value
