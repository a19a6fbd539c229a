"""Stacks of greenlets, with the connections that they serve."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver.codecs import Lines
from gserver.service import Service, stream
from gserver.worker import stack_dump as stacks
from gserver.worker.stack_dump import PIECE_BYTES, describe_stacks, stack_pieces
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """describe_stacks() calls gc.unfreeze(), which makes every later search for leaks slow."""
    yield
    gc.freeze()


@pytest.mark.parametrize("greenlets", ["pooled", "dedicated"])
def test_a_handler_that_waits_is_shown_with_its_connection(greenlets: str) -> None:
    go = Event()
    waiting: list[Any] = []

    def answer(line: bytes, conn: Any) -> bytes:
        if line == b"wait":
            waiting.append(conn)
            go.wait()
        return line

    with Serving() as serving:
        server = serving.start(Service(answer, Lines), greenlets=greenlets)
        idle, busy = serving.meet(server), serving.meet(server)
        idle.ask(b"1")
        busy.send(b"wait\n")
        wait_until(lambda: bool(waiting))
        text, shown = describe_stacks(server.connections, None), repr(waiting[0])
        go.set()
        busy.read_line()

    assert f"Waiting greenlet for {shown}" in text
    assert "go.wait()" in text
    assert text.count("Waiting greenlet for <Connection") == 1
    assert "idle greenlets" in text


def test_of_very_many_the_first_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_GREENLETS", 3)
    go = Event()
    crowd = [gevent.spawn(go.wait) for _ in range(10)]
    gevent.sleep(0)
    text = describe_stacks([], None)
    go.set()
    gevent.joinall(crowd)

    assert text.count("Waiting greenlet") == 3
    assert " more waiting greenlets" in text.splitlines()[-1]


def make_sleeper() -> tuple[Service, list[Any], Event]:
    """A service with a handler that waits for the event, and the connections in that handler."""
    go = Event()
    waiting: list[Any] = []

    def deep_inside_the_handler(line: bytes, conn: Any) -> bytes:
        waiting.append(conn)
        while not go.is_set():
            gevent.sleep(0.005)
        return line

    return Service(deep_inside_the_handler, Lines), waiting, go


def test_the_stack_ends_where_the_handler_waits(serving: Serving, greenlets: str) -> None:
    service, waiting, go = make_sleeper()
    server = serving.start(service, greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\n")
    wait_until(lambda: waiting)

    text = describe_stacks(server.connections, None)
    go.set()
    peer.read_line()

    (block,) = [block for block in text.split("ing greenlet") if "deep_inside_the_handler" in block]
    assert block.startswith(f" for {waiting[0]!r}, 0 messages handled:")
    assert "gevent.sleep(0.005)" in block


def test_connections_that_do_nothing_are_not_there(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines), greenlets=greenlets)
    for _ in range(3):
        serving.meet(server).ask(b"1")

    text = describe_stacks(server.connections, None)

    assert "<Connection" not in text
    assert "_run" not in text


def test_runners_that_are_parked_are_only_counted(serving: Serving) -> None:
    def without_work() -> int:
        found = re.search(r"^(\d+) idle greenlets", describe_stacks([], None), re.MULTILINE)
        assert found
        return int(found[1])

    before = without_work()
    server = serving.start(Service(lambda line, conn: line, Lines), greenlets="dedicated")
    for _ in range(3):
        serving.meet(server).ask(b"1")

    assert without_work() == before + 3


def test_a_handler_that_runs_is_the_first_with_its_connection(serving: Serving, greenlets: str) -> None:
    texts: list[str] = []

    def spinning(line: bytes, conn: Any) -> bytes:
        texts.append(describe_stacks(server.connections, sys._getframe()))
        return repr(conn).encode()

    server = serving.start(Service(spinning, Lines), greenlets=greenlets)
    shown = serving.connect(server).ask(b"1").decode()

    first = texts[0].split("Waiting greenlet")[0]
    assert first.startswith(f"Running greenlet for {shown}, 0 messages handled:")
    assert "in spinning" in first
    assert texts[0].count("in spinning") == 1


def test_a_stream_that_waits_is_shown_with_its_connection(serving: Serving) -> None:
    @stream(codec=Lines)
    def reading_in_a_stream(conn: Any) -> None:
        for line in conn:
            conn.send(line)

    server = serving.start(reading_in_a_stream)
    serving.connect(server).ask(b"1")

    (conn,) = server.connections
    text = describe_stacks(server.connections, None)

    assert f"Waiting greenlet for {conn!r}, 1 messages handled:" in text
    assert "in reading_in_a_stream" in text


def test_on_open_that_waits_is_shown_with_its_connection(serving: Serving) -> None:
    go = Event()
    server = serving.start(Service(lambda line, conn: line, Lines, on_open=lambda conn: go.wait()))
    peer = serving.meet(server)
    wait_until(lambda: any(conn.runner for conn in server.connections))
    gevent.sleep(0)

    (conn,) = server.connections
    text = describe_stacks(server.connections, None)
    go.set()
    peer.ask(b"1")

    assert f"Waiting greenlet for {conn!r}, 0 messages handled:" in text


def test_greenlets_that_serve_no_connection_are_shown_without_a_connection() -> None:
    go = Event()

    def all_alone() -> None:
        go.wait()

    lonely = gevent.spawn(all_alone)
    gevent.sleep(0)
    text = describe_stacks([], None)
    go.set()
    lonely.join()

    (block,) = [block for block in text.split("ing greenlet") if "in all_alone" in block]
    assert block.startswith(":\n")


def test_greenlets_that_never_began_or_have_ended_are_not_shown() -> None:
    ended = gevent.spawn(len, "")
    ended.join()
    before = describe_stacks([], None).count("Waiting greenlet")
    pending = gevent.Greenlet(len, "")

    assert describe_stacks([], None).count("Waiting greenlet") == before
    assert not pending
    assert not ended


def test_as_many_as_allowed_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    go = Event()
    crowd = [gevent.spawn(go.wait) for _ in range(5)]
    gevent.sleep(0)
    all_of_them = describe_stacks([], None).count("Waiting greenlet")
    cut = []
    for most in (all_of_them, all_of_them - 1, 0):
        monkeypatch.setattr(stacks, "MAX_GREENLETS", most)
        cut.append(describe_stacks([], None))
    go.set()
    gevent.joinall(crowd)

    assert [text.count("Waiting greenlet") for text in cut] == [all_of_them, all_of_them - 1, 0]
    for text, more in zip(cut, (0, 1, all_of_them), strict=True):
        assert text.endswith(f", {more} more waiting greenlets")


# gc does not list frozen objects; a worker freezes before it serves (worker.py).
FROZEN = """
import gc, gevent
from gserver.worker.stack_dump import describe_stacks
def in_the_background():
    gevent.sleep(60)
