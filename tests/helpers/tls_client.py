"""The client's side of TLS, in memory: what it would send and receive, without a socket."""

from __future__ import annotations

import ssl
from typing import Any

from gserver.tls_stream import TlsStream

__all__ = ["TlsClient", "shake_hands"]


class TlsClient:
    """One connection's client."""

    def __init__(self, context: ssl.SSLContext, name: str | None, session: Any = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if name is None:
            context.check_hostname = False
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.is_connected = False

    def step(self, data: bytes) -> bytes:
        """Take what the server sent; return what goes back."""
        self.incoming.write(data)
        if not self.is_connected:
            try:
                self.ssl.do_handshake()
                self.is_connected = True
            except ssl.SSLWantReadError:
                pass
        return self.outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        self.ssl.write(data)
        return self.outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        self.incoming.write(data)
        chunks = []
        try:
            while chunk := self.ssl.read(1 << 16):
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        return b"".join(chunks)

    @property
    def peer_certificate(self) -> dict[str, Any]:
        return dict(self.ssl.getpeercert() or {})

    @property
    def session(self) -> Any:
        return self.ssl.session


def shake_hands(server: TlsStream, client: TlsClient) -> tuple[TlsClient, TlsStream]:
    """Let both go through their handshake; what the server raises is raised."""
    to_server = client.step(b"")
    is_over = False
    for _ in range(10):
        if to_server:
            is_over = server.handshake(to_server) or is_over
        to_server = client.step(server.take_outgoing())
        if is_over and client.is_connected and not to_server:
            return client, server
    raise AssertionError("the handshake does not end")
