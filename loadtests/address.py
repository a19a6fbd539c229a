"""Where a server is, as Locust's --host and ours take it: tcp://HOST:PORT."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["parse_host"]


def parse_host(host: str | None) -> tuple[str, int]:
    """(address, port) of tcp://HOST:PORT; ValueError names what is wrong."""
    parts = urlsplit(host or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or port is None:
        raise ValueError(f"host is {host!r}, expected tcp://HOST:PORT")
    return parts.hostname, port
