"""TLS connections: what push() is given is encrypted, what receive() brings is decrypted.

Below these two there is ciphertext only: the outbox, the kernel and the lingering close know nothing of TLS. So a TLS
connection parks as any other does, and holds no greenlet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gserver.connection.connection import Connection, State
from gserver.connection.native_fields import RECEIVE_BYTES
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import TlsError
from gserver.tls.session import TlsInfo, TlsStream

__all__ = ["TlsConnection", "TlsStreamConnection"]

_SLOTS = ("_has_said_goodbye", "_rest", "_stream", "tls")
_CLOSED = State.CLOSED


class _Tls(Connection):
    """What TLS adds to a connection of either kind. It is one from begin_tls() on, which comes after a PROXY header."""

    if not TYPE_CHECKING:  # only one of the bases of a class may have slots, so they are the subclasses'
        __slots__ = ()

    tls: TlsInfo | None
    _stream: TlsStream
    _rest: bytes  # decrypted, and more than was asked for
    _has_said_goodbye: bool

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tls = None
        self._rest = b""
        self._has_said_goodbye = False

    def begin_tls(self, stream: TlsStream) -> None:
        self._stream = stream
        self.seal()

    def receive_sealed(self, max_bytes: int) -> bytes | None:
        """What the peer sends, as it is; None if there is nothing now."""
        return super().receive(max_bytes)

    def shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake, and answer; return whether it is over. TlsError if it fails, which was answered."""
        stream = self._stream
        try:
            is_over = stream.handshake(data)
        finally:
            self._answer(stream)
        if is_over:
            self.tls = stream.info
        return is_over

    def receive(self, max_bytes: int) -> bytes | None:
        """As for a plain one: b"" at the peer's end, be it a close_notify or not; None while there is nothing."""
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
            self._answer(stream)
        return data if data or stream.at_end else None

    def _answer(self, stream: TlsStream) -> None:
        """Send what the protocol itself has to say: its part of a handshake, an alert."""
        if stream.outgoing.pending:
            super().push(stream.take_outgoing())

    def push(self, data: bytes) -> None:
        if self.state is not _CLOSED:
            try:
                data = self._stream.encrypt(data)
            except TlsError:  # its TLS has failed already
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
            self._say_goodbye()
        super()._finish_if_sent()

    def _say_goodbye(self) -> None:
        if not self._has_said_goodbye:
            self._has_said_goodbye = True
            goodbye = self._stream.close_notify()
            if goodbye:
                super().push(goodbye)


class TlsConnection(_Tls, Connection):
    """A Connection over TLS."""

    __slots__ = _SLOTS


class TlsStreamConnection(_Tls, StreamConnection):
    """A StreamConnection over TLS."""

    __slots__ = _SLOTS
