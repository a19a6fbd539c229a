"""Malformed: delivered in place of a message with valid framing and invalid content. MalformedError raises one."""

from __future__ import annotations

__all__ = ["Malformed", "MalformedError"]


class Malformed:
    """A message that the codec could delimit, but not decode. The connection may continue.

    Attributes:
        message: short text that may be sent to the peer.
        detail: further text, for a log at level debug.

    Example:
        (message,) = feed(JsonLines, b"no JSON\\n")
        assert isinstance(message, Malformed)
        print(message.message)
    """

    __slots__ = ("detail", "message")

    def __init__(self, message: str, detail: str = "") -> None:
        self.message = message
        self.detail = detail

    def __repr__(self) -> str:
        return f"Malformed({self.message!r}, {self.detail!r})"


class MalformedError(Exception):
    """A service raises it in on_message for a message of the wrong shape: handled as if a codec had found it.

    Attributes:
        malformed: what on_error gets.
    """

    def __init__(self, malformed: Malformed) -> None:
        super().__init__(malformed.message)
        self.malformed = malformed
