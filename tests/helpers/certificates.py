"""Certificates for tests: an authority of their own, and what it signs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Authority", "Issued"]


@dataclass(frozen=True)
class Issued:
    """The files of one certificate, in PEM: `both` holds key and certificate."""

    certfile: str
    keyfile: str
    both: str


class Authority:
    """An authority in `folder`; its own certificate is in `ca_certs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.ca_certs = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_certs)

    def issue(self, *names: str, file: str | None = None) -> Issued:
        """A certificate for these names, in files called by `file` or the first of them."""
        leaf = self._ca.issue_cert(*names)
        stem = self._folder / (file or names[0].replace("*", "any"))
        issued = Issued(f"{stem}.crt", f"{stem}.key", f"{stem}.pem")
        leaf.private_key_pem.write_to_path(issued.keyfile)
        leaf.private_key_and_cert_chain_pem.write_to_path(issued.both)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        Path(issued.certfile).write_bytes(chain)
        return issued

    def client_context(self, *, identity: Issued | None = None, **attributes: object) -> ssl.SSLContext:
        """What a client that trusts this authority connects with."""
        context = ssl.create_default_context(cafile=self.ca_certs)
        if identity is not None:
            context.load_cert_chain(identity.certfile, identity.keyfile)
        for name, value in attributes.items():
            setattr(context, name, value)
        return context
