"""A client connection in TLS."""

from __future__ import annotations

import _socket
import ssl
import time

from gevent import socket as cooperative

from gserver.codecs import Codec
from loadtests.client.connection import RECEIVE_BYTES, ClientConnection, ClosedByPeer
from loadtests.units import NS_IN_S

__all__ = ["TlsClientConnection"]


class TlsClientConnection(ClientConnection):
    """A ClientConnection in TLS. Call handshake() before anything else."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(
        self, sock: _socket.socket, codec: Codec, timeout_s: float, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        """ValueError: TLS does not allow `server_name`; the caller then closes `sock`."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Before the watcher starts: if this raises ValueError, nothing would stop the watcher.
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        super().__init__(sock, codec, timeout_s)

    def handshake(self, timeout_s: float) -> None:
        """Shake hands, or raise TimeoutError, ssl.SSLError, OSError or ClosedByPeer."""
        deadline_ns = time.monotonic_ns() + int(timeout_s * NS_IN_S)
        self._watcher.stop()
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            finally:  # an alert is sent even if the handshake failed
                if waiting := self._outgoing.read():
                    self._sock.send(waiting)
            if done:
                self._watcher.start(self._readable)
                return
            left_s = (deadline_ns - time.monotonic_ns()) / NS_IN_S
            cooperative.wait_read(self._sock.fileno(), max(0.0, left_s), TimeoutError("no TLS handshake in time"))
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise ClosedByPeer("the server closed the connection in the TLS handshake")
            self._incoming.write(data)

    def _transmit(self, data: bytes) -> int:
        self._tls.write(data)
        ciphertext = self._outgoing.read()
        try:
            sent = self._sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent < len(ciphertext):
            self._send_later(ciphertext[sent:])
        return len(data)

    def _send(self, data: bytes) -> None:
        if self._unsent:  # ciphertext
            self._tls.write(data)
            self._unsent += self._outgoing.read()
        else:
            super()._send(data)

    def _receive(self) -> bytes:
        """Return plaintext, or b"" at the end.

        BlockingIOError: the record is not complete, or it contained no application data.
        """
        data = self._sock.recv(RECEIVE_BYTES)
        if not data:
            return b""
        self._incoming.write(data)
        parts = []
        try:
            while part := self._tls.read(RECEIVE_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                raise BlockingIOError from None
        except ssl.SSLZeroReturnError:  # close_notify; only the end of TCP follows
            if not parts:
                return b""
        return b"".join(parts)

    def _half_close(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # the server's close_notify has not come yet
            pass
        self._sock.send(self._outgoing.read())
        super()._half_close()
