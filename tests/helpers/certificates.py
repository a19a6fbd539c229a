"""Make certificates for tests: an authority, and a server and a client certificate signed by it, as files.

The keys are ECDSA P-256, which are made quickly. Each call makes a new authority: certificates of two calls do not
trust each other.
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
    """The paths of the files, as text, as settings take them."""

    ca: str  # the authority's certificate, for clients to trust
    certfile: str  # the server's certificate with its chain
    keyfile: str  # its key, without password
    combined: str  # certfile and keyfile in one file
    client_certfile: str  # a client certificate (me@example.test) of the same authority
    client_keyfile: str

    def client_context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """Return a context for a client that trusts the authority, optionally with the client certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if with_certificate:
            context.load_cert_chain(self.client_certfile, self.client_keyfile)
        return context


def make_certificates(folder: Path, *names: str, expired: bool = False) -> CertificateFiles:
    """Write a new authority, a server certificate for `names` (default: localhost and 127.0.0.1), and a client's.

    `folder` is created if missing; files of an earlier call are replaced. expired: the server certificate expired
    yesterday.
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
    """Write the key of `keyfile` to `to`, encrypted with `password`."""
    key = load_pem_private_key(Path(keyfile).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    Path(to).write_bytes(locked)
