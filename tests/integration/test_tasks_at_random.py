"""Handlers, tasks, deadlines, resets, closes and drains at random: in the end no connection, greenlet or count is left.

The seed of a round is in the failure. A round takes less than a second.
"""

from __future__ import annotations

import contextlib
import logging
import random
import struct
from typing import Literal, cast

import gevent
import pytest
from gevent import socket

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.errors import CloseReason
from gserver.limits.deadlines import Deadlines
from gserver.server.tcp_server import TcpServer
from gserver.service import Service
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.long

ROUNDS = 12
CLIENTS = 30


class Chance:
    """A service and clients that do something else each time."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.closed: list[CloseReason] = []

    def happens(self, probability: float) -> bool:
        return self.dice.random() < probability

    def service(self) -> Service:
        return Service(
            self.handle,
            codec=Lines,
            on_close=lambda conn, reason: self.closed.append(reason),
            on_drain=(lambda conn: conn.send(b"bye")) if self.happens(0.5) else None,
            on_error=(lambda fault, conn: b"error") if self.happens(0.6) else None,
            concurrency=self.dice.choice([1, 1, 2, 8]),
            ordered=self.happens(0.5),
        )

    def handle(self, line: bytes, conn: Connection) -> bytes | None:
        if self.happens(0.3):
            for _ in range(self.dice.randrange(3)):
                conn.spawn(self.task, line, conn)
            return None
        if self.happens(0.1):
            gevent.sleep(self.dice.random() * 0.02)
        if self.happens(0.03):
            conn.set_deadline(self.dice.random() * 0.1)
        if self.happens(0.02):
            raise KeyError("of the handler")
        if self.happens(0.01):
            conn.close()
        return line

    def task(self, line: bytes, conn: Connection) -> None:
        gevent.sleep(self.dice.random() * 0.03)
        if self.happens(0.05):
            raise ValueError("of the task")
        if self.happens(0.03):
            conn.close()
        if self.happens(0.02):
            gevent.sleep(1)
        if self.happens(0.05):
            conn.spawn(self.task, line, conn)
        conn.send(line)

    def client(self, address: tuple[str, int]) -> None:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=10) as sock:
            for _ in range(self.dice.randrange(1, 6)):
                sock.sendall(b"hello\n" * self.dice.randrange(1, 40))
                gevent.sleep(self.dice.random() * 0.02)
                if self.happens(0.2):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self.happens(0.5):
                    sock.recv(100_000)
            if self.happens(0.5):
                sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


@pytest.mark.parametrize("greenlets", ["pooled", "dedicated"])
def test_nothing_is_left(greenlets: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for _ in range(ROUNDS):
        seed = random.randrange(1 << 30)
        play(Chance(seed), cast("Literal['pooled', 'dedicated']", greenlets), f"seed {seed}")


def play(chance: Chance, greenlets: Literal["pooled", "dedicated"], seed: str) -> None:
    deadlines = Deadlines(handler_s=chance.dice.choice([0.2, 5.0]))
    server = TcpServer(("127.0.0.1", 0), chance.service(), greenlets=greenlets, deadlines=deadlines)
    server.start()
    clients = [gevent.spawn(chance.client, server.address) for _ in range(CLIENTS)]
    gevent.sleep(chance.dice.random() * 0.15)
    for conn in server.connections:
        if chance.happens(0.2):
            server.close_connection(conn, at_once=chance.happens(0.5))
    if chance.happens(0.5):
        gevent.joinall(clients, timeout=1)
    server.drain(chance.dice.choice([0.05, 2.0]))
    gevent.joinall(clients, timeout=30)

    wait_until(lambda: not server.connections)
    server.counters.check()
    assert server.counters.open == 0, seed
    assert server.counters.accepted == server.counters.closed.total(), seed
    assert len(chance.closed) <= server.counters.accepted, seed
