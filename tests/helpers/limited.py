"""Services and clients for tests of limits and of refused connections."""

from __future__ import annotations

import dataclasses
from typing import Any

from gserver import Service, stream
from gserver.codecs import Lines
from gserver.connection.stream_connection import StreamConnection
from gserver.limits.access_list import AccessList
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.server.tcp_server import SEND_LIMIT, Keepalive, TcpServer
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Peer, Serving
from tests.helpers.waiting import wait_until

__all__ = ["EVERY_PROXY", "OFF", "admitted", "assert_turned_away", "bare_echo", "change", "echo_stream", "telling_echo"]

#: No deadline at all.
OFF = Deadlines(**{field.name: 0.0 for field in dataclasses.fields(Deadlines)})
EVERY_PROXY = AccessList((), ())


def telling_echo(**hooks: Any) -> Service:
    """Return an echo service for lines that sends the reason to a client that is refused."""
    return make_echo_lines(on_error=lambda fault, conn: str(fault).encode(), **hooks)


@stream(codec=Lines)
def echo_stream(conn: StreamConnection) -> None:
    """Echo lines, as a stream function."""
    for line in conn:
        conn.send(line)


def bare_echo(sock: Any, address: Any) -> None:
    """Echo bytes, as a socket handler."""
    while data := sock.recv(1000):
        sock.sendall(data)


def admitted(serving: Serving, server: TcpServer, count: int, host: str = "127.0.0.1") -> list[Peer]:
    """Connect so many clients from `host`, and check that each gets a reply."""
    peers = [serving.connect(server, host=host) for _ in range(count)]
    assert all(peer.is_served for peer in peers)
    return peers


def assert_turned_away(peer: Peer, message: bytes = b"") -> None:
    """Check that the client receives this message and then an orderly end."""
    assert peer.read_to_end() == message


def change(server: TcpServer, *, deadlines: Deadlines = OFF, limits: Limits | None = None, **others: Any) -> None:
    """Change deadlines and limits, also those of the door, as a worker does."""
    limits = limits or Limits()
    server._door.change(limits)
    given: dict[str, Any] = {"send_limit": SEND_LIMIT, "keepalive": Keepalive(), "proxies": EVERY_PROXY, **others}
    server.change(deadlines=deadlines, limits=limits, **given)
    wait_until(lambda: not server._callbacks.greenlets)
