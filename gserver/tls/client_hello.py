"""Parses the ClientHello of a TLS client, and explains failed handshakes.

OpenSSL runs the handshake. This module extracts what OpenSSL does not report: the server name and the versions that the
client has offered.
"""

from __future__ import annotations

import re
import ssl
import struct
from dataclasses import dataclass

__all__ = ["MAX_HELLO", "ClientHello", "HelloReader", "alert_words", "explain", "words"]

#: Maximum size of a ClientHello in OpenSSL, in bytes; a usual one has 250 to 2,000.
MAX_HELLO = 131_396
_ALERT, _HANDSHAKE, _CLIENT_HELLO, _MAJOR = 21, 22, 1, 3
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43
_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
_NUMBER, _EXTENSION = struct.Struct(">H"), struct.Struct(">HH")
_EXPLANATIONS = {
    "NO_SHARED_CIPHER": "the client and the server have no cipher in common",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the client accepts no signature of the type of the server's key",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "the client accepts no signature of the type of the server's key",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client presented no certificate, and one is required",
}


@dataclass(frozen=True)
class ClientHello:
    """The version and the server name that a client requests (RFC 8446, 4.1.2)."""

    version: int  # the highest known one that the client offers, as 0x0304; 0: none
    server_name: bytes | None  # as sent (RFC 6066, 3)


class HelloReader:
    """Collects the ClientHello, which may arrive in pieces and in several records. Each byte is read once.

    Attributes:
        first: the first bytes of the connection, at most 8.
        hello: the parsed message; None: it is incomplete, or not a ClientHello.
    """

    def __init__(self) -> None:
        self.first = b""
        self.hello: ClientHello | None = None
        self._rest, self._message = bytearray(), bytearray()
        self._is_over = False

    @property
    def could_be_tls(self) -> bool:
        """Whether the first bytes may be TLS: a record with a handshake or an alert, of version 3."""
        kind, major = self.first[:1], self.first[1:2]
        return kind in (b"", bytes([_HANDSHAKE]), bytes([_ALERT])) and major in (b"", bytes([_MAJOR]))

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection. Never raises."""
        self.first = (self.first + data[:8])[:8]
        if not self._is_over:
            self._rest += data
            self._join_records()
            self._is_over |= self._is_whole() or len(self._message) > MAX_HELLO
        if self._is_over:
            self._rest, self._message = bytearray(), bytearray()

    def _join_records(self) -> None:
        rest = self._rest
        while len(rest) >= 5 and len(rest) >= (end := 5 + int.from_bytes(rest[3:5], "big")):
            if rest[0] != _HANDSHAKE:
                self._is_over = True
                return
            self._message += rest[5:end]
            del rest[:end]

    def _is_whole(self) -> bool:
        length = 4 + int.from_bytes(self._message[1:4], "big")
        if len(self._message) < length:
            return False
        self.hello = _read(bytes(self._message[:length]))
        return True


def _read(message: bytes) -> ClientHello | None:
    """Parse the message with plain indices: every handshake runs this code, and it takes 8 of 500 us."""
    try:
        if message[0] != _CLIENT_HELLO:
            return None
        at = 38  # after type, length, version and random: session, ciphers, compression
        at += 1 + message[at]
        at += 2 + _NUMBER.unpack_from(message, at)[0]
        at += 1 + message[at]
        return _read_extensions(message, at + 2)
    except (IndexError, struct.error):  # a length points beyond the message
        return None


def _read_extensions(message: bytes, at: int) -> ClientHello:
    versions, name = _NUMBER.unpack_from(message, 4), None
    while at < len(message):
        kind, length = _EXTENSION.unpack_from(message, at)
        value = message[at + 4 : at + 4 + length]
        if kind == _SERVER_NAME and value[2:3] == b"\0":  # a list; host names are the only type
            name = value[5 : 5 + _NUMBER.unpack_from(value, 3)[0]]
        elif kind == _SUPPORTED_VERSIONS:
            count = value[0] // 2
            versions = struct.unpack_from(f">{count}H", value, 1)
        at += 4 + length
    known = [version for version in versions if version in _VERSIONS]  # the others are GREASE (RFC 8701)
    return ClientHello(max(known, default=0), name)


def explain(error: ssl.SSLError, reader: HelloReader, needed: ssl.TLSVersion) -> str:
    """Return why a handshake failed, as text.

    Args:
        needed: the lowest TLS version that the server accepts.
    """
    hello = reader.hello
    reason = error.reason or ""
    if "_ALERT_" in reason:
        return f"the client sent an alert: {alert_words(reason)}"
    if reader.first[:1] == bytes([_ALERT]):
        return "the first message of the client is an alert"
    if hello and 0 < hello.version < needed:
        return f"the client offers at most {_VERSIONS[hello.version]}, the server needs at least {_VERSIONS[needed]}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    return _EXPLANATIONS.get(reason) or f"the handshake failed: {words(error)}"


def alert_words(reason: str) -> str:
    """Return the text of an alert from OpenSSL's name for it."""
    alert = reason.partition("_ALERT_")[2].replace("_", " ").lower()
    return "unknown certificate authority" if alert == "unknown ca" else alert


def words(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason as text; if it has no name, OpenSSL's message without the source position."""
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return re.sub(r"^\[.*?\] | \(.*$", "", str(error.args[-1])).lower()
