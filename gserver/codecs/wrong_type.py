"""A message that a codec cannot carry because of its type: what was given, what is needed, and how to get there.

Called where encode() has failed already, so that no message of the right type pays for it.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["not_bytes", "not_json"]

_HINTS: dict[type, str] = {
    str: ": use .encode()",
    dict: ": use a JSON codec, or encode it first",
    list: ": use a JSON codec, or send one by one",
    memoryview: ": use bytes()",
}


def not_bytes(codec: object, message: Any) -> TypeError:
    """The error for a message of a codec whose messages are bytes."""
    name = type(message).__name__
    hint = _unawaited(message) or _HINTS.get(type(message), "")
    return TypeError(f"a message of {type(codec).__name__} must be bytes, not {name}{hint}")


def not_json(codec: object, message: Any, error: Exception) -> TypeError:
    """The error for a message of a JSON codec, which encoding has refused with `error`."""
    return TypeError(f"a message of {type(codec).__name__} must be JSON's: {error}{_unawaited(message)}")


def _unawaited(message: Any) -> str:
    if inspect.iscoroutine(message):
        message.close()  # or Python warns that nobody has awaited it
        return ": gserver does not await what an async function returns; use def"
    if inspect.isgenerator(message):
        return ": a generator is not run; return one message, or call conn.send() for each"
    return ""
