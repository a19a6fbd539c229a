"""MsgPack: one MessagePack value (https://github.com/msgpack/msgpack/blob/master/spec.md) after a binary length.

MessagePack values do not need a length to be delimited. But with one, a value that is too long is refused before it is
read, and a value that cannot be decoded is a Malformed and does not end the connection.

A byte string is bytes, a timestamp is an aware datetime, another extension is a msgspec.msgpack.Ext.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gserver.codecs.json_values import DEFAULT_MAX_DEPTH
from gserver.codecs.length_prefixed import DEFAULT_MAX_BYTES, LengthPrefixed
from gserver.codecs.malformed import Malformed
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_msgpack

__all__ = ["MsgPack"]

_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder().decode
_NOT_MSGPACK = (msgspec.DecodeError, UnicodeDecodeError)
# All first bytes except those of arrays and maps: fixmap, fixarray, array 16 and 32, map 16 and 32.
_OTHERS = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


@functools.lru_cache(maxsize=256)
def _decoder(type_: Any) -> Callable[[bytes], Any]:
    """Return the function that decodes to `type_`; one for all connections, because making it takes longer."""
    return msgspec.msgpack.Decoder(type_).decode


class MsgPack(LengthPrefixed):
    """MessagePack values, each after its length in 4 bytes (network order).

    Args:
        max_bytes: longest value accepted, as encoded; default 1 MiB.
        max_depth: maximum nesting of arrays and maps; default 64. A deeper value is a Malformed.
        overflow: what a longer value becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest value that is discarded; default: 16 times max_bytes, at least 1 MiB.
        type: the type of the messages, as in JsonLines. Default: any value.

    Example:
        assert feed(MsgPack, MsgPack().encode({"name": "ada"})) == [{"name": "ada"}]
    """

    __slots__ = ("_decode", "_max_depth")

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        max_depth: int = DEFAULT_MAX_DEPTH,
        overflow: Overflow = "close",
        max_discard: int | None = None,
        type: Any = Any,
    ) -> None:
        super().__init__(max_bytes=max_bytes, overflow=overflow, max_discard=max_discard)
        if max_depth < 1:
            raise ValueError(f"max_depth is {max_depth}, must be at least 1")
        self._max_depth = max_depth
        self._decode = _decode_any if type is Any else _decoder(type)

    def messages(self) -> Iterator[Any]:
        return map(self._value, super().messages())

    def encode(self, message: Any) -> bytes:
        """Return the length and the value; TypeError or ValueError for a value that MessagePack does not have."""
        try:
            value = _encode(message)
        except (TypeError, OverflowError) as error:
            raise not_msgpack(self, message, error) from None
        return super().encode(value)

    def _value(self, message: bytes | Malformed) -> Any:
        if isinstance(message, Malformed):
            return message
        try:
            # No byte is counted that cannot begin an array or a map. Few values need the exact depth.
            if len(message.translate(None, _OTHERS)) > self._max_depth and _depth(message) > self._max_depth:
                return Malformed(f"MessagePack nested more than {self._max_depth} deep")
            return self._decode(message)
        except RecursionError:
            return Malformed(f"MessagePack nested more than {self._max_depth} deep")
        except _NOT_MSGPACK as error:
            if isinstance(error, msgspec.ValidationError) and self._decode is not _decode_any:
                return Malformed(str(error))
            return Malformed("Invalid MessagePack", str(error))


def _depth(message: bytes) -> int:
    """Return the exact nesting. RecursionError above some hundreds, or one of _NOT_MSGPACK."""
    depth, level = 0, [_decode_any(message)]
    while level := [each for each in level if isinstance(each, list | tuple | dict)]:
        depth += 1
        level = [inner for each in level for inner in _inner(each)]
    return depth


def _inner(container: Any) -> Iterator[Any]:
    yield from container  # of a map, the keys
    if isinstance(container, dict):
        yield from container.values()
