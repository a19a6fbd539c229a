"""TLS connections: push() encrypts, receive() decrypts.

Below these two methods there is only ciphertext: the outbox, the kernel and the lingering close are the same as without
TLS. So a TLS connection waits without a greenlet, as any other does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.connection.connection import Connection, State
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import TlsError
from gserver.tls.session import TlsInfo, TlsStream

__all__ = ["TlsConnection", "TlsStreamConnection"]

_SLOTS = ("_has_sent_close_notify", "_rest", "_stream", "tls")
_CLOSED = State.CLOSED


class _Tls(Connection):
    """Adds TLS to a connection of either kind, from begin_tls() on, which is called after the PROXY header."""

    if not TYPE_CHECKING:  # only one base of a class may have slots, so the subclasses have them
        __slots__ = ()

    tls: TlsInfo | None
    _stream: TlsStream
    _rest: bytes  # plaintext that the last receive() did not return
    _has_sent_close_notify: bool

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tls = None
        self._rest = b""
        self._has_sent_close_notify = False

    def begin_tls(self, stream: TlsStream) -> None:
        self._stream = stream
        self.seal()

    def receive_sealed(self, max_bytes: int) -> bytes | None:
        """Receive ciphertext; None if nothing has arrived."""
        return super().receive(max_bytes)

    def shake_hands(self, data: bytes) -> bool:
        """Continue the handshake, and reply; return whether it is complete. TlsError, after an alert, if it fails."""
        stream = self._stream
        try:
            is_over = stream.handshake(data)
        finally:
            self._send_reply(stream)
        if is_over:
            self.tls = stream.info
        return is_over

    def receive(self, max_bytes: int) -> bytes | None:
        """Receive plaintext; b"" at the end, with or without a close_notify; None if nothing has arrived."""
        data = self._rest
        if not data:
            decrypted = self._decrypted()
            if not decrypted:
                return decrypted
            data = decrypted
        if len(data) <= max_bytes:
            self._rest = b""
            return data
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    def _decrypted(self) -> bytes | None:
        stream, received = self._stream, b""
        if not stream.has_buffered:
            # More than the longest record: nothing of one record stays behind in the kernel.
            arrived = super().receive(RECEIVE_BYTES)
            if not arrived:
                return arrived
            received = arrived
        try:
            data = stream.decrypt(received)
        except TlsError as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            self._send_reply(stream)
        return data if data or stream.at_end else None

    def _send_reply(self, stream: TlsStream) -> None:
        """Send the bytes of the protocol itself: handshake messages, alerts."""
        if stream.outgoing.pending:
            super().push(stream.take_outgoing())

    def push(self, data: bytes) -> None:
        if self.state is not _CLOSED:
            try:
                data = self._stream.encrypt(data)
            except TlsError:  # the session is already in error
                self.broken()
                return
        super().push(data)

    @property
    def has_buffered(self) -> bool:
        return self._stream.has_buffered

    def unread_bytes(self) -> int:
        return super().unread_bytes() + len(self._rest)

    def _finish_if_sent(self) -> None:
        if self.tls is not None and self.outbox is None and self.state is not _CLOSED:
            self._send_close_notify()
        super()._finish_if_sent()

    def _send_close_notify(self) -> None:
        if not self._has_sent_close_notify:
            self._has_sent_close_notify = True
            alert = self._stream.close_notify()
            if alert:
                super().push(alert)


class TlsConnection(_Tls, Connection):
    """A Connection over TLS."""

    __slots__ = _SLOTS


class TlsStreamConnection(_Tls, StreamConnection):
    """A StreamConnection over TLS."""

    __slots__ = _SLOTS
