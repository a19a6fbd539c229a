"""Certificates for tests: an authority of their own, and what it has signed, as files.

The keys are ECDSA P-256, which cost no time to make. Every call makes a new authority, so two calls give strangers.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["CertificateFiles", "encrypt_key", "make_certificates"]


@dataclass(frozen=True)
class CertificateFiles:
    """Paths as text, as settings take them."""

    ca: str  # the authority's certificate, for clients to trust
    certfile: str  # the server's certificate, its chain with it
    keyfile: str  # its key, without password
    combined: str  # both in one file
    client_certfile: str  # a client's certificate (me@example.test) by the same authority
    client_keyfile: str

    def client_context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """What a client uses that trusts this authority, and shows its own certificate if asked to."""
        context = ssl.create_default_context(cafile=self.ca)
        if with_certificate:
            context.load_cert_chain(self.client_certfile, self.client_keyfile)
        return context


def make_certificates(folder: Path, *names: str, expired: bool = False) -> CertificateFiles:
    """Write a new authority, a server certificate for `names` (none: localhost and 127.0.0.1), and a client's.

    `folder` is made if missing; what an earlier call wrote there is replaced. expired: since yesterday.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    not_after = datetime.now(UTC) - timedelta(days=1) if expired else None
    server = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=not_after)
    client = authority.issue_cert("me@example.test")
    files = CertificateFiles(
        **{
            field: str(folder / f"{field}.pem")
            for field in ("ca", "certfile", "keyfile", "combined", "client_certfile", "client_keyfile")
        }
    )
    authority.cert_pem.write_to_path(files.ca)
    _write(server, files.certfile, files.keyfile)
    server.private_key_and_cert_chain_pem.write_to_path(files.combined)
    _write(client, files.client_certfile, files.client_keyfile)
    return files


def _write(certificate: trustme.LeafCert, certfile: str, keyfile: str) -> None:
    certificate.private_key_pem.write_to_path(keyfile)
    Path(certfile).write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


def encrypt_key(keyfile: str, password: str, to: str) -> None:
    """Write the key of `keyfile` to `to`, locked with `password`."""
    key = load_pem_private_key(Path(keyfile).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    Path(to).write_bytes(locked)
