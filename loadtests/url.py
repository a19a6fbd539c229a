"""Where a server is, as Locust's --host and ours take it: tcp://HOST:PORT, or tls://HOST:PORT."""

from __future__ import annotations

from urllib.parse import urlsplit

from loadtests.text_encoding import as_text

__all__ = ["SCHEMES", "host_name", "is_tls", "parse_host"]

SCHEMES = ("tcp", "tls")


def parse_host(host: str | None) -> tuple[str, int]:
    """(address, port) of tcp://HOST:PORT or tls://HOST:PORT; ValueError names what is wrong."""
    parts = urlsplit(host or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in SCHEMES or not parts.hostname or port is None:
        raise ValueError(f"host is {host!r}, expected tcp://HOST:PORT or tls://HOST:PORT")
    return host_name(parts.hostname), port


def host_name(text: str) -> str:
    """A host's name or address as the resolver takes it, in ASCII; ValueError if no host can be called that."""
    name = as_text(text)
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{name!r} cannot be the name of a host") from None


def is_tls(host: str | None) -> bool:
    """Whether the connections of `host` are to be encrypted."""
    return urlsplit(host or "").scheme == "tls"
