"""JsonLines: one JSON value per line (https://jsonlines.org, RFC 8259), in UTF-8, encoded without spaces.

A line that is not JSON is delivered as a Malformed, because the framing is still intact. A line above the maximum is a
FrameTooLarge, or, with overflow="discard", a Malformed too. json_values.py defines what is accepted as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gserver.codecs.json_values import DEFAULT_MAX_DEPTH, NOT_JSON, DuplicateKeys, JsonValues, encode_json
from gserver.codecs.lines import DEFAULT_MAX_BYTES, Lines
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_json

__all__ = ["JsonLines"]


class JsonLines(Lines):
    """JSON values, one per line.

    Args:
        max_bytes: longest line accepted, without its terminator; default 64 KiB.
        max_depth: maximum nesting of arrays and objects; default 64. A deeper value is a Malformed.
        duplicate_keys: for equal keys in an object: the "last" one is used (default), or "refuse": a Malformed.
        overflow: what a longer line becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest line that is discarded; default: 16 times max_bytes, at least 1 MiB.
        type: the type of the messages, such as a msgspec.Struct or a union of tagged ones: each value is validated and
            converted. One that does not fit is a Malformed, and its text names the field. Default: any JSON value.

    Example:
        import functools
        import msgspec

        class Login(msgspec.Struct, tag="LOGIN"):
            name: str

        app = Service(lambda login, conn: {"hello": login.name}, functools.partial(JsonLines, type=Login))
        with Conversation(app, codec=JsonLines()) as conv:
            assert conv.message({"type": "LOGIN", "name": "ada"}) == [{"hello": "ada"}]
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
        type: Any = Any,
    ) -> None:
        super().__init__(max_bytes, overflow=overflow, max_discard=max_discard)
        self._values = JsonValues(max_depth, duplicate_keys, type)

    def messages(self) -> Iterable[Any]:
        complete, values = self._complete, self._values
        if self._pending is not None or len(complete) > self._max_bytes or len(self.partial) > self._max_bytes:
            return map(values.decode, self._checked_messages())
        if not complete:
            return ()
        self._complete = b""
        lines = complete[:-1].split(b"\n")  # a CR before the LF is white space in JSON
        if len(complete) <= values.shallow_bytes or values.none_is_deep(complete, lines):
            try:
                return list(map(values.decode_valid, lines))  # no Python call per line; usually all lines are JSON
            except NOT_JSON:
                pass
        return map(values.decode, lines)

    def encode(self, message: Any) -> bytes:
        """Return one line; NaN and infinities become null, as in Node. TypeError for a value that JSON lacks."""
        try:
            return encode_json(message) + b"\n"
        except TypeError as error:
            raise not_json(self, message, error) from None
