"""Services that gserver runs in the benchmarks beside its built-in ones: two other kinds of echo, and a broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.messages import CALL
from gserver import Lines, Service, stream

if TYPE_CHECKING:
    from gserver.connection.connection import Connection
    from gserver.connection.stream_connection import StreamConnection

__all__ = ["bare_echo", "broadcast", "stream_echo"]


@stream
def stream_echo(conn: StreamConnection) -> None:
    """Echo as a stream function: a greenlet for each connection."""
    while data := conn.recv():
        conn.write(data)


def bare_echo(sock: Any, address: Any) -> None:
    """Echo as a handler with the signature of gevent's StreamServer."""
    while data := sock.recv(64 * 1024):
        sock.sendall(data)


def broadcast(method: str) -> Service:
    """Return a service that sends each line with the prefix CALL to all connections, and echoes other lines.

    method: the method of Connection to send with, "send" or "send_nowait".
    """
    members: set[Connection] = set()
    call = CALL.encode()

    def on_message(line: bytes, conn: Connection) -> bytes | None:
        if not line.startswith(call):
            return line
        for member in list(members):
            send: Callable[[bytes], None] = getattr(member, method)
            send(line)
        return None

    return Service(on_message, Lines, on_open=members.add, on_close=lambda conn, reason: members.discard(conn))
