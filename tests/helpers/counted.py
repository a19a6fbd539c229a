"""The program under valgrind of tests.helpers.instructions: each child serves one connection of each kind, and ends.

    python counted.py CHILDREN

The children run one after another. Before each connection a child prints the port; it serves the connection until the
peer closes it. valgrind adds the instructions before a fork to the count of each child. The program imports nothing of
the tests, because imports are slow under valgrind.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

#: Rounds of the yardstick for each message: about as much interpreted code as gserver runs for one.
ROUNDS = 4


class YardstickCodec:
    """A codec with as little code as possible."""

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
    """Ordinary Python code: calls, attributes, loops, a socket. Do not change it: all ratios would change."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._codec = YardstickCodec()
        self._handled = 0
        self._active_at = 0.0

    def serve(self) -> None:
        while data := self._conn.recv(64 * 1024):
            for _ in range(ROUNDS):
                reply = self._round(data)
            self._conn.sendall(reply)

    def _round(self, data: bytes) -> bytes:
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
    """Serve one connection with a service on a TcpServer: all of gserver except its processes."""
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
    import gevent.event  # noqa: F401  imported once, before the forks

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
