"""Clients that verify every reply while the servers behind a load balancer come and go.

What a client may rely on, and what is a loss:

- Each request is answered once, with its own reply, in the order of the requests.
- The first request of a connection is always answered: a client that has just connected cannot know of a drain.
- Later, a server that drains may close the connection in an orderly way (end-of-file, not a reset). A client that looks
  at its connection before it sends sees this between two exchanges. A request that crosses the end on its way gets no
  reply at all, and was not executed. The client sends it again on a new connection.

A refused or reset connection, an end before the first reply, part of a reply, a wrong reply and no reply in time are
losses. Whether requests without a reply were not executed is checked with the list that the servers write.
"""

from __future__ import annotations

import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["Ended", "Habits", "Loss", "VerifyingClients"]

PATIENCE_S = 60.0
#: Every so many bursts one request asks for a slow reply, which a drain has to wait for.
SLOW_EVERY = 20


@dataclass(frozen=True)
class Habits:
    """How a client behaves.

    Attributes:
        life: how many bursts of requests it sends on a connection; None: it stays until the server closes it.
        longest_pause_s: the longest pause between two bursts. The shortest is 0.
        looks: whether it looks at its connection before it sends; if not, it sends into a connection that has ended.
    """

    life: int | None = None
    longest_pause_s: float = 0.02
    looks: bool = True


class Loss(Exception):
    """An exchange was lost; the text says how."""


class Ended(Exception):
    """The server has closed the connection in an orderly way."""


class VerifyingClients:
    """Clients of a service that answers a line with `payload from version`, in threads. Leaving the `with` ends them.

    Args:
        address: of the load balancer.
        habits: one client for each.
        farewell: the line that the server may send before it closes a connection; None: none is expected.

    Attributes:
        exchanges: replies that were verified.
        ends: the connections that were closed by the servers, with or without the farewell, or lost.
        crossed: the number of requests that crossed the end of their connection, and were sent again.
        answered_by: the number of replies by what came after the payload.
        payloads: all payloads that were answered.
        losses: what was lost, one text each.
    """

    def __init__(self, address: tuple[str, int], habits: Sequence[Habits], farewell: bytes | None = None) -> None:
        self._address = address
        self._farewell = farewell
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(habits)]
        self.ends: Counter[str] = Counter()
        self.crossed = 0
        self.answered_by: Counter[str] = Counter()
        self.payloads: set[bytes] = set()
        self.losses: list[str] = []

    @property
    def exchanges(self) -> int:
        return len(self.payloads)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, habits: Habits) -> None:
        client = _Client(number, self._farewell)
        while not self._is_over.is_set():
            try:
                self._use_connection(client, habits)
            except Loss as loss:
                self._lost(client, str(loss))
            except OSError as error:
                self._lost(client, f"{type(error).__name__}: {error}")

    def _use_connection(self, client: _Client, habits: Habits) -> None:
        bursts = 0
        with socket.create_connection(self._address, PATIENCE_S) as sock, sock.makefile("rb") as replies:
            client.replies_here = 0
            client.has_farewell = False
            while client.unanswered or not (self._is_over.is_set() or bursts == habits.life):
                try:
                    if habits.looks and select.select([sock], [], [], 0)[0]:
                        client.read_end(replies)
                    if not client.unanswered:
                        bursts += 1
                        client.make_burst()
                    client.send(sock)
                    while client.unanswered:
                        self._answered(*client.read_reply(replies))
                except Ended:
                    self._ended(client)
                    return
                self._is_over.wait(random.uniform(0, habits.longest_pause_s))

    def _answered(self, payload: bytes, by: str) -> None:
        with self._lock:
            if payload in self.payloads:
                self.losses.append(f"answered twice: {payload!r}")
            self.payloads.add(payload)
            self.answered_by[by] += 1

    def _ended(self, client: _Client) -> None:
        with self._lock:
            self.ends["farewell" if client.has_farewell else "no farewell"] += 1
            self.crossed += len(client.unanswered)

    def _lost(self, client: _Client, text: str) -> None:
        with self._lock:
            self.losses.append(f"{text}; replies before on this connection: {client.replies_here}")
        client.unanswered.clear()


class _Client:
    """The requests of one client, over all its connections."""

    def __init__(self, number: int, farewell: bytes | None) -> None:
        self._number = number
        self._farewell = farewell
        self._made = 0
        self.unanswered: list[bytes] = []
        self.replies_here = 0
        self.has_farewell = False

    def make_burst(self) -> None:
        size = random.choice((1, 1, 1, 5))
        for _ in range(size):
            self._made += 1
            kind = b"slow" if self._made % SLOW_EVERY == 0 else b"fast"
            self.unanswered.append(b"%d-%d-%s" % (self._number, self._made, kind))

    def send(self, sock: socket.socket) -> None:
        """Send all requests that are not answered."""
        try:
            sock.sendall(b"".join(payload + b"\n" for payload in self.unanswered))
        except (BrokenPipeError, ConnectionResetError):
            # The connection has ended before; how, the client reads next. After an orderly end that is end-of-file.
            pass

    def read_end(self, replies: BinaryIO) -> None:
        """Between two exchanges: read the end of the connection, which is all that may come. Raises Ended, or Loss."""
        line = self._read_line(replies)
        raise Loss(f"{line!r} without a request")

    def read_reply(self, replies: BinaryIO) -> tuple[bytes, str]:
        """Read the reply to the first request; return its payload, and what came after it.

        Ended at end-of-file, also if a farewell came before it; Loss for anything else that is not the reply.
        """
        line = self._read_line(replies)
        payload, _, by = line.removesuffix(b"\n").partition(b" ")
        if not line.endswith(b"\n") or payload != self.unanswered[0]:
            raise Loss(f"sent {self.unanswered[0]!r}, got {line!r}")
        self.replies_here += 1
        return self.unanswered.pop(0), by.decode()

    def _read_line(self, replies: BinaryIO) -> bytes:
        line = replies.readline()
        if self._farewell is not None and line == self._farewell:
            self.has_farewell = True
            line = replies.readline()
            if line:
                raise Loss(f"{line!r} after the farewell")
        if not line:
            if not self.replies_here:
                raise Loss(f"the connection ended before its first reply, to {self.unanswered[:1]!r}")
            raise Ended
        return line
