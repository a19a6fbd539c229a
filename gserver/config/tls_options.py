"""What TLS is made of: names of files and rules. Nothing of TLS itself, which only they need who have certificates.

(gevent warns, with reason, of an ssl that was imported before it patches: so nobody does who has no certificates.)
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
    """What a person may choose. Files are PEM."""

    certfile: str  # the certificate, and the chain up to the authority behind it
    keyfile: str | None = None  # None: in certfile
    keyfile_password: str | None = field(default=None, repr=False)  # of all keys that are locked
    ca_certs: str | None = None  # the authorities that clients' certificates must come from
    cert_reqs: Literal["none", "optional", "required"] = "none"  # whether clients must show one
    sni: tuple[tuple[str, str, str | None], ...] = ()  # (server name or *.wildcard, certfile, keyfile or None)
    alpn: tuple[str, ...] = ()  # application protocols, the preferred one first
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None  # of TLS 1.2, as OpenSSL writes them; None: ECDHE with AES-GCM or ChaCha20
    #: Makes the context instead: called with this and with what would have made it; again when files have changed. If
    #: its context has a server name callback of its own, that one chooses, and `sni` does not.
    ssl_context: ContextHook | None = None
