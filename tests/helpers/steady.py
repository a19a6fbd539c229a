"""Well-behaved clients: each sends at a fixed pace, checks the reply and measures the latency."""

from __future__ import annotations

import selectors
import socket
import time

__all__ = ["Steady", "quantile"]


class Steady:
    """`count` clients of a service that echoes lines, in the caller's thread; close() closes their sockets.

    pace_s: interval of the requests of each client, in seconds. command: prefix of a line that the service echoes.
    """

    def __init__(self, address: tuple[str, int], count: int = 50, pace_s: float = 0.02, command: bytes = b"") -> None:
        self._pace_s = pace_s
        self._command = command
        self._socks = [socket.create_connection(address, 60) for _ in range(count)]
        for sock in self._socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        self.exchanges = 0
        self.failures: list[str] = []

    def ask_for(self, seconds: float) -> list[float]:
        """Send requests for so many seconds; return the latency of each exchange, in seconds."""
        took: list[float] = []
        with selectors.DefaultSelector() as selector:
            waiting: dict[socket.socket, tuple[float, bytes]] = {}
            for sock in self._socks:
                selector.register(sock, selectors.EVENT_READ)
            begin = time.perf_counter()
            due = {sock: begin + self._pace_s * n / len(self._socks) for n, sock in enumerate(self._socks)}
            while time.perf_counter() < begin + seconds or waiting:
                now = time.perf_counter()
                assert now < begin + seconds + 60, f"{len(waiting)} clients have no reply"
                for sock in [sock for sock, at in due.items() if at <= now < begin + seconds]:
                    self.exchanges += 1
                    request = b"request %d\n" % self.exchanges
                    due[sock] += self._pace_s
                    if sock not in waiting:
                        waiting[sock] = (time.perf_counter(), request)
                        sock.send(self._command + request)
                for key, _ in selector.select(0.001):
                    self._answered(key.fileobj, waiting, took)
        return took

    def _answered(self, sock: object, waiting: dict[socket.socket, tuple[float, bytes]], took: list[float]) -> None:
        assert isinstance(sock, socket.socket)
        reply = sock.recv(1 << 16)
        sent_at, request = waiting.pop(sock, (0.0, b"nothing"))
        if reply != request:
            self.failures.append(f"sent {request!r}, got {reply!r}")
        took.append(time.perf_counter() - sent_at)

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
