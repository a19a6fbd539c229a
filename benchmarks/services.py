"""What gserver serves in the benchmarks beside its built-in services: other shapes of an echo, and a broadcast."""

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
    """Echo, in a greenlet that owns its connection."""
    while data := conn.recv():
        conn.write(data)


def bare_echo(sock: Any, address: Any) -> None:
    """Echo, as a handler for gevent's StreamServer."""
    while data := sock.recv(64 * 1024):
        sock.sendall(data)


def broadcast(how: str) -> Service:
    """Return a service that sends a line that begins with CALL to every connection, and echoes others.

    how: send or send_nowait, the method of the connection by which it does.
    """
    members: set[Connection] = set()
    call = CALL.encode()

    def on_message(line: bytes, conn: Connection) -> bytes | None:
        if not line.startswith(call):
            return line
        for member in list(members):
            send: Callable[[bytes], None] = getattr(member, how)
            send(line)
        return None

    return Service(on_message, Lines, on_open=members.add, on_close=lambda conn, reason: members.discard(conn))
