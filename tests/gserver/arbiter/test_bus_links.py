"""The arbiter links each two workers that use the bus by one socket pair, and keeps no end."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import pytest

from gserver.arbiter.bus_links import AT_A_TIME, BusLinks
from gserver.arbiter.channel import LINK, LINKED, MAX_DESCRIPTORS


class Workers:
    """What the workers have received: by pid, their ends by the pid of the other worker."""

    def __init__(self, deaf: Sequence[int] = ()) -> None:
        self.deaf = deaf
        self.kinds: list[tuple[int, str]] = []
        self.ends: dict[int, dict[int, socket.socket]] = {}

    def send(self, pid: int, kind: str, texts: Sequence[str], descriptors: Sequence[int]) -> bool:
        if pid in self.deaf:
            return False
        assert len(texts) == len(descriptors) <= MAX_DESCRIPTORS
        self.kinds.append((pid, kind))
        for text, descriptor in zip(texts, descriptors, strict=True):
            self.ends.setdefault(pid, {})[int(text)] = socket.socket(fileno=os.dup(descriptor))
        return True

    def are_linked(self, one: int, other: int) -> bool:
        self.ends[one][other].sendall(b"%d" % one)
        self.ends[other][one].sendall(b"%d" % other)
        return (self.ends[one][other].recv(10), self.ends[other][one].recv(10)) == (b"%d" % other, b"%d" % one)

    def close(self) -> None:
        for ends in self.ends.values():
            for end in ends.values():
                end.close()


def test_each_two_workers_are_linked_and_a_worker_is_told_when_it_has_all_links() -> None:
    workers = Workers()
    links = BusLinks(workers.send)
    for pid in (1, 2, 3):
        links.join(pid)

    assert workers.kinds == [
        (1, LINKED),
        (1, LINK),
        (2, LINK),
        (2, LINKED),
        (1, LINK),
        (2, LINK),
        (3, LINK),
        (3, LINKED),
    ]
    assert all(workers.are_linked(one, other) for one, other in ((1, 2), (1, 3), (2, 3)))
    workers.close()


def test_a_worker_that_has_ended_gets_no_links() -> None:
    workers = Workers()
    links = BusLinks(workers.send)
    links.join(1)
    links.worker_ended(1)
    links.worker_ended(99)
    links.join(2)

    assert workers.kinds == [(1, LINKED), (2, LINKED)]


def test_a_worker_that_does_not_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(deaf=[1])
    links = BusLinks(workers.send)
    for pid in (1, 2, 3):
        links.join(pid)

    assert set(workers.ends) == {2, 3}
    assert workers.are_linked(2, 3)
    assert "Cannot link worker 3 with worker 1 for the bus: it does not read" in caplog.text
    workers.close()


def test_many_links_are_sent_in_several_messages() -> None:
    workers = Workers()
    links = BusLinks(workers.send)
    count = 2 * AT_A_TIME + 1
    links._joined = dict.fromkeys(range(1, count + 1))
    links.join(1000)

    assert [kind for pid, kind in workers.kinds if pid == 1000] == [LINK, LINK, LINK, LINKED]
    assert all(workers.are_linked(1000, other) for other in range(1, count + 1))
    workers.close()


def test_without_descriptors_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    workers = Workers()
    links = BusLinks(workers.send)
    links.join(1)
    monkeypatch.setattr(socket, "socketpair", refuse)
    links.join(2)

    assert workers.kinds == [(1, LINKED), (2, LINKED)]
    assert "Cannot link worker 2 for the bus: [Errno 24] Too many open files" in caplog.text
