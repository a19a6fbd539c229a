"""The first message of a TLS client, read for people: which name and versions it asked for, and why it got nowhere.

OpenSSL judges the handshake. What is read here beside it is what OpenSSL keeps to itself.
"""

from __future__ import annotations

import re
import ssl
import struct
from dataclasses import dataclass

__all__ = ["MAX_HELLO", "ClientHello", "HelloReader", "alert_words", "explain", "words"]

#: What OpenSSL takes as a first message at most, in bytes; a usual one has 250 to 2,000.
MAX_HELLO = 131_396
_ALERT, _HANDSHAKE, _CLIENT_HELLO, _MAJOR = 21, 22, 1, 3
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43
_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
_NUMBER, _EXTENSION = struct.Struct(">H"), struct.Struct(">HH")
_SAYINGS = {
    "NO_SHARED_CIPHER": "the client and the server have no cipher in common",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the client accepts no signature of a key like the server's",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "the client accepts no signature of a key like the server's",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate, and one is required",
}


@dataclass(frozen=True)
class ClientHello:
    """What a client asks for (RFC 8446, 4.1.2)."""

    version: int  # the highest that it offers and that is known here, as 0x0304; 0 if there is none
    server_name: bytes | None  # as sent (RFC 6066, 3)


class HelloReader:
    """Collects the first message, which may come in pieces, and in several records.

    first: the first bytes of the connection, at most 8. hello: what the message says; None: it is not whole yet, or it
    is not one. Each byte is looked at once, however small the pieces.
    """

    def __init__(self) -> None:
        self.first = b""
        self.hello: ClientHello | None = None
        self._rest, self._message = bytearray(), bytearray()
        self._is_over = False

    @property
    def could_be_tls(self) -> bool:
        """Whether TLS may begin like this: with a record of a handshake, or an alert, of version 3."""
        kind, major = self.first[:1], self.first[1:2]
        return kind in (b"", bytes([_HANDSHAKE]), bytes([_ALERT])) and major in (b"", bytes([_MAJOR]))

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection; no error is raised."""
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
    """Indices instead of readable steps: this is part of every handshake, and takes 8 us of 500 so."""
    try:
        if message[0] != _CLIENT_HELLO:
            return None
        at = 38  # behind type, length, version and random: session, ciphers, compression
        at += 1 + message[at]
        at += 2 + _NUMBER.unpack_from(message, at)[0]
        at += 1 + message[at]
        return _read_extensions(message, at + 2)
    except (IndexError, struct.error):  # a length that leads outside
        return None


def _read_extensions(message: bytes, at: int) -> ClientHello:
    versions, name = _NUMBER.unpack_from(message, 4), None
    while at < len(message):
        kind, length = _EXTENSION.unpack_from(message, at)
        value = message[at + 4 : at + 4 + length]
        if kind == _SERVER_NAME and value[2:3] == b"\0":  # a list, whose only type is a host name
            name = value[5 : 5 + _NUMBER.unpack_from(value, 3)[0]]
        elif kind == _SUPPORTED_VERSIONS:
            count = value[0] // 2
            versions = struct.unpack_from(f">{count}H", value, 1)
        at += 4 + length
    known = [version for version in versions if version in _VERSIONS]  # others are greased (RFC 8701)
    return ClientHello(max(known, default=0), name)


def explain(error: ssl.SSLError, reader: HelloReader, needed: ssl.TLSVersion) -> str:
    """Why a handshake failed, in words. needed: the lowest version that is served."""
    hello = reader.hello
    reason = error.reason or ""
    if "_ALERT_" in reason:
        return f"the client gave up: {alert_words(reason)}"
    if reader.first[:1] == bytes([_ALERT]):
        return "the client began with an alert"
    if hello and 0 < hello.version < needed:
        return f"the client wants {_VERSIONS[hello.version]}, at least {_VERSIONS[needed]} is needed"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    return _SAYINGS.get(reason) or f"the handshake failed: {words(error)}"


def alert_words(reason: str) -> str:
    """What a peer's alert says, from OpenSSL's name for it."""
    alert = reason.partition("_ALERT_")[2].replace("_", " ").lower()
    return "unknown certificate authority" if alert == "unknown ca" else alert


def words(error: ssl.SSLError) -> str:
    """OpenSSL's reason; where it has no name, its text without the lines of code about it."""
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return re.sub(r"^\[.*?\] | \(.*$", "", str(error.args[-1])).lower()