one = gevent.spawn(in_the_background)
gevent.sleep(0)
gc.collect()
gc.freeze()
print(describe_stacks([], None))
"""


def test_a_greenlet_that_the_application_started_before_it_was_frozen_is_shown() -> None:
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=60, check=True)

    assert "in in_the_background" in done.stdout


# In pieces


def test_pieces_have_the_stacks_of_the_handlers_that_wait(serving: Serving, greenlets: str) -> None:
    service, waiting, go = make_sleeper()
    server = serving.start(service, greenlets=greenlets)
    idle, busy = serving.connect(server), serving.connect(server)
    busy.send(b"1\n")
    wait_until(lambda: waiting)
    idle_connections = len(server.connections)

    text = "".join(stack_pieces(server.connections))
    go.set()
    busy.read_line()
    idle.ask(b"1")

    assert text.count("Waiting greenlet") == 1
    assert f"Waiting greenlet for {waiting[0]!r}, 0 messages handled:\n" in text
    assert ", in deep_inside_the_handler\n    gevent.sleep(0.005)\n" in text
    assert text.endswith(f"1 handlers wait, of {idle_connections} connections\n")


def test_pieces_do_not_touch_the_garbage_collector(serving: Serving) -> None:
    server = serving.start(Service(lambda line, conn: line, Lines))
    serving.connect(server).ask(b"1")
    gc.freeze()
    frozen = gc.get_freeze_count()

    assert list(stack_pieces(server.connections)) == ["", "0 handlers wait, of 1 connections\n"]
    assert gc.get_freeze_count() >= frozen - 100  # freed objects; unfreeze() would make it 0


def make_deep(depth: int) -> tuple[Any, list[Any]]:
    """A greenlet that waits that deep, below functions with a long name; and its connection, as far as it is read."""
    name = "a_function_with_an_\u00e9l\u00e9gant_name_" * 20
    space: dict[str, Any] = {"wait": gevent.sleep}
    exec(f"def {name}(depth):\n    {name}(depth - 1) if depth else wait(60)", space)
    one = gevent.spawn(space[name], depth)
    gevent.sleep(0)
    return one, [SimpleNamespace(tasks=None, runner=one, messages=0)]


def test_no_piece_is_larger_than_allowed() -> None:
    one, connections = make_deep(200)
    pieces = list(stack_pieces(connections * 100))
    one.kill()

    sizes = [len(piece.encode()) for piece in pieces]
    assert PIECE_BYTES / 2 < max(sizes) <= PIECE_BYTES
    assert sum(piece.count("Waiting greenlet") for piece in pieces) == 100
    assert pieces[0].count("  ...\n") == pieces[0].count("Waiting greenlet") > 1
    assert pieces[-1] == "100 handlers wait, of 100 connections\n"


def test_a_piece_ends_after_some_stacks_and_some_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "PIECE_STACKS", 2)
    monkeypatch.setattr(stacks, "PIECE_CONNECTIONS", 5)
    one, connections = make_deep(0)
    idle = [SimpleNamespace(tasks=None, runner=None)] * 5
    ended = [SimpleNamespace(tasks=None, runner=gevent.Greenlet(len, ""), messages=0)]
    pieces: list[str] = list(stack_pieces([*idle, *connections * 5, *ended, *idle]))  # type: ignore[list-item]
    one.kill()

    assert [piece.count("Waiting greenlet") for piece in pieces] == [0, 2, 2, 1, 0, 0, 0]
    assert pieces[-1] == "5 handlers wait, of 16 connections\n"


def test_a_connection_that_closes_between_two_pieces_disturbs_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "PIECE_CONNECTIONS", 1)
    service, waiting, go = make_sleeper()
    server = serving.start(service)
    peers = [serving.connect(server) for _ in range(3)]
    for peer in peers:
        peer.send(b"1\n")
    wait_until(lambda: len(waiting) == 3)
    pieces = stack_pieces(server.connections)
    first = next(pieces)
    go.set()
    for peer in peers:
        peer.read_line()
        peer.sock.close()
    wait_until(lambda: not server.connections)

    assert first.count("Waiting greenlet") == 1
    assert list(pieces) == ["", "", "1 handlers wait, of 3 connections\n"]
