"""send_nowait(): it never blocks, and closes connections with too many unsent bytes."""

from __future__ import annotations

from typing import Any

import pytest

from gserver.connection.connection import Connection
from gserver.errors import CloseReason, ConnectionClosed
from gserver.server.tcp_server import TcpServer
from tests.helpers.services import make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until


class Room:
    """A service whose connections the test can send to."""

    def __init__(self) -> None:
        self.members: list[Connection] = []
        self.reasons: dict[Connection, CloseReason] = {}
        self.service = make_echo_lines(on_open=self.members.append, on_close=self.reasons.__setitem__)

    def enter(self, serving: Serving, server: TcpServer, narrow: bool = False) -> tuple[Peer, Connection]:
        count = len(self.members)
        peer = serving.connect(server, narrow)
        wait_until(lambda: len(self.members) > count)
        return peer, self.members[-1]


def test_send_nowait_closes_a_peer_that_does_not_read(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=100_000, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    while conn.outbox is None or conn.outbox.size <= 100_000:
        conn.send_nowait(b"x" * 10_000)
    with pytest.raises(ConnectionClosed) as caught:
        conn.send_nowait(b"x")

    assert caught.value.reason is conn.close_reason is CloseReason.BUFFER_LIMIT
    wait_until(lambda: room.reasons == {conn: CloseReason.BUFFER_LIMIT})
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}
    assert peer.is_reset()
    with pytest.raises(ConnectionClosed):
        conn.send_nowait(b"more")


def test_send_nowait_to_a_peer_that_reads_never_fails_and_keeps_the_order(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=1_000_000, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    lines = [b"%06d" % number * 100 for number in range(1000)]
    for line in lines:
        conn.send_nowait(line)

    assert [peer.read_line() for _ in lines] == lines
    assert closed_reasons(server) == {}


def test_a_limit_of_zero_still_allows_one_message_to_wait(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=0, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    conn.send_nowait(b"x" * 1_000_000)

    assert len(peer.read_exactly(1_000_001)) == 1_000_001


def test_a_broadcast_never_blocks_and_closes_slow_readers(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=200_000, narrow=True)
    slow, slow_conn = room.enter(serving, server, narrow=True)
    fast = [room.enter(serving, server)[0] for _ in range(10)]
    given_up: list[Connection] = []
    for number in range(400):
        for conn in [each for each in room.members if each not in given_up]:
            try:
                conn.send_nowait(b"%d " % number + b"x" * 1000)
            except ConnectionClosed:
                given_up.append(conn)
        for peer in fast:
            assert peer.read_line().startswith(b"%d " % number)

    assert given_up == [slow_conn]
    assert slow.is_reset()
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}


def test_a_handler_whose_connection_a_broadcast_closed_gets_connection_closed(serving: Serving, greenlets: str) -> None:
    """The handler blocks in send() when the broadcast of another one finds that the peer reads nothing."""
    outcomes: list[Any] = []

    def on_message(line: bytes, conn: Connection) -> None:
        try:
            conn.send(b"y" * 3_000_000)
        except ConnectionClosed as error:
            outcomes.append(error.reason)
            raise

    members: list[Connection] = []
    service = make_lines(on_message, on_open=members.append)
    server = serving.start(service, greenlets=greenlets, send_limit=1000, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"go\n")
    wait_until(lambda: bool(members) and members[0].outbox is not None)
    with pytest.raises(ConnectionClosed):
        members[0].send_nowait(b"news")
    wait_until(lambda: bool(outcomes))

    assert outcomes == [CloseReason.BUFFER_LIMIT]
    wait_until(lambda: server.counters.open == 0)
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}
