"""Fairness: a connection that floods leaves the others their turns."""

from __future__ import annotations

import time

import gevent
import pytest

from gserver import Service
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from tests.helpers.serving import Serving


def burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize("cost_s", [0.0, 0.0005, 0.005])
def test_others_are_served_while_one_turn_is_far_from_its_end(serving: Serving, greenlets: str, cost_s: float) -> None:
    """Told by the order in which messages are handled, and not by the clock."""
    order: list[bytes] = []

    def on_message(line: bytes, conn: Connection) -> bytes:
        order.append(line)
        burn(cost_s)
        return line

    flood = 30_000 if not cost_s else 300
    server = serving.start(Service(on_message, Lines), greenlets=greenlets)
    flooder, other = serving.meet(server), serving.meet(server)
    flooder.send(b"f\n" * flood)
    other.send(b"o\n")
    assert other.read_line() == b"o"
    handled_before = order.index(b"o")

    assert handled_before < flood / 2
    answered = 0
    while answered < flood * 2:
        answered += len(flooder.read())
    assert order.count(b"f") == flood


def test_a_turn_of_few_messages_never_gives_way(serving: Serving, greenlets: str) -> None:
    """Sixteen in flight are an ordinary client's, and a switch for each batch would cost it."""
    switches: list[int] = []

    def on_message(line: bytes, conn: Connection) -> bytes:
        if conn.runner is not None:
            switches.append(1)
        return line

    server = serving.start(Service(on_message, Lines), greenlets=greenlets)
    peer = serving.meet(server)
    for _ in range(20):
        peer.send(b"x\n" * 16)
        assert peer.read_exactly(32) == b"x\n" * 16
        gevent.sleep(0)

    assert switches == []
