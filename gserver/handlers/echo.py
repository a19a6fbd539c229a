"""echo: a service that sends back the bytes that it receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gserver.codecs import Raw
from gserver.service import Service

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["echo"]


def echo(prefix: str | bytes = b"") -> Service:
    """Return a service that sends back each received chunk, after `prefix` (text is encoded in UTF-8)."""
    head = prefix.encode() if isinstance(prefix, str) else prefix

    def repeat(data: bytes, conn: Connection) -> bytes:
        return data

    def repeat_with_prefix(data: bytes, conn: Connection) -> bytes:
        return head + data

    return Service(repeat_with_prefix if head else repeat, Raw, probe=b"probe")
