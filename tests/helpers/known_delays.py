"""An echo server with known delays, in a separate process, that records when each line was received and sent.

    python -m tests.helpers.known_delays KIND LOG

KIND: constant (200 ms), two (100 or 300 ms), uniform (100 to 300 ms), freeze (50 ms, and once no reply for a second).
It prints its port. At SIGTERM it writes LOG: {"replies": [[line, received_ns, sent_ns]], "frozen": [from_ns, to_ns]},
on the monotonic clock. So tests compare with the actual delays and not only with the intended ones.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["KnownDelays", "Records"]

MS = 10**6
KINDS: dict[str, Callable[[random.Random], int]] = {
    "constant": lambda chance: 200 * MS,
    "two": lambda chance: 300 * MS if chance.random() < 0.15 else 100 * MS,
    "uniform": lambda chance: chance.randrange(100 * MS, 300 * MS),
    "freeze": lambda chance: 50 * MS,
}
FREEZE_AFTER_MESSAGES = 100
FREEZE_S = 1.0


class Server:
    """The server: one epoll loop, with the replies in a heap until they are due."""

    def __init__(self, kind: str) -> None:
        self._delay_of, self._chance = KINDS[kind], random.Random(20)
        self._freezes = kind == "freeze"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port: int = self._listener.getsockname()[1]
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._peers: dict[int, tuple[socket.socket, bytearray]] = {}
        self._due: list[tuple[int, int, int, bytes, int]] = []  # when, number, fd, line, received_ns
        self.records: dict[str, list[Any]] = {"replies": [], "frozen": []}
        self._received_count = 0

    def run(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            wait_ns = self._due[0][0] - time.monotonic_ns() if self._due else 50 * MS
            for fd, _ in self._poll.poll(max(0, min(wait_ns, 50 * MS) // 10**6) / 1000):
                self._accept() if fd == self._listener.fileno() else self._receive(fd)
            while self._due and self._due[0][0] <= time.monotonic_ns():
                self._reply(*heapq.heappop(self._due)[2:])

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers[peer.fileno()] = (peer, bytearray())
        self._poll.register(peer, select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        peer, received = self._peers[fd]
        data = peer.recv(65536)
        now_ns = time.monotonic_ns()
        if not data:
            del self._peers[fd]
            peer.close()
            return
        received += data
        while (end := received.find(b"\n")) >= 0:
            line = bytes(received[: end + 1])
            del received[: end + 1]
            self._received_count += 1
            heapq.heappush(self._due, (now_ns + self._delay_of(self._chance), self._received_count, fd, line, now_ns))
        if self._freezes and self._received_count >= FREEZE_AFTER_MESSAGES:
            self._freezes = False
            self.records["frozen"] = [time.monotonic_ns()]
            time.sleep(FREEZE_S)
            self.records["frozen"].append(time.monotonic_ns())

    def _reply(self, fd: int, line: bytes, received_ns: int) -> None:
        if fd not in self._peers:
            return
        sent_ns = time.monotonic_ns()
        self._peers[fd][0].sendall(line)
        self.records["replies"].append([line.decode().strip(), received_ns, sent_ns])


@dataclass(frozen=True)
class Records:
    """The records of the server: replies as (line, received_ns, sent_ns), and when it was frozen."""

    replies: list[tuple[str, int, int]]
    frozen: list[int]


class KnownDelays:
    """The server as a child process, for use in `with`. records() stops it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._log = folder / f"{kind}.json"
        command = [sys.executable, "-m", "tests.helpers.known_delays", kind, str(self._log)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> KnownDelays:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def records(self) -> Records:
        """Stop the server and return its records."""
        self._process.terminate()
        assert self._process.wait(60) == 0
        records = json.loads(self._log.read_text())
        return Records([tuple(reply) for reply in records["replies"]], records["frozen"])


def main(kind: str, log: Path) -> None:
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    server = Server(kind)
    print(server.port, flush=True)
    server.run(lambda: bool(over))
    log.write_text(json.dumps(server.records))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
