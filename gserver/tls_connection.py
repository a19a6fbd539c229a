"""TLS connections: what push() is given is encrypted before it is sent, what is received decrypted before a turn.

Below push() and below recv() there is ciphertext only: the outbox, the kernel and the lingering close know nothing of
TLS. So a TLS connection parks as any other does, and holds no greenlet.
"""

from __future__ import annotations

import _socket
from typing import Any

from gserver.connection import Connection, State
from gserver.errors import TlsError
from gserver.streams import StreamConnection
from gserver.tls_stream import TlsStream

__all__ = ["TlsConnection", "TlsStreamConnection"]

# As much as a record can hold, and a little more: nothing of one record stays behind in the kernel.
RECEIVE_BYTES = 64 * 1024


class _TlsSocket:
    """A socket whose recv() decrypts; everything else is the socket's own."""

    __slots__ = ("_conn", "_rest", "has_said_goodbye", "raw", "stream")

    def __init__(self, raw: _socket.socket, stream: TlsStream, conn: _Tls) -> None:
        self.raw = raw
        self.stream = stream
        self.has_said_goodbye = False
        self._conn = conn
        self._rest = b""  # decrypted, and more than was asked for

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def recv(self, max_bytes: int) -> bytes:
        """As a socket's: b"" at the peer's end, be it a close_notify or not; BlockingIOError while there is nothing."""
        data = self._rest or self._receive()
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    def _receive(self) -> bytes:
        stream, received = self.stream, b""
        if not stream.has_buffered:
            received = self.raw.recv(RECEIVE_BYTES)
            if not received:
                return b""
        try:
            data = stream.decrypt(received)
        except TlsError as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            self._conn.push_sealed(stream.take_outgoing())
        if not data and not stream.at_end:
            raise BlockingIOError
        return data

    def unread_bytes(self) -> int:
        return len(self._rest)


class _Tls(Connection):
    """What TLS adds to a connection of either kind. It is one from begin_tls() on, which comes after a PROXY header."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tls = None

    @property
    def _secure(self) -> _TlsSocket:
        secure: Any = self.sock
        assert isinstance(secure, _TlsSocket)
        return secure

    def begin_tls(self, stream: TlsStream) -> None:
        secure: Any = _TlsSocket(self.sock, stream, self)
        self.sock, self.fd = secure, -1

    def receive_sealed(self, max_bytes: int) -> bytes:
        """What the peer sends, as it is."""
        return self._secure.raw.recv(max_bytes)

    def shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake, and answer; return whether it is over. TlsError if it fails, which was answered."""
        stream = self._secure.stream
        try:
            is_over = stream.handshake(data)
        finally:
            self.push_sealed(stream.take_outgoing())
        if is_over:
            self.tls = stream.info
        return is_over

    def push(self, data: bytes) -> None:
        super().push(self._secure.stream.encrypt(data) if self.state is not State.CLOSED else data)

    def push_sealed(self, data: bytes) -> None:
        """Send what is part of the protocol."""
        if data:
            super().push(data)

    @property
    def has_buffered(self) -> bool:
        return self._secure.stream.has_buffered

    def unread_bytes(self) -> int:
        return super().unread_bytes() + self._secure.unread_bytes()

    def _finish_if_sent(self) -> None:
        if self.tls is not None and self.outbox is None and self.state is not State.CLOSED:
            self._say_goodbye()
        super()._finish_if_sent()

    def _say_goodbye(self) -> None:
        secure = self._secure
        if not secure.has_said_goodbye:
            secure.has_said_goodbye = True
            self.push_sealed(secure.stream.close_notify())

    def _finish(self) -> None:
        self.sock = getattr(self.sock, "raw", self.sock)  # what is left to do is about the bare socket
        super()._finish()


class TlsConnection(_Tls, Connection):
    """A Connection over TLS."""

    __slots__ = ("tls",)


class TlsStreamConnection(_Tls, StreamConnection):
    """A StreamConnection over TLS."""

    __slots__ = ("tls",)
