"""WorkerServer: taking turns with other workers, hooks, and the access log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gserver.arbiter.scoreboard import Place, Scoreboard
from gserver.framing import Lines
from gserver.ledger import OPEN, Ledger
from gserver.service import Service
from gserver.settings import Settings
from gserver.worker.gate import LONGEST_PAUSE_S
from gserver.worker.serving import WorkerServer
from tests.helpers.serving import Peer
from tests.helpers.waiting import wait_until

SERVICE = Service(lambda line, conn: line, Lines)


@contextlib.contextmanager
def serving(scoreboard: Scoreboard | None = None, place: Place | None = None, **values: Any) -> Iterator[WorkerServer]:
    ledger = Ledger(place.cells if place is not None else None)
    settings = Settings.checked(values)
    server = WorkerServer(("127.0.0.1", 0), SERVICE, settings, ledger, scoreboard, "the worker")
    server.start()
    try:
        yield server
    finally:
        server.drain(1.0)
        ledger.check()


def make_two_workers() -> tuple[Scoreboard, Place, Place]:
    """A scoreboard with two workers that serve."""
    scoreboard = Scoreboard(2)
    places = []
    for pid in (1, 2):
        place = scoreboard.free_place()
        place.take(pid)
        place.belongs_to(pid)
        place.is_serving = True
        places.append(place)
    return scoreboard, places[0], places[1]


def test_hooks_are_told_of_every_connection() -> None:
    told: list[Any] = []
    hooks = {
        "connection_open": lambda worker, conn: told.append((worker, conn.messages)),
        "connection_close": lambda worker, conn, reason: told.append((worker, conn.messages, reason.value)),
    }
    with serving(**hooks) as server:
        peer = Peer(server.address)
        peer.ask(b"1")
        peer.close()
        wait_until(lambda: len(told) == 2)

    assert told == [("the worker", 0), ("the worker", 1, "peer_eof")]


def test_hooks_that_raise_disturb_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*arguments: Any) -> None:
        raise ValueError("no")

    def open_fails(worker: Any, conn: Any) -> None:
        fails()

    def close_fails(worker: Any, conn: Any, reason: Any) -> None:
        fails()

    with serving(connection_open=open_fails, connection_close=close_fails) as server:
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"
        peer.close()
        wait_until(lambda: server.ledger.open == 0)

    assert "hook connection_open failed" in caplog.text
    assert "hook connection_close failed" in caplog.text


def test_the_access_log_has_a_line_for_each_connection() -> None:
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("gserver.access"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        with serving(accesslog="-", access_log_format="%(r)s %(M)s %(I)s %(O)s") as server:
            peer = Peer(server.address)
            peer.ask(b"12")
            peer.close()
            wait_until(lambda: bool(lines))
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)

    assert lines == ["peer_eof 1 3 3"]


def test_a_full_worker_accepts_again_when_somebody_leaves() -> None:
    with serving(worker_connections=1) as server:
        first, second = Peer(server.address), Peer(server.address)
        assert first.ask(b"1") == b"1"
        second.send(b"2\n")
        gevent.sleep(LONGEST_PAUSE_S * 3)
        assert server.ledger.accepted == 1
        first.close()

        assert second.read_line() == b"2"
        second.close()


def test_a_worker_that_holds_the_fewest_accepts_at_once() -> None:
    scoreboard, own, other = make_two_workers()
    other.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"
        peer.close()


def test_one_that_is_ahead_leaves_a_connection_to_the_others_but_not_for_ever() -> None:
    scoreboard, own, _ = make_two_workers()
    own.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        began = time.monotonic()
        peer = Peer(server.address)
        assert peer.ask(b"1") == b"1"

        assert time.monotonic() - began >= LONGEST_PAUSE_S * 0.9
        peer.close()
        wait_until(lambda: own.cells[OPEN] == 100)
        own.cells[OPEN] = 0


def test_one_that_does_not_serve_holds_nobody_back() -> None:
    scoreboard, own, other = make_two_workers()
    other.is_serving = False
    own.cells[OPEN] = 100
    with serving(scoreboard, own) as server:
        assert server._pause() == 0.0
        own.cells[OPEN] = 0
