"""A TLS client without I/O, made with the standard library: the peer of a TlsStream."""

from __future__ import annotations

import ssl

from gserver.tls.session import TlsStream

__all__ = ["TlsClient", "connect"]

ROUNDS = 6  # more than any handshake takes


class TlsClient:
    """Takes and returns bytes; raises ssl.SSLError if the client rejects the server."""

    def __init__(
        self, context: ssl.SSLContext, server_name: str | None = "localhost", session: ssl.SSLSession | None = None
    ) -> None:
        self.is_complete = False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_name, session=session)

    def handshake(self, data: bytes = b"") -> bytes:
        """Take bytes of the server, and return bytes for the server."""
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
            self.is_complete = True
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        self.incoming.write(data)
        plaintext = b""
        try:
            while more := self.tls.read(65536):
                plaintext += more
        except ssl.SSLWantReadError:
            pass
        return plaintext

    def close_notify(self) -> bytes:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()


def connect(stream: TlsStream, client: TlsClient) -> None:
    """Complete the handshake; an error of either side is raised after the other side received the alert."""
    data = client.handshake()
    for _ in range(ROUNDS):
        is_complete = stream.handshake(data)
        data = client.handshake(stream.take_outgoing())
        if is_complete:
            client.decrypt(b"")  # the tickets of TLS 1.3
            return
    raise AssertionError("the handshake does not end")
