"""Servers and clients on real sockets, in one process and one event loop.

with Serving() as serving:
    server = serving.start(service)
    peer = serving.connect(server)
    peer.send(b"hello\\n")
    peer.read_line()
"""

from __future__ import annotations

import contextlib
import socket as plain
import struct
from types import TracebackType
from typing import Any

from gevent import socket

from gserver.errors import CloseReason
from gserver.server.tcp_server import TcpServer
from tests.helpers.waiting import PATIENCE_S, wait_until

__all__ = ["Peer", "Serving", "assert_closed", "closed_reasons"]


#: Socket buffers that are so small that the server's outbox fills with little data.
NARROW_BYTES = 8192


class Peer:
    """A client that reads and writes bytes, with a timeout of PATIENCE_S."""

    def __init__(self, address: Any, narrow: bool = False, host: str | None = None) -> None:
        """Connect to `address`. narrow: with a small receive buffer. host: source address, such as 127.0.0.2."""
        self.sock: Any = socket.socket(address_family(address))
        self.sock.settimeout(PATIENCE_S)
        if host is not None:
            self.sock.bind((host, 0))
        if narrow:
            self.sock.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, NARROW_BYTES)
        self.sock.connect(address)
        self.unread = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self) -> bytes:
        """Return the next bytes; b"" at the end of the connection."""
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        return bytes(self.sock.recv(1 << 20))

    def read_exactly(self, size: int) -> bytes:
        chunks, missing = [], size
        while missing:
            data = self.read()
            assert data, f"the connection ended {missing} bytes before {size}"
            self.unread = data[missing:]
            chunks.append(data[:missing])
            missing -= len(chunks[-1])
        return b"".join(chunks)

    def read_line(self) -> bytes:
        data = b""
        while b"\n" not in data:
            more = self.read()
            assert more, f"the connection ended after {data!r}"
            data += more
        line, _, self.unread = data.partition(b"\n")
        return line

    def read_to_end(self) -> bytes:
        data = bytearray()
        while more := self.read():
            data += more
        return bytes(data)

    def ask(self, line: bytes) -> bytes:
        self.send(line + b"\n")
        return self.read_line()

    @property
    def is_served(self) -> bool:
        """Whether the server echoes a line."""
        return self.is_answered(b"hello")

    def is_answered(self, line: bytes) -> bool:
        """Whether the server echoes this line."""
        try:
            return self.ask(line) == line
        except (AssertionError, OSError):
            return False

    def is_reset(self) -> bool:
        """Whether the connection ends with a reset."""
        try:
            self.read_to_end()
        except ConnectionResetError:
            return True
        return False

    def finish(self) -> None:
        """Close the sending side; reading is still possible."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection: the server receives RST."""
        self.sock.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.sock.close()


class Serving:
    """Starts servers and connects peers; closes them at the end, and checks the counters of every server."""

    def __init__(self) -> None:
        self._servers: list[TcpServer] = []
        self._peers: list[Peer] = []

    def start(
        self, handle: Any, listener: Any = ("127.0.0.1", 0), *, narrow: bool = False, **options: Any
    ) -> TcpServer:
        """Return a running server. narrow: with a small send buffer of a few KB for each connection."""
        server = TcpServer(listener, handle, **options)
        self._servers.append(server)
        server.start()
        if narrow:
            server.socket.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, NARROW_BYTES)
        return server

    def connect(self, server: TcpServer, narrow: bool = False, host: str | None = None) -> Peer:
        """Return a connected client; the server may not have accepted it yet."""
        peer = Peer(server.address, narrow, host)
        self._peers.append(peer)
        return peer

    def meet(self, server: TcpServer, narrow: bool = False) -> Peer:
        """Return a client that the server has accepted."""
        before = server.counters.accepted
        peer = self.connect(server, narrow)
        wait_until(lambda: server.counters.accepted > before)
        return peer

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.close()
        for server in self._servers:
            server.drain(0.5)
            if kind is None:
                assert_counters_balance(server)


def assert_counters_balance(server: TcpServer) -> None:
    """Check that every connection was counted once as accepted and once as closed."""
    wait_until(lambda: server.counters.open == 0, 1.0)
    server.counters.check()

    assert server.counters.accepted == server.counters.closed.total()


def closed_reasons(server: TcpServer) -> dict[CloseReason, int]:
    return dict(server.counters.closed)


def assert_closed(server: TcpServer, reason: CloseReason, count: int = 1) -> None:
    """Wait until so many connections are closed; check that all have this reason and that there are no others."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: server.counters.closed.total() >= count)

    assert closed_reasons(server) == {reason: count}
    server.counters.check()


def address_family(address: Any) -> int:
    if isinstance(address, tuple):
        return int(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    return int(socket.AF_UNIX)
