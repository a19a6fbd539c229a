"""What of a connection is read or written for every message: a struct of C where gserver was compiled, slots else.

GSERVER_PURE=1 in the environment keeps to Python, for whoever wants to compare, or to look for a fault. A server says
when it starts if it is not compiled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import _socket
    import contextvars

    from gserver.codecs import Codec
    from gserver.errors import CloseReason

__all__ = ["IS_NATIVE", "ConnectionFields"]


class _Slots:
    """See gserver.connection.connection.Connection."""

    __slots__ = (
        "active_at",
        "close_reason",
        "codec",
        "context",
        "fd",
        "is_sealed",
        "messages",
        "outbox",
        "received_at",
        "received_bytes",
        "runner",
        "sent_bytes",
        "sock",
        "state",
        "turn_replies",
    )
    sock: _socket.socket
    fd: int
    is_sealed: bool
    codec: Codec
    state: Any
    close_reason: CloseReason | None
    runner: Any
    outbox: Any
    turn_replies: list[bytes] | None
    context: contextvars.Context | None
    received_bytes: int
    sent_bytes: int
    messages: int
    active_at: float
    received_at: float

    def receive(self, max_bytes: int) -> bytes | None:
        """What the kernel has of the peer; None if there is nothing now. OSError if the connection is broken."""
        try:
            return self.sock.recv(max_bytes)
        except BlockingIOError:
            return None

    def push(self, data: bytes) -> None:
        """See Connection._push()."""
        self._push(data)

    def _push(self, data: bytes) -> None:
        raise NotImplementedError


def _fastest() -> tuple[type, bool]:
    if not os.environ.get("GSERVER_PURE"):
        try:
            from gserver import _native

            return _native.ConnectionFields, True
        except ImportError:  # it was installed without a compiler
            pass
    return _Slots, False


if TYPE_CHECKING:
    ConnectionFields = _Slots
    IS_NATIVE = True
else:
    ConnectionFields, IS_NATIVE = _fastest()
