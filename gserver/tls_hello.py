"""The first message of a TLS client, read for people: which name and versions it asked for, and why it got nowhere.

OpenSSL judges the handshake. What is read here beside it is what OpenSSL keeps to itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MAX_HELLO", "ClientHello", "alert_words", "could_be_tls", "explain", "read_client_hello", "words"]

#: How much of a first message is looked at, in bytes; a usual one has 250 to 2,000.
MAX_HELLO = 16 * 1024
_ALERT, _HANDSHAKE, _CLIENT_HELLO, _MAJOR = 21, 22, 1, 3
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43
_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


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


class _Cut(Exception):
    """The bytes end too early."""


class _Reader:
    """Takes fields off the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise _Cut
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def vector(self, length: int) -> bytes:
        """The bytes behind their length, which has `length` bytes itself."""
        return self.take(self.number(length))


def read_client_hello(data: bytes) -> ClientHello | None:
    """What the first bytes of a connection say. None: no whole ClientHello, or none at all; no error is raised."""
    try:
        message = _Reader(_join_records(data))
        if message.number(1) != _CLIENT_HELLO:
            return None
        return _read_body(_Reader(message.vector(3)))
    except _Cut:
        return None


def _join_records(data: bytes) -> bytes:
    records, joined = _Reader(data), b""
    while records and records.number(1) == _HANDSHAKE:
        records.take(2)
        joined += records.vector(2)
    return joined


def _read_body(body: _Reader) -> ClientHello:
    versions = [body.number(2)]
    body.take(32)
    for length in (1, 2, 1):  # session, ciphers, compression
        body.vector(length)
    extensions, name = _Reader(body.vector(2) if body else b""), None
    while extensions:
        kind, value = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME and value:
            names = _Reader(value.vector(2))
            name = names.vector(2) if names.number(1) == 0 else None
        elif kind == _SUPPORTED_VERSIONS:
            versions = list(_numbers(_Reader(value.vector(1))))
    known = [version for version in versions if version in _VERSIONS]  # others are greased (RFC 8701)
    return ClientHello(max(known, default=0), name)


def _numbers(reader: _Reader) -> Iterator[int]:
    while reader:
        yield reader.number(2)


def could_be_tls(first: bytes) -> bool:
    """Whether a connection may begin like this: with a record of a handshake, or an alert, of version 3."""
    return first[:1] in (b"", bytes([_HANDSHAKE]), bytes([_ALERT])) and first[1:2] in (b"", bytes([_MAJOR]))


def explain(error: ssl.SSLError, first: bytes, hello: ClientHello | None, needed: ssl.TLSVersion) -> str:
    """Why a handshake failed, in words.

    first: the first bytes of the connection. hello: what they say. needed: the lowest version that is served.
    """
    reason = error.reason or ""
    if "_ALERT_" in reason:
        return f"the client gave up: {alert_words(reason)}"
    if first[:1] == bytes([_ALERT]):
        return "the client began with an alert"
    if hello and 0 < hello.version < needed:
        return f"the client wants {_VERSIONS[hello.version]}, at least {_VERSIONS[needed]} is needed"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    return _SAYINGS.get(reason) or f"the handshake failed: {words(reason)}"


def alert_words(reason: str) -> str:
    """What a peer's alert says, from OpenSSL's name for it."""
    alert = words(reason.partition("_ALERT_")[2])
    return "unknown certificate authority" if alert == "unknown ca" else alert


def words(reason: str) -> str:
    return reason.replace("_", " ").lower() or "OpenSSL does not say why"
