"""Where a server is, as Locust's --host and ours take it: tcp://HOST:PORT, or tls://HOST:PORT."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["SCHEMES", "is_tls", "parse_host"]

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
    return parts.hostname, port


def is_tls(host: str | None) -> bool:
    """Whether the connections of `host` are to be encrypted."""
    return urlsplit(host or "").scheme == "tls"
