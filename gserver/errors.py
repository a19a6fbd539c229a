"""The exception tree, and the closed set of reasons for which a connection ends.

    GServerError
    ├── ConfigError             a setting, an address or an application that cannot be used
    │   └── DeclarationError    a handler or a codec that cannot work: a TypeError too
    ├── ConnectionClosed        the peer or the server ended the connection under a caller
    ├── LimitExceeded           one connection too many, or too much on one
    ├── ProxyError              no PROXY header where one must be
    ├── TlsError                no TLS where it must be, or a broken one
    └── ProtocolError           the peer broke the framing; the connection must end
        ├── FrameTooLarge       more bytes than the codec's maximum
        ├── InvalidHeader       a length that no message can have
        ├── IncompleteMessage   the peer stopped inside a message
        └── MessageTimeout      the peer took too long over a message
    HandlerTimeout              a handler took too long: raised in it, past `except Exception`

The text of a ProtocolError or a LimitExceeded names the figure seen and the limit, and may be told to the peer. An
error knows the close reason that it stands for, so nobody else needs a ladder of types.
"""

from __future__ import annotations

import enum

__all__ = [
    "CloseReason",
    "ConfigError",
    "ConnectionClosed",
    "DeclarationError",
    "FrameTooLarge",
    "GServerError",
    "HandlerTimeout",
    "IncompleteMessage",
    "InvalidHeader",
    "LimitExceeded",
    "MessageTimeout",
    "ProtocolError",
    "ProxyError",
    "TlsError",
]


class CloseReason(enum.Enum):
    """Why a connection ended: the same word in the log, in metrics and in `on_close`."""

    __hash__ = object.__hash__  # Enum's own is a function in Python, and each end of a connection is looked up thrice

    PEER_EOF = "peer_eof"  # the peer finished, between two messages
    PEER_RESET = "peer_reset"  # the kernel reported the connection broken
    EOF_IN_MESSAGE = "eof_in_message"
    PROTOCOL_ERROR = "protocol_error"
    HANDLER_ERROR = "handler_error"  # a handler raised, and the protocol has no way to say so
    HANDSHAKE_FAILED = "handshake_failed"  # no TLS, a certificate not accepted, or a PROXY header that is none

    # It took too long.
    HANDSHAKE_TIMEOUT = "handshake_timeout"  # over its PROXY header and its TLS handshake
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"  # nothing was said since it was accepted, by neither side
    IDLE_TIMEOUT = "idle_timeout"  # nothing came or went between two messages
    READ_IDLE_TIMEOUT = "read_idle_timeout"  # the peer sent nothing, whatever was sent to it
    MESSAGE_TIMEOUT = "message_timeout"  # a message had begun and did not come to its end
    HANDLER_TIMEOUT = "handler_timeout"
    WRITE_TIMEOUT = "write_timeout"  # the peer took nothing of what was to be sent
    AGED = "aged"  # it lived for as long as any may

    # It was one too many, or sent or was owed too much.
    DENIED = "denied"  # by its address
    FULL = "full"  # there was no place, or no descriptor, for it
    ADDRESS_LIMIT = "address_limit"  # its address or network has too many
    ACCEPT_RATE = "accept_rate"  # too many came in too short a time
    SHED = "shed"  # closed, as the longest idle, to make room for another
    RATE_LIMIT = "rate_limit"  # too many messages or bytes a second
    BUFFER_LIMIT = "buffer_limit"  # too many bytes waited to be sent

    FINISHED = "finished"  # the service closed it, or its stream handler returned
    DRAINED = "drained"  # the server is stopping and owed this peer nothing more
    KILLED = "killed"  # still busy when the server's patience ended
    WORKER_DIED = "worker_died"  # its process ended under it; only the arbiter, which survives, counts these


class GServerError(Exception):
    """Everything that gserver raises on purpose."""


class ConfigError(GServerError):
    """A setting, an address or an application that cannot be used; the text is one line for a person."""


class DeclarationError(ConfigError, TypeError):
    """Something that a user declares cannot work; the text names it, what is expected, and the line of code."""


class ConnectionClosed(GServerError):
    """The connection ended before all of a call's bytes were sent or received."""

    def __init__(self, message: str, reason: CloseReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class LimitExceeded(GServerError):
    """One connection too many, or too much on one; the text may be sent to the peer. `setting`: which limit it was."""

    def __init__(self, message: str, close_reason: CloseReason, setting: str = "") -> None:
        super().__init__(message)
        self.close_reason = close_reason
        self.setting = setting


class HandlerTimeout(BaseException):
    """Raised in a handler that has taken too long. Not an Exception, so that no `except Exception` swallows it."""

    close_reason = CloseReason.HANDLER_TIMEOUT


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


class MessageTimeout(ProtocolError):
    """The peer began a message and took too long over it."""

    close_reason = CloseReason.MESSAGE_TIMEOUT


class ProxyError(GServerError):
    """A connection that should begin with a PROXY header does not."""

    close_reason = CloseReason.HANDSHAKE_FAILED


class TlsError(GServerError):
    """TLS with this peer is over; the text says why in words, and is for the log: the peer is told by an alert."""

    def __init__(self, message: str, close_reason: CloseReason = CloseReason.HANDSHAKE_FAILED) -> None:
        super().__init__(message)
        self.close_reason = close_reason
