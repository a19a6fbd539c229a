"""Fairness: a connection that floods does not delay the others."""

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
def test_other_connections_are_served_in_the_middle_of_a_long_turn(
    serving: Serving, greenlets: str, cost_s: float
) -> None:
    """Checked by the order in which messages are handled, not by the clock."""
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


def test_a_turn_of_few_messages_never_yields(serving: Serving, greenlets: str) -> None:
    """Sixteen messages in flight are ordinary; a greenlet switch for each batch would make them slower."""
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
