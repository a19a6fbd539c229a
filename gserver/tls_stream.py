"""TLS of one connection, without its socket: ciphertext in, plaintext out, and the other way round."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from gserver.errors import TlsError

__all__ = ["TlsInfo", "TlsStream"]

# What a record holds at most (RFC 8446, 5.1): a read never returns more.
RECORD_BYTES = 16 * 1024
HANDSHAKE_RECORD = 0x16

_WHY = {
    "NO_SHARED_CIPHER": "the client knows no cipher that is allowed",
    "UNSUPPORTED_PROTOCOL": "the client knows no version of TLS that is allowed",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client shows no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the server's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not trust the server's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept the server's certificate",
}


@dataclass(frozen=True)
class TlsInfo:
    """What a handshake came to.

    version: such as "TLSv1.3". server_name: what the client asked for. peer_certificate: the client's, as
    ssl.SSLSocket.getpeercert() has it, and as DER; None without one.
    """

    version: str
    cipher: str
    alpn: str | None
    server_name: str | None
    peer_certificate: Any
    peer_certificate_der: bytes | None
    resumed: bool


class TlsStream:
    """The server's side of one connection.

    Every method that takes bytes may leave some for the peer: take_outgoing() returns them, after errors too.
    """

    __slots__ = ("_has_begun", "_incoming", "_outgoing", "_ssl", "at_end")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._has_begun = False
        self.at_end = False  # the peer has said that it will send no more

    def handshake(self, data: bytes) -> bool:
        """Go on with the handshake; return whether it is over. TlsError, with a text for a person, if it fails."""
        if not self._has_begun and data[0] != HANDSHAKE_RECORD:
            raise TlsError(f"no TLS: the first bytes are {data[:16]!r}")
        self._has_begun = True
        self._incoming.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(_text(error)) from error
        return True

    def decrypt(self, data: bytes) -> bytes:
        """Return what has come in whole records by now. TlsError if a record is broken."""
        incoming, read, pending = self._incoming, self._ssl.read, self._ssl.pending
        incoming.write(data)
        chunks: list[bytes] = []
        try:
            # To ask whether there is more costs a tenth of the exception that says that there is none.
            while incoming.pending or pending():
                chunk = read(RECORD_BYTES)
                if not chunk:
                    self.at_end = True
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsError(_text(error)) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def encrypt(self, data: bytes) -> bytes:
        """Return `data` as ciphertext, behind whatever the protocol has to say before it."""
        sent = self._ssl.write(data)
        while sent < len(data):  # a record at a time
            sent += self._ssl.write(memoryview(data)[sent:])
        return self._outgoing.read()

    def take_outgoing(self) -> bytes:
        """Return what the protocol has to say."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close_notify(self) -> bytes:
        """Return the end of what this side sends."""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:  # it wants the peer's, which may never come
            pass
        return self._outgoing.read()

    @property
    def has_buffered(self) -> bool:
        """Something has come in that decrypt(b"") may return."""
        return bool(self._incoming.pending or self._ssl.pending())

    @property
    def info(self) -> TlsInfo:
        """Only after the handshake."""
        cipher = self._ssl.cipher()
        return TlsInfo(
            version=self._ssl.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=self._ssl.selected_alpn_protocol(),
            server_name=getattr(self._ssl, "requested_name", None),
            peer_certificate=self._ssl.getpeercert() or None,
            peer_certificate_der=self._ssl.getpeercert(binary_form=True),
            resumed=bool(self._ssl.session_reused),
        )


def _text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    reason = error.reason or str(error)
    return _WHY.get(reason, reason.lower().replace("_", " "))
