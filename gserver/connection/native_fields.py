"""The fields of a connection that every message reads or writes: a C struct if gserver was compiled, else slots.

Two more are there because a C number takes 8 bytes, and a slot with an object 40: `number` and `opened_at`.

GSERVER_PURE=1 in the environment selects Python, to compare the two or to look for a fault. A server that is not
compiled logs that at its start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gserver.connection.buffer_sizes import HIGH_WATER, RECEIVE_BYTES

if TYPE_CHECKING:
    import _socket
    import contextvars

    from gserver.codecs import Codec
    from gserver.errors import CloseReason

__all__ = ["IS_NATIVE", "ConnectionFields"]


class _Slots:
    """The fields in Python. gserver.connection.connection.Connection describes them."""

    __slots__ = (
        "active_at",
        "close_reason",
        "codec",
        "context",
        "fd",
        "is_sealed",
        "messages",
        "number",
        "opened_at",
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
    number: int
    opened_at: float
    active_at: float
    received_at: float

    def receive(self, max_bytes: int) -> bytes | None:
        """Receive up to `max_bytes` bytes; b"" at the peer's end, None if there is no input now.

        Raises OSError if the connection is broken.
        """
        try:
            return self.sock.recv(max_bytes)
        except BlockingIOError:
            return None

    def push(self, data: bytes) -> None:
        """Send bytes without blocking: see Connection._push()."""
        self._push(data)

    def _push(self, data: bytes) -> None:
        raise NotImplementedError


def _fastest() -> tuple[type, bool]:
    if not os.environ.get("GSERVER_PURE"):
        try:
            from gserver import _native
        except ImportError:  # it was installed without a compiler
            return _Slots, False
        compiled = tuple(getattr(_native, name, None) for name in ("RECEIVE_BYTES", "HIGH_WATER"))
        if compiled != (RECEIVE_BYTES, HIGH_WATER) or set(_Slots.__slots__) - set(dir(_native.ConnectionFields)):
            raise RuntimeError(f"{_native.__file__} was built from other sources than these: build it again")
        return _native.ConnectionFields, True
    return _Slots, False


if TYPE_CHECKING:
    ConnectionFields = _Slots
    IS_NATIVE = True
else:
    ConnectionFields, IS_NATIVE = _fastest()
