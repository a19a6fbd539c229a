"""The TLS settings as one value. This module does not import ssl.

Only servers with certificates import ssl: gevent warns if ssl was imported before its monkey-patching.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ssl

__all__ = ["ContextFactory", "ContextHook", "TlsConfig"]

ContextFactory = Callable[[], "ssl.SSLContext"]
ContextHook = Callable[["TlsConfig", ContextFactory], "ssl.SSLContext"]


@dataclass(frozen=True)
class TlsConfig:
    """The TLS settings of a user. All files are PEM."""

    certfile: str  # the certificate, then the chain up to its authority
    keyfile: str | None = None  # None: in certfile
    keyfile_password: str | None = field(default=None, repr=False)  # of all encrypted key files
    ca_certs: str | None = None  # the authorities against which client certificates are verified
    cert_reqs: Literal["none", "optional", "required"] = "none"  # whether clients must present a certificate
    sni: tuple[tuple[str, str, str | None], ...] = ()  # (server name or *.wildcard, certfile, keyfile or None)
    alpn: tuple[str, ...] = ()  # application protocols, the preferred one first
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None  # of TLS 1.2, as OpenSSL writes them; None: ECDHE with AES-GCM or ChaCha20
    #: Makes the SSLContext: called with this object and with the default factory, and again when a file has changed. If
    #: the context has a server name callback of its own, that callback chooses the certificate, and `sni` is ignored.
    ssl_context: ContextHook | None = None
