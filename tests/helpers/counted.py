"""A program whose instructions are counted: one child after the other serves a connection of each kind, and ends.

    python counted.py CHILDREN

Before each connection a child prints the port; the connection that comes is served until the peer ends it. Run by
tests.helpers.instructions, under valgrind, which counts what came before a fork for each child too; imports nothing of
the tests, which would only take time there.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

#: How many turns of the yardstick a message makes: as much interpreted code as there is in a turn of gserver's.
TURNS = 4


class YardstickCodec:
    """What a codec does, in the fewest words."""

    def __init__(self) -> None:
        self._received: list[bytes] = []

    def receive(self, data: bytes) -> None:
        self._received.append(data)

    def messages(self) -> Iterator[bytes]:
        yield from self._received
        self._received.clear()

    def encode(self, message: bytes) -> bytes:
        return message


class Yardstick:
    """Ordinary Python: calls, attributes, loops, and a socket. It must stay as it is, or all ratios change."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._codec = YardstickCodec()
        self._handled = 0
        self._active_at = 0.0

    def serve(self) -> None:
        while data := self._conn.recv(64 * 1024):
            for _ in range(TURNS):
                reply = self._turn(data)
            self._conn.sendall(reply)

    def _turn(self, data: bytes) -> bytes:
        replies = []
        self._active_at = time.monotonic()
        self._codec.receive(data)
        for message in self._codec.messages():
            try:
                reply = self._handle(message)
                if reply is not None:
                    replies.append(self._codec.encode(reply))
            except ValueError:
                replies.append(b"")
            self._handled += 1
        return replies[0] if len(replies) == 1 else b"".join(replies)

    def _handle(self, message: bytes) -> bytes | None:
        return message


def serve_yardstick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        conn, _ = listener.accept()
        with conn:
            Yardstick(conn).serve()


def serve_service(service: Any) -> None:
    """A service on a TcpServer, which is everything but the processes."""
    from gevent.event import Event

    from gserver import TcpServer

    ended = Event()
    service.on_close = lambda conn, reason: ended.set()
    server = TcpServer(("127.0.0.1", 0), service)
    server.start()
    print(server.server_port, flush=True)
    ended.wait()
    server.stop()


def main() -> None:
    import gevent.event  # noqa: F401  what a child uses is imported once

    import gserver.server.tcp_server  # noqa: F401
    from gserver import handlers

    for _ in range(int(sys.argv[1])):
        child = os.fork()
        if not child:
            serve_yardstick()
            serve_service(handlers.echo())
            serve_service(handlers.json())
            return
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
