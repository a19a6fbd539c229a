"""What an operator sees of a connection, in each of its states."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from gserver.codecs import Lines
from gserver.connection.connection import Connection, State
from gserver.control.selection import NUMBERS, STATES
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, stream
from gserver.worker import connection_rows
from gserver.worker.connection_rows import MAX_FRAMES, details_of, facts_of, row_of
from tests.helpers.serving import Peer, Serving
from tests.helpers.waiting import wait_until

LISTENER = "127.0.0.1:7000"


def deep(depth: int) -> None:
    if depth:
        deep(depth - 1)
    else:
        gevent.sleep(3600)


def handle(line: bytes, conn: Connection) -> bytes:
    if line.startswith(b"deep"):
        deep(int(line[4:]))
    if line == b"much":
        return b"x" * (4 << 20)
    return line


@pytest.fixture
def serving() -> Iterator[Serving]:
    with Serving() as made:
        yield made


def meet(serving: Serving, handler: Any = None, **options: Any) -> tuple[TcpServer, Peer, Connection]:
    server = serving.start(Service(handle, Lines) if handler is None else handler, **options)
    peer = serving.meet(server, narrow=True)
    wait_until(lambda: server.connections)
    (conn,) = server.connections
    return server, peer, conn


def facts(conn: Connection) -> dict[str, Any]:
    return facts_of(conn, LISTENER, time.monotonic())


def sleep_long() -> None:
    gevent.sleep(1000)


def test_the_facts_of_an_idle_connection(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    assert peer.ask(b"hello") == b"hello"
    found = facts(conn)

    host, port = peer.sock.getsockname()
    assert found.pop("age_s") >= found.pop("idle_s") >= 0
    assert found == {
        "id": conn.id,
        "worker": os.getpid(),
        "peer": f"{host}:{port}",
        "address": host,
        "listener": LISTENER,
        "tls": None,
        "state": "idle",
        "messages": 1,
        "received_bytes": 6,
        "sent_bytes": 6,
        "bytes": 12,
        "outbox_bytes": 0,
        "handling_s": None,
        "tasks": 0,
    }


def test_every_number_of_conditions_is_a_fact(serving: Serving) -> None:
    _, _, conn = meet(serving)

    assert set(NUMBERS.values()) <= set(facts(conn))


def test_a_message_that_has_begun_is_being_received(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.send(b"half a li")
    wait_until(lambda: facts(conn)["state"] == "receiving")


def test_a_task_has_its_place_and_is_counted(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    conn.spawn(gevent.sleep, 1000)
    task = conn.spawn(sleep_long)
    assert peer.ask(b"hello") == b"hello"
    facts_with_tasks, row = facts(conn), row_of(conn, LISTENER, time.monotonic())
    gevent.killall(list(conn.tasks.running if conn.tasks else ()))

    assert (facts_with_tasks["state"], facts_with_tasks["tasks"]) == ("handling", 2)
    assert row["handler"] is None or row["handler"].startswith("sleep_long (test_connection_rows.py:")
    wait_until(lambda: facts(conn)["state"] == "idle")
    assert task.ready()


def test_a_concurrent_handler_is_shown_although_the_turn_waits_for_a_place(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> None:
        sleep_long()

    server = serving.start(Service(handle, codec=Lines, concurrency=2))
    serving.connect(server).send(b"a\nb\nc\n")
    wait_until(lambda: bool(server.connections) and server.connections[0].runner is not None)
    row = row_of(server.connections[0], LISTENER, time.monotonic())
    server.close_connection(server.connections[0], at_once=True)

    assert (row["state"], row["tasks"]) == ("handling", 2)
    assert row["handler"].startswith("sleep_long (test_connection_rows.py:")


def test_a_blocked_handler_has_its_place_and_its_time(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.send(b"deep2\n")
    wait_until(lambda: conn.runner is not None)
    row = row_of(conn, LISTENER, time.monotonic())
    details = details_of(conn, LISTENER, time.monotonic())

    assert row["state"] == "handling"
    assert row["handling_s"] >= 0
    names = [line.partition(" (test_connection_rows.py:")[0] for line in details["stack"]]
    assert names == ["deep", "deep", "deep", "handle"]
    assert row["handler"] == details["stack"][0]


def test_a_deep_stack_is_cut(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.send(b"deep200\n")
    wait_until(lambda: conn.runner is not None)
    details = details_of(conn, LISTENER, time.monotonic())

    assert len(details["stack"]) == MAX_FRAMES
    assert len(json.dumps(details)) < 30_000


def test_what_is_unsent_is_seen(serving: Serving) -> None:
    _, peer, conn = meet(serving, narrow=True)
    peer.send(b"much\n")
    wait_until(lambda: facts(conn)["outbox_bytes"] > 0)

    assert facts(conn)["state"] == "sending"


def test_a_stream_is_streaming(serving: Serving) -> None:
    @stream
    def serve(conn: Any) -> None:
        next(iter(conn), None)

    _, _, conn = meet(serving, serve)

    assert facts(conn)["state"] == "streaming"


def test_a_connection_that_closes_drains(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.send(b"deep1\n")
    wait_until(lambda: conn.runner is not None)
    conn.close()

    assert facts(conn)["state"] == "draining"


def test_all_states_are_those_of_conditions() -> None:
    states = {"handshaking", "draining", "streaming", "sending", "handling", "throttled", "receiving", "idle"}

    assert states == set(STATES)


@pytest.mark.parametrize(
    ("fields", "state"),
    [({"state": State.HANDSHAKING}, "handshaking"), ({"is_paused": True}, "throttled"), ({}, "idle")],
)
def test_states_of_a_connection(fields: dict[str, Any], state: str) -> None:
    conn: Any = SimpleNamespace(
        **{
            "state": State.OPEN,
            "outbox": None,
            "runner": None,
            "tasks": None,
            "is_paused": False,
            "message_since": None,
            **fields,
        }
    )

    assert connection_rows._state_of(conn) == state


def test_a_connection_of_a_unix_socket_has_no_address_and_no_round_trip(serving: Serving, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "a"))
    listener.listen()
    listener.setblocking(False)
    _, _, conn = meet(serving, listener=gevent.socket.socket(fileno=listener.detach()))
    details = details_of(conn, LISTENER, time.monotonic())

    assert (details["address"], details["kernel"]) == (None, None)


def test_the_kernel_knows_the_round_trip(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.ask(b"hello")
    peer.send(b"deep1\nmore\n")
    wait_until(lambda: conn.runner is not None)
    kernel = details_of(conn, LISTENER, time.monotonic())["kernel"]

    assert 0 < kernel["rtt_s"] < 10
    assert kernel["rtt_variation_s"] >= 0
    assert kernel["retransmits"] == 0


def test_a_connection_that_is_gone_has_no_kernel_facts_and_no_proxy(serving: Serving) -> None:
    _, peer, conn = meet(serving)
    peer.reset()
    wait_until(lambda: conn.state is State.CLOSED)
    conn.proxy = object()

    assert connection_rows._kernel_facts(conn) is None
    assert connection_rows._proxy_of(conn) is None
