"""What is said to servers: as the client, the probe and gserver's broadcasting service all know it. Pure."""

from __future__ import annotations

import json

__all__ = ["CALL", "HELLO", "SUM", "is_right"]

#: A line for services that echo.
HELLO = "hello"
#: A line for services of JSON.
SUM = '{"type":"SUM","a":10,"b":20}'
SUM_REPLY = {"status": "OK", "result": 30}
#: What a line begins with that is to be broadcast.
CALL = "to all "


def is_right(question: str, reply: str) -> bool:
    """Whether a server that says `reply` to HELLO or SUM is what it should be; JSON may be spaced as it likes."""
    if question != SUM:
        return reply == question
    try:
        return bool(json.loads(reply) == SUM_REPLY)
    except ValueError:
        return False
