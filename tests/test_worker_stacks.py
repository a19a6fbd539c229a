"""Stacks of greenlets, with the connections that they serve."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver.framing import Lines
from gserver.service import Service
from gserver.worker import stacks
from gserver.worker.stacks import describe_stacks
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


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

    assert f"Greenlet that waits for {shown}" in text
    assert "go.wait()" in text
    assert text.count("Greenlet that waits for <Connection") == 1
    assert "greenlets without work" in text


def test_of_very_many_the_first_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_GREENLETS", 3)
    go = Event()
    crowd = [gevent.spawn(go.wait) for _ in range(10)]
    gevent.sleep(0)
    text = describe_stacks([], None)
    go.set()
    gevent.joinall(crowd)

    assert text.count("Greenlet that waits") == 3
    assert " more that wait" in text.splitlines()[-1]
