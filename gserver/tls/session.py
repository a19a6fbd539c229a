"""The TLS session of one connection, server side, without I/O: converts ciphertext and plaintext.

Call `handshake()` until it returns True, then `decrypt()` and `encrypt()` in any order, and `close_notify()` at the
end. After each `handshake()` and `decrypt()`, and after each error, `take_outgoing()` returns the bytes to send to the
peer: handshake messages, replies of the protocol, alerts. If the connection ends without `at_end`, the data is
truncated (RFC 8446, 6.1); only the owner of the socket can detect that. Not thread-safe.

Memory, measured with Python 3.11 and OpenSSL 3.0 (TLS 1.3, AES-256-GCM): an idle session after its handshake takes 16
KB, nearly all of it in OpenSSL; `ssl` sets SSL_MODE_RELEASE_BUFFERS. But each of the two MemoryBIOs keeps a buffer for
the most bytes that ever waited in it: 102 KB for a session that once received 64 KiB in one piece, 54 KB if it receives
one record at a time, as here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from gserver.errors import CloseReason, TlsError
from gserver.tls.client_hello import HelloReader, alert_words, explain, words

__all__ = ["TlsInfo", "TlsStream"]

_PLAINTEXT = 16 * 1024  # maximum of a record (RFC 8446, 5.1)
_RECORD = _PLAINTEXT + 256 + 5  # maximum of a record's ciphertext and header (RFC 8446, 5.2)
_ILLEGAL_PARAMETER = b"\x15\x03\x03\x00\x02\x02\x2f"  # the fatal alert of that name, in a record


@dataclass(frozen=True)
class TlsInfo:
    """The results of a handshake."""

    version: str  # as "TLSv1.3"
    cipher: str  # OpenSSL's name
    alpn: str | None  # the chosen protocol; None: the client offered none that the server has
    server_name: str | None  # the name that the client requested, in lower case
    peer_certificate: dict[str, Any] | None  # as SSLSocket.getpeercert() returns it; None: no certificate
    peer_certificate_der: bytes | None
    resumed: bool  # whether a session of an earlier connection was resumed


class TlsStream:
    """The TLS session of one connection.

    Args:
        context: the context of the server, as Tls.context.

    Attributes:
        at_end: close_notify was received; no data follows.
        outgoing: bytes to send to the peer; see take_outgoing().
    """

    __slots__ = ("_failure", "_incoming", "_info", "_object", "_reader", "_server_name", "at_end", "outgoing")

    def __init__(self, context: ssl.SSLContext) -> None:
        self.at_end = False
        self._incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self.outgoing, server_side=True)
        self._reader: HelloReader | None = HelloReader()  # until the handshake is complete
        self._server_name: str | None = None
        self._info: TlsInfo | None = None
        self._failure: tuple[str, CloseReason] | None = None

    def handshake(self, data: bytes) -> bool:
        """Take ciphertext, and return whether the handshake is complete; `decrypt` returns data that follows it.

        TlsError (HANDSHAKE_FAILED): the handshake has failed; the session stays in error.
        """
        self._raise_failure()
        self._incoming.write(data)
        if self._reader is None:
            return True
        self._read_hello(self._reader, data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise self._fail(explain(error, self._reader, self._object.context.minimum_version)) from error
        self._reader = None
        return True

    def _read_hello(self, reader: HelloReader, data: bytes) -> None:
        """Check the ClientHello before `ssl` does: `ssl` prints a traceback on stderr for a name that is not ASCII."""
        reader.feed(data)
        if not reader.could_be_tls:  # OpenSSL would wait for 5 bytes, and the peer may have sent a shorter line
            raise self._fail(f"no TLS: the first bytes are {reader.first!r}")
        name = reader.hello.server_name if reader.hello else None
        if name is None:
            return
        if not (name.isascii() and name.decode("ascii").isprintable()):  # a line break must not get into the log either
            self.outgoing.write(_ILLEGAL_PARAMETER)
            raise self._fail(f"the client requests {name[:80]!r}, which is not a server name")
        self._server_name = name.decode("ascii").removesuffix(".").lower()

    @property
    def has_buffered(self) -> bool:
        """Whether `handshake` has taken ciphertext that is not decrypted yet; `decrypt(b"")` decrypts it."""
        return self._incoming.pending > 0

    def decrypt(self, data: bytes) -> bytes:
        """Take ciphertext, and return the plaintext of all complete records; b"": none.

        TlsError (PROTOCOL_ERROR): a record is invalid, or the peer has sent an alert; the session stays in error.
        """
        if self._failure is not None:
            self._raise_failure()
        try:
            if len(data) <= _RECORD:
                return self._read(data)
            view = memoryview(data)
            return b"".join([self._read(view[at : at + _RECORD]) for at in range(0, len(data), _RECORD)])
        except ssl.SSLError as error:
            raise self._fail(_explain_record(error), CloseReason.PROTOCOL_ERROR) from error

    def _read(self, data: bytes | memoryview) -> bytes:
        """Decrypt at most one record's size of ciphertext.

        This is the fastest of six sequences of calls for small messages: 1.8 us for a record of 64 bytes. Reading until
        SSLWantReadError takes 10.1 us, because raising it costs 7 us; here it is raised only for an incomplete record.
        Reading 16 KiB when 86 bytes have arrived takes 2.9 us, because of the allocation.
        """
        incoming, read, parts = self._incoming, self._object.read, []
        incoming.write(data)
        try:
            while waiting := incoming.pending:
                plaintext = read(min(waiting, _PLAINTEXT))
                if not plaintext:
                    self._end()
                    break
                parts.append(plaintext)
                if len(plaintext) == waiting:  # only the end of a record had waited
                    parts.append(self._rest())
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # at the end, if close_notify was also sent
            self._end()
        return b"".join(parts)

    def _end(self) -> None:
        self.at_end = True
        self._incoming.read()

    def _rest(self) -> bytes:
        waiting = self._object.pending()
        return self._object.read(waiting) if waiting else b""

    def encrypt(self, data: bytes) -> bytes:
        """Return the ciphertext of `data`, after other bytes that must be sent first.

        TlsError (PROTOCOL_ERROR): the session is in error, the handshake is incomplete, or close_notify was called.
        """
        if self._failure is not None:
            self._raise_failure()
        try:
            if len(data) <= _PLAINTEXT:
                return self._write(data)
            view = memoryview(data)
            return b"".join([self._write(view[at : at + _PLAINTEXT]) for at in range(0, len(data), _PLAINTEXT)])
        except ssl.SSLError as error:
            raise TlsError(f"cannot send: {words(error)}", CloseReason.PROTOCOL_ERROR) from error

    def _write(self, data: bytes | memoryview) -> bytes:
        if data:
            self._object.write(data)
        return self.outgoing.read()

    def take_outgoing(self) -> bytes:
        """Return the bytes to send to the peer, once; b"": none."""
        return self.outgoing.read()

    def close_notify(self) -> bytes:
        """Return the close_notify alert; b"" if it was already returned, or if the handshake is incomplete.

        The peer may still send, and `decrypt` still works.
        """
        try:
            self._object.unwrap()
        except ssl.SSLError:  # it would wait for the peer's close_notify, or the handshake is incomplete
            pass
        return self.outgoing.read()

    @property
    def info(self) -> TlsInfo:
        """The results of the handshake, which must be complete."""
        if self._info is None:
            tls = self._object
            cipher = tls.cipher()
            self._info = TlsInfo(
                version=tls.version() or "",
                cipher=cipher[0] if cipher else "",
                alpn=tls.selected_alpn_protocol(),
                server_name=self._server_name,
                peer_certificate=tls.getpeercert() or None,
                peer_certificate_der=tls.getpeercert(True),
                resumed=bool(tls.session_reused),
            )
        return self._info

    def _fail(self, text: str, close_reason: CloseReason = CloseReason.HANDSHAKE_FAILED) -> TlsError:
        self._failure = (text, close_reason)
        return TlsError(text, close_reason)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise TlsError(*self._failure)


def _explain_record(error: ssl.SSLError) -> str:
    if "_ALERT_" in (error.reason or ""):
        return f"the peer sent an alert: {alert_words(error.reason)}"
    return f"the peer violated TLS: {words(error)}"
