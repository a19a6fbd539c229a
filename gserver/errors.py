"""The exception tree, and the closed set of reasons for which a connection ends.

    GServerError
    ├── ConfigError             a setting, an address or an application that cannot be used
    ├── ConnectionClosed        the peer or the server ended the connection under a caller
    └── ProtocolError           the peer broke the framing; the connection must end
        ├── FrameTooLarge       more bytes than the codec's maximum
        ├── InvalidHeader       a length that no message can have
        └── IncompleteMessage   the peer stopped inside a message

The text of a ProtocolError names the figure seen and the limit, and may be told to the peer. An error knows the
close reason that it stands for, so nobody else needs a ladder of types.
"""

from __future__ import annotations

import enum

__all__ = [
    "CloseReason",
    "ConfigError",
    "ConnectionClosed",
    "FrameTooLarge",
    "GServerError",
    "IncompleteMessage",
    "InvalidHeader",
    "ProtocolError",
]


class CloseReason(enum.Enum):
    """Why a connection ended: the same word in the log, in metrics and in `on_close`."""

    PEER_EOF = "peer_eof"  # the peer finished, between two messages
    PEER_RESET = "peer_reset"  # the kernel reported the connection broken
    EOF_IN_MESSAGE = "eof_in_message"
    PROTOCOL_ERROR = "protocol_error"
    HANDLER_ERROR = "handler_error"  # a handler raised, and the protocol has no way to say so
    FINISHED = "finished"  # the service closed it, or its stream handler returned
    DRAINED = "drained"  # the server is stopping and owed this peer nothing more
    KILLED = "killed"  # still busy when the server's patience ended
    WORKER_DIED = "worker_died"  # its process ended under it; only the arbiter, which survives, counts these


class GServerError(Exception):
    """Everything that gserver raises on purpose."""


class ConfigError(GServerError):
    """A setting, an address or an application that cannot be used; the text is one line for a person."""


class ConnectionClosed(GServerError):
    """The connection ended before all of a call's bytes were sent or received."""

    def __init__(self, message: str, reason: CloseReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class ProtocolError(GServerError):
    """The peer broke the framing. The codec that raised it stays in error."""

    close_reason = CloseReason.PROTOCOL_ERROR


class FrameTooLarge(ProtocolError):
    """A message over the codec's maximum."""


class InvalidHeader(ProtocolError):
    """A header that no message can have."""


class IncompleteMessage(ProtocolError):
    """The peer stopped inside a message."""

    close_reason = CloseReason.EOF_IN_MESSAGE
