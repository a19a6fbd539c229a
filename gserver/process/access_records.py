"""The records of the access log: one for each closed connection, with a line of text and with fields.

The text is made by the setting access_log_format. The fields are attributes of the record, with the names of
ACCESS_FIELDS: log_format = json writes them, and so can the formatters of logconfig_dict.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gserver.connection.connection import format_address
from gserver.errors import CloseReason

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["access_fields", "access_line", "access_record"]

_Atom = Callable[["Connection", CloseReason], Any]
_ATOMS: dict[str, _Atom] = {
    "h": lambda conn, reason: conn,
    "t": lambda conn, reason: time.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
    "r": lambda conn, reason: reason.value,
    "M": lambda conn, reason: conn.messages,
    "I": lambda conn, reason: conn.received_bytes,
    "O": lambda conn, reason: conn.sent_bytes,
    "L": lambda conn, reason: f"{time.monotonic() - conn.opened_at:.6f}",
    "p": lambda conn, reason: os.getpid(),
    "id": lambda conn, reason: conn.id,
    "listener": lambda conn, reason: conn.listener,
}


def access_record(
    logger: logging.Logger, form: str, conn: Connection, reason: CloseReason, listener: str
) -> logging.LogRecord:
    """Return the record for a closed connection: its message is access_line(), its attributes are access_fields()."""
    fields = access_fields(conn, reason, listener)
    return logger.makeRecord(
        logger.name, logging.INFO, __file__, 0, access_line(form, conn, reason), (), None, extra=fields
    )


def access_line(form: str, conn: Connection, reason: CloseReason) -> str:
    """Return the line of the access log for a closed connection, by access_log_format."""
    return form % _Atoms(conn, reason)


class _Atoms(dict[str, Any]):
    """The values for %(x)s, computed when they are used; "-" for an unknown name."""

    def __init__(self, conn: Connection, reason: CloseReason) -> None:
        self._conn = conn
        self._reason = reason

    def __missing__(self, name: str) -> Any:
        atom = _ATOMS.get(name)
        return "-" if atom is None else atom(self._conn, self._reason)


def access_fields(conn: Connection, reason: CloseReason, listener: str) -> dict[str, Any]:
    """Return the fields of the record for a closed connection.

    proxy_peer, the address of the proxy, is there only if the connection began with a PROXY header. tls is the version
    of the protocol, or None without TLS and before the handshake was complete.
    """
    fields = {
        "id": conn.id,
        "peer": str(conn),
        "listener": listener,
        "reason": reason.value,
        "messages": conn.messages,
        "received_bytes": conn.received_bytes,
        "sent_bytes": conn.sent_bytes,
        "duration_s": round(time.monotonic() - conn.opened_at, 6),
        "tls": None if conn.tls is None else conn.tls.version,
    }
    if conn.proxy is not None:
        fields["proxy_peer"] = format_address(conn.proxy.sender)
    return fields
