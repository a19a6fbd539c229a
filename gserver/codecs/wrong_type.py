"""Errors for messages of the wrong type: the type, the required type, and how to convert.

Called only after encode() has failed, so that messages of the right type have no extra cost.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["not_bytes", "not_json", "not_msgpack"]

_HINTS: dict[type, str] = {
    str: ": use .encode()",
    dict: ": use a JSON codec, or encode it first",
    list: ": use a JSON codec, or send one by one",
    memoryview: ": use bytes()",
}


def not_bytes(codec: object, message: Any) -> TypeError:
    """Return the error for a message of a codec that encodes bytes."""
    name = type(message).__name__
    hint = _unawaited(message) or _HINTS.get(type(message), "")
    return TypeError(f"a message of {type(codec).__name__} must be bytes, not {name}{hint}")


def not_json(codec: object, message: Any, error: Exception) -> TypeError:
    """Return the error for a message of a JSON codec; `error` is the encoder's."""
    return TypeError(f"a message of {type(codec).__name__} must be a JSON value: {error}{_unawaited(message)}")


def not_msgpack(codec: object, message: Any, error: Exception) -> Exception:
    """Return the error for a message of MsgPack; `error` is the encoder's."""
    kind = ValueError if isinstance(error, OverflowError) else TypeError
    return kind(f"a message of {type(codec).__name__} must be a MessagePack value: {error}{_unawaited(message)}")


def _unawaited(message: Any) -> str:
    if inspect.iscoroutine(message):
        message.close()  # otherwise Python warns that it was never awaited
        return ": gserver does not await async functions; use def"
    if inspect.isgenerator(message):
        return ": a generator is not run; return one message, or call conn.send() for each"
    return ""
