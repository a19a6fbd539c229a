"""What TLS is made of: names of files and rules. Nothing of TLS itself, which only they need who have certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ssl

__all__ = ["ContextHook", "TlsConfig"]

#: gunicorn's hook: called as hook(config, default_ssl_context_factory), returns the context to use.
ContextHook = Callable[["TlsConfig", Callable[[], "ssl.SSLContext"]], "ssl.SSLContext"]


@dataclass(frozen=True)
class TlsConfig:
    """What TLS is made of. Files are PEM.

    keyfile: None: in certfile. sni: (name, certfile, keyfile or None) for other names; *.example.com stands for one
    label before example.com. ciphers: of TLS 1.2, in OpenSSL's words.
    """

    certfile: str
    keyfile: str | None = None
    keyfile_password: str | None = None
    ca_certs: str | None = None
    cert_reqs: Literal["none", "optional", "required"] = "none"
    sni: tuple[tuple[str, str, str | None], ...] = ()
    alpn: tuple[str, ...] = ()
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None
    ssl_context: ContextHook | None = None

    def files(self) -> list[str]:
        """Everything that it reads."""
        pairs = [(self.certfile, self.keyfile), *((certfile, keyfile) for _, certfile, keyfile in self.sni)]
        named = [name for pair in pairs for name in pair if name is not None]
        return [*named, *([self.ca_certs] if self.ca_certs else [])]
