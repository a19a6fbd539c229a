"""Parses the address of a server, tcp://HOST:PORT or tls://HOST:PORT, as --host takes it."""

from __future__ import annotations

from urllib.parse import urlsplit

from loadtests.text_encoding import as_text

__all__ = ["SCHEMES", "host_name", "is_tls", "parse_host"]

SCHEMES = ("tcp", "tls")


def parse_host(host: str | None) -> tuple[str, int]:
    """(host, port) of tcp://HOST:PORT or tls://HOST:PORT; ValueError for anything else."""
    parts = urlsplit(host or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in SCHEMES or not parts.hostname or port is None:
        raise ValueError(f"host is {host!r}, expected tcp://HOST:PORT or tls://HOST:PORT")
    return host_name(parts.hostname), port


def host_name(text: str) -> str:
    """A host name or address in ASCII (IDNA), for the resolver; ValueError if it is not a valid name."""
    name = as_text(text)
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{name!r} cannot be the name of a host") from None


def is_tls(host: str | None) -> bool:
    """Whether the scheme of `host` is tls."""
    return urlsplit(host or "").scheme == "tls"
