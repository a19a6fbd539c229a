"""JsonLines: one JSON value a line (https://jsonlines.org, RFC 8259), in UTF-8, compact when encoded.

A line that is not JSON is delivered as a Malformed, for the framing survives it; a line over the maximum is a
FrameTooLarge, or with overflow="discard" a Malformed too. What is accepted as JSON is said in json_values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gserver.codecs.json_values import (
    DEFAULT_MAX_DEPTH,
    NOT_JSON,
    DuplicateKeys,
    JsonValues,
    decode_json,
    encode_json,
)
from gserver.codecs.lines import DEFAULT_MAX_BYTES, Lines
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_json

__all__ = ["JsonLines"]


class JsonLines(Lines):
    """JSON values, one a line.

    Args:
        max_bytes: longest line accepted, without its terminator; default 64 KiB.
        max_depth: how deep arrays and objects may be nested; default 64. What is deeper is a Malformed.
        duplicate_keys: of two equal keys in an object the "last" (default) counts, or "refuse": it is a Malformed.
        overflow: what becomes of a longer line: "close" (default) is FrameTooLarge, "discard" is a Malformed.
        max_discard: longest line that is discarded; default 16 times max_bytes, and at least 1 MiB.
    """

    __slots__ = ("_values",)

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        max_depth: int = DEFAULT_MAX_DEPTH,
        duplicate_keys: DuplicateKeys = "last",
        overflow: Overflow = "close",
        max_discard: int | None = None,
    ) -> None:
        super().__init__(max_bytes, overflow=overflow, max_discard=max_discard)
        self._values = JsonValues(max_depth, duplicate_keys)

    def messages(self) -> Iterable[Any]:
        complete, values = self._complete, self._values
        if self._trouble is not None or len(complete) > self._max_bytes or len(self.partial) > self._max_bytes:
            return map(values.decode, self._checked_messages())
        if not complete:
            return ()
        self._complete = b""
        lines = complete[:-1].split(b"\n")  # a CR before the LF is white space in JSON
        if len(complete) <= values.shallow_bytes or values.none_is_deep(complete, lines):
            try:
                return list(map(decode_json, lines))  # no frame for each line: the usual case, all of them are JSON
            except NOT_JSON:
                pass
        return map(values.decode, lines)

    def encode(self, message: Any) -> bytes:
        """Return one line. TypeError for what JSON cannot carry; NaN and the infinities become null, as in Node."""
        try:
            return encode_json(message) + b"\n"
        except TypeError as error:
            raise not_json(self, message, error) from None
