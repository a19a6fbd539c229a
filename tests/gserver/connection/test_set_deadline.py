"""conn.set_deadline(): what a client must do in time, such as to log in."""

from __future__ import annotations

import math
import time

import gevent
import pytest

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConnectionClosed
from gserver.limits.deadlines import Deadlines
from gserver.service import Service, stream
from tests.helpers.serving import Serving, assert_closed, closed_reasons

LOGIN_S = 0.2
#: With the shortest tick of the wheel.
DEADLINES = Deadlines(handler_s=1.0)
NONE = Deadlines(handshake_s=0, first_byte_s=0, idle_s=0, message_s=0, handler_s=0, write_s=0)


def login() -> Service:
    """A service in which a client must send "login" in time."""

    def on_open(conn: Connection) -> None:
        conn.set_deadline(LOGIN_S)

    def handle(line: bytes, conn: Connection) -> bytes:
        if line == b"login":
            conn.set_deadline(None)
        return line

    return Service(handle, codec=Lines, on_open=on_open)


@pytest.mark.parametrize("deadlines", [DEADLINES, NONE], ids=["beside others", "alone"])
def test_a_client_that_does_not_do_it_in_time_is_closed_whatever_it_does(
    serving: Serving, greenlets: str, deadlines: Deadlines
) -> None:
    server = serving.start(login(), greenlets=greenlets, deadlines=deadlines)
    silent, busy, good = (serving.connect(server) for _ in range(3))
    assert good.ask(b"login") == b"login"
    began = time.monotonic()
    while busy.is_answered(b"a") and time.monotonic() < began + 30:
        gevent.sleep(0.01)

    assert time.monotonic() - began > LOGIN_S / 2
    assert silent.read_to_end() == b""
    assert_closed(server, CloseReason.DEADLINE, 2)
    assert good.ask(b"still here") == b"still here"


def test_a_new_deadline_replaces_the_last_one(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> bytes:
        conn.set_deadline(float(line))
        return line

    server = serving.start(Service(handle, codec=Lines), deadlines=DEADLINES)
    peer = serving.connect(server)
    for seconds in (b"0.1", b"100", b"0.1", b"1000", b"0.05"):
        assert peer.ask(seconds) == seconds

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.DEADLINE)


def test_a_handler_that_runs_at_the_deadline_is_completed(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> bytes:
        conn.set_deadline(0.02)
        gevent.sleep(0.3)
        return line

    server = serving.start(Service(handle, codec=Lines), deadlines=DEADLINES)
    peer = serving.connect(server)
    peer.send(b"a\nb\n")

    assert peer.read_to_end() == b"a\n"
    assert_closed(server, CloseReason.DEADLINE)


def test_a_stream_handler_gets_connection_closed(serving: Serving) -> None:
    reasons: list[CloseReason | None] = []

    @stream(codec=Lines)
    def handle(conn: StreamConnection) -> None:
        conn.set_deadline(0.05)
        try:
            for line in conn:
                conn.send(line)
        except ConnectionClosed as error:
            reasons.append(error.reason)

    server = serving.start(handle, deadlines=DEADLINES)
    peer = serving.connect(server)

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.DEADLINE)
    assert reasons == [CloseReason.DEADLINE]


@pytest.mark.parametrize("seconds", [-1, -0.001, math.inf, math.nan])
def test_an_impossible_deadline_is_refused(serving: Serving, seconds: float) -> None:
    texts: list[str] = []

    def handle(line: bytes, conn: Connection) -> bytes:
        try:
            conn.set_deadline(seconds)
        except ValueError as error:
            texts.append(str(error))
        return line

    server = serving.start(Service(handle, codec=Lines))
    assert serving.connect(server).ask(b"a") == b"a"
    assert texts == [f"the deadline is {seconds!r}, must be seconds from 0, or None"]
    assert closed_reasons(server) == {}
