"""The replies of the JSON service, for the peers in Python, by the standard json module."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["reply_to"]


def reply_to(line: bytes) -> bytes:
    return json.dumps(_reply(line)).encode() + b"\n"


def _reply(line: bytes) -> dict[str, Any]:
    try:
        return _result(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return {"status": "ERROR", "message": "Invalid JSON"}


def _result(message: dict[str, Any]) -> dict[str, Any]:
    if message["type"] == "GREETING":
        return {"status": "OK", "reply": f"Hello, {message['name']}!"}
    if message["type"] == "SUM":
        return {"status": "OK", "result": message["a"] + message["b"]}
    return {"status": "ERROR", "message": "Unknown type"}
