"""Malformed: delivered in place of a message with valid framing and invalid content."""

from __future__ import annotations

__all__ = ["Malformed"]


class Malformed:
    """A message that the codec could delimit, but not decode. The connection may continue.

    Attributes:
        message: short text that may be sent to the peer.
        detail: further text, for a log at level debug.
    """

    __slots__ = ("detail", "message")

    def __init__(self, message: str, detail: str = "") -> None:
        self.message = message
        self.detail = detail

    def __repr__(self) -> str:
        return f"Malformed({self.message!r}, {self.detail!r})"
