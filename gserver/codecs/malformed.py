"""A message whose framing was right and whose content was not: the connection goes on."""

from __future__ import annotations

__all__ = ["Malformed"]


class Malformed:
    """Delivered by a codec in place of a message that it could delimit and not decode.

    `message` is a short text that may be told to the peer; `detail` says more, for a log at debug level.
    """

    __slots__ = ("detail", "message")

    def __init__(self, message: str, detail: str = "") -> None:
        self.message = message
        self.detail = detail

    def __repr__(self) -> str:
        return f"Malformed({self.message!r}, {self.detail!r})"
