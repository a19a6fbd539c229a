"""The messages that the client, the readiness check and gserver's broadcasting service share. Pure."""

from __future__ import annotations

import json

__all__ = ["CALL", "HELLO", "SUM", "is_right"]

#: A line for echo services.
HELLO = "hello"
#: A line for JSON services.
SUM = '{"type":"SUM","a":10,"b":20}'
SUM_REPLY = {"status": "OK", "result": 30}
#: A line with this prefix is broadcast.
CALL = "to all "


def is_right(request: str, reply: str) -> bool:
    """Return whether `reply` is a correct reply to HELLO or SUM; white space in JSON does not matter."""
    if request != SUM:
        return reply == request
    try:
        return bool(json.loads(reply) == SUM_REPLY)
    except ValueError:
        return False
