"""Loads certificates, keys and authorities from PEM files; every error names the setting and the file.

OpenSSL reports most errors as "PEM lib", and prompts on the terminal for the password of an encrypted key. So the files
are checked first, and a password callback is always set. No file is kept open.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from gserver.errors import ConfigError

__all__ = ["KeyPair", "Validity", "load_authorities", "load_key_pair", "read_validity"]

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_UTC_TIME, _SEQUENCE = 0x17, 0x30


@dataclass(frozen=True)
class KeyPair:
    """A certificate chain and its private key. keyfile None: the key is in certfile."""

    certfile: str
    keyfile: str | None = None
    where: str = ""  # follows the setting in error messages, as " of 'www.example.org'"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.certfile,) if self.keyfile is None else (self.certfile, self.keyfile)


@dataclass(frozen=True)
class Validity:
    """The period in which a certificate is valid."""

    since: datetime
    until: datetime

    def complaint(self, now: datetime) -> str | None:
        """Return why the certificate is not valid at `now`, as text; None: it is valid."""
        if now > self.until:
            return f"expired on {self.until:%Y-%m-%d}"
        return f"is not valid before {self.since:%Y-%m-%d}" if now < self.since else None


def load_key_pair(context: ssl.SSLContext, pair: KeyPair, password: str | None) -> Validity:
    """Load a certificate and its key into `context`; return the validity of the certificate.

    ConfigError if a file is missing, unreadable or not PEM, or if the key is encrypted or does not match.

    Args:
        context: a new one, because OpenSSL leaves half of the pair in it after a failure.
        password: of the key, if it is encrypted.
    """
    chain = _read(f"certfile{pair.where}", pair.certfile)
    if _CERTIFICATE not in chain:
        raise ConfigError(f"setting certfile{pair.where}: {pair.certfile!r} contains no PEM certificate")
    if pair.keyfile is None and _KEY not in chain:
        raise ConfigError(
            f"setting certfile{pair.where}: {pair.certfile!r} contains no private key, and keyfile is not set"
        )
    if pair.keyfile is not None and _KEY not in _read(f"keyfile{pair.where}", pair.keyfile):
        raise ConfigError(f"setting keyfile{pair.where}: {pair.keyfile!r} contains no PEM private key")
    requests: list[str] = []

    def give_password() -> str:
        requests.append(pair.keyfile or pair.certfile)
        return password or ""

    try:
        context.load_cert_chain(pair.certfile, pair.keyfile, give_password)
        return read_validity(chain)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(_explain(pair, error, bool(requests), password)) from error


def _explain(pair: KeyPair, error: Exception, is_encrypted: bool, password: str | None) -> str:
    setting = f"{'certfile' if pair.keyfile is None else 'keyfile'}{pair.where}"
    key = pair.keyfile or pair.certfile
    reason = getattr(error, "reason", None)
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return f"setting {setting}: the key in {key!r} does not match the certificate in {pair.certfile!r}"
    if is_encrypted and password is None:
        return f"setting {setting}: the key in {key!r} is encrypted, and keyfile_password is not set"
    if is_encrypted:
        return f"setting keyfile_password does not decrypt the key in {key!r}"
    what = reason.replace("_", " ").lower() if reason else "the file is damaged or incomplete"
    return f"setting certfile{pair.where}: {' and '.join(map(repr, pair.files))} cannot be loaded: {what}"


def load_authorities(context: ssl.SSLContext, path: str) -> None:
    """Load the authorities that may sign client certificates from the PEM file `path`; ConfigError if that fails."""
    if _CERTIFICATE not in _read("ca_certs", path):
        raise ConfigError(f"setting ca_certs: {path!r} contains no PEM certificate")
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"setting ca_certs: {path!r} contains a certificate that is damaged or incomplete") from error


def _read(setting: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ConfigError(f"setting {setting}: {path!r} does not exist") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"setting {setting}: {path!r} cannot be read: {why}") from error


def read_validity(chain: bytes) -> Validity:
    """Return the validity of the first certificate in PEM `chain`; ValueError if it cannot be parsed.

    Certificate > TBSCertificate > [version], serial, algorithm, issuer, validity (RFC 5280, 4.1). `ssl` can parse only
    certificates that a peer has presented.
    """
    start = chain.index(_CERTIFICATE)
    text = chain[start:].partition(b"-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert((text[0] + text[1]).decode("ascii"))
    fields = _elements(_elements(_elements(der)[0][1])[0][1])
    validity = next(content for tag, content in fields[3:] if tag == _SEQUENCE and _is_validity(content))
    since, until = (_time(tag, content) for tag, content in _elements(validity))
    return Validity(since, until)


def _is_validity(content: bytes) -> bool:
    return content[:1] in (b"\x17", b"\x18")


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents of a sequence of DER elements."""
    elements, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        elements.append((tag, der[at : at + length]))
        at += length
    return elements


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # a year of two digits: 50 is 1950 (RFC 5280, 4.1.2.5.1)
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
