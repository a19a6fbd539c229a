"""The control protocol, version 1: requests and replies as lines of JSON. Pure. docs/control-protocol.md describes it.

    > {"command": "connections", "sort": "idle", "limit": 2, "id": 1}
    < {"schema": 1, "id": 1, "rows": [{"id": "4712-18", ...}, {"id": "4713-2", ...}]}
    < {"schema": 1, "id": 1, "result": {"count": 2, "missing": []}}
    > {"command": "close", "id": 2}
    < {"schema": 1, "id": 2, "error": {"code": "invalid_argument", "message": "close needs the argument where"}}

A request has one command and its arguments. Its `id`, a text or a number, is sent back. Each request gets exactly one
line with `result` or `error`, and before that perhaps lines with `rows`. The requests of a connection are carried out
in their order. A later version of gserver may add commands, arguments and fields; one that removes or changes some has
another schema number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gserver.config.validators import Check
from gserver.control import arguments

__all__ = ["COMMANDS", "MAX_REQUEST_BYTES", "SCHEMA", "Command", "Problem", "Request", "encode", "parse_request"]

SCHEMA = 1
MAX_REQUEST_BYTES = 64 * 1024


class Problem(Exception):
    """A request that cannot be carried out.

    Args:
        code: for programs; one of malformed, unknown_command, invalid_argument, not_found, failed, no_answer.
        message: for people, one line.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.request_id: Any = None  # of the request, where it is known


@dataclass(frozen=True)
class Command:
    """What a command does, and its arguments, by name."""

    help: str
    arguments: Mapping[str, Check] = field(default_factory=dict)
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    command: str
    arguments: Mapping[str, Any]  # valid; those that were not given are missing
    id: Any = None


COMMANDS: dict[str, Command] = {
    "status": Command("the state of the server: workers, connections, rates, reloads, limits"),
    "workers": Command("a row for each worker"),
    "add_worker": Command("one worker more"),
    "remove_worker": Command("one worker fewer, down to one; the oldest drains"),
    "restart_worker": Command(
        "replace a worker: a new one serves, then this one drains; now: its stacks are logged, and it is killed",
        {"pid": arguments.pid, "now": arguments.flag},
        ("pid",),
    ),
    "listeners": Command("a row for each address that is listened on, with its name, application and accept queue"),
    "connections": Command(
        "a row for each connection, the largest first",
        {"sort": arguments.sort_key, "limit": arguments.row_limit, "where": arguments.conditions},
    ),
    "connection": Command("everything about one connection", {"connection": arguments.some_text}, ("connection",)),
    "close": Command(
        "close connections with the reason administrative: after the reply that is due, or now",
        {"where": arguments.conditions, "now": arguments.flag},
        ("where",),
    ),
    "ready": Command("whether load balancers are to send clients here", {"on": arguments.flag}, ("on",)),
    "reload": Command("reload as HUP does, and wait for the result"),
    "upgrade": Command("start a new arbiter as USR2 does; `upgrade` of status has what becomes of it"),
    "finish_upgrade": Command("stop as TERM does, if the new arbiter of an upgrade runs"),
    "cancel_upgrade": Command("stop the new arbiter of an upgrade, the second time by force; this one goes on"),
    "stop": Command("stop as TERM does, or as QUIT does if quick", {"quick": arguments.flag}),
    "settings": Command("a row for each setting, with its value, its default, and whether it can be set live"),
    "set": Command(
        "change live settings until the next reload or start", {"values": arguments.setting_values}, ("values",)
    ),
    "stacks": Command("the stacks of the greenlets of a worker, as rows of text", {"pid": arguments.pid}, ("pid",)),
    "profile": Command(
        "sample what a worker runs, and return collapsed stacks",
        {"pid": arguments.pid, "seconds": arguments.profile_seconds},
        ("pid",),
    ),
    "record": Command(
        "what a connection, or those of an address, receive and send from now on, as rows of a transcript",
        {
            "connection": arguments.some_text,
            "address": arguments.network,
            "seconds": arguments.record_seconds,
            "limit": arguments.record_bytes,
        },
    ),
    "end_record": Command("end a recording; its rows still come", {"recording": arguments.recording}, ("recording",)),
}


def parse_request(line: bytes) -> Request:
    """Parse and check one line. Problem says what is wrong; its `request_id` is the id, if there is one."""
    try:
        document = json.loads(line, parse_constant=_no_json, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Problem("malformed", "a request must be one line with a JSON object") from None
    if not isinstance(document, dict):
        raise Problem("malformed", f"a request must be a JSON object, not {type(document).__name__}")
    name = document.pop("command", None)
    request_id = document.pop("id", None)
    document.pop("schema", None)
    if not isinstance(request_id, str | int | float | None):
        raise Problem("malformed", f"the id of a request must be a text or a number, not {type(request_id).__name__}")
    try:
        return _checked(name, document, request_id)
    except Problem as problem:
        problem.request_id = request_id
        raise


def _no_json(text: str) -> NoReturn:
    """NaN and Infinity: json.loads() takes them, but no other language does when they are sent back."""
    raise ValueError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _checked(name: Any, given: Mapping[str, Any], request_id: Any) -> Request:
    command = COMMANDS.get(name) if isinstance(name, str) else None
    if command is None:
        raise Problem("unknown_command", f"unknown command {name!r:.80}, must be one of {', '.join(COMMANDS)}")
    valid = {}
    for key, value in given.items():
        if key not in command.arguments:
            allowed = ", ".join(command.arguments) or "none"
            raise Problem("invalid_argument", f"{name} has no argument {key!r:.80}, must be one of: {allowed}")
        try:
            valid[key] = command.arguments[key](value)
        except ValueError as error:
            raise Problem("invalid_argument", f"{name}: argument {key} is {error}") from None
    missing = [each for each in command.required if each not in valid]
    if missing:
        raise Problem("invalid_argument", f"{name} needs the argument {missing[0]}")
    return Request(name, valid, request_id)


def encode(request_id: Any, **content: Any) -> bytes:
    """One line of a reply."""
    return json.dumps({"schema": SCHEMA, "id": request_id, **content}, ensure_ascii=True).encode() + b"\n"
