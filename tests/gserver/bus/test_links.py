"""Links: order, bounds, the end of the other worker, and a worker that has too much to deliver."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from gserver.bus.links import Link
from gserver.bus.wire import frame_of
from tests.helpers.waiting import assert_never, wait_until


class End:
    """One end of a link, and what it has received."""

    def __init__(self, sock: socket.socket, most_bytes: int) -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.has_ended = False
        self.link = Link(sock.detach(), 1, most_bytes, self._received, self._ended)

    def _received(self, link: Link, topic: bytes, body: bytes) -> None:
        self.got.append((topic, body))

    def _ended(self, link: Link) -> None:
        self.has_ended = True

    def send(self, body: bytes) -> bool:
        return self.link.send(frame_of(b"topic", body))

    def close(self) -> None:
        if not self.has_ended:
            self.link.close()


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    one, other = (End(sock, 100_000) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_both_greet_and_messages_arrive_in_order(ends: tuple[End, End]) -> None:
    one, other = ends
    bodies = [bytes([number % 256]) * random.Random(number).choice([0, 1, 100, 5000]) for number in range(200)]
    for body in bodies:
        wait_until(lambda body=body: one.send(body))  # type: ignore[misc]
    wait_until(lambda: len(other.got) == len(bodies))

    assert other.got == [(b"topic", body) for body in bodies]
    assert one.link.is_greeted
    assert other.link.is_greeted


def test_a_message_longer_than_all_buffers_arrives(ends: tuple[End, End]) -> None:
    one, other = ends
    body = random.Random(1).randbytes(5_000_000)
    assert one.send(body)
    assert not one.link.is_sent
    wait_until(lambda: other.got == [(b"topic", body)])

    assert one.link.is_sent


def test_what_waits_for_a_worker_that_does_not_read_is_bounded_and_the_newest_is_dropped(ends: tuple[End, End]) -> None:
    one, other = ends
    other.link.pause()
    taken = [one.send(b"%05d" % number + bytes(995)) for number in range(1000)]
    kept = taken.count(True)
    assert taken == [True] * kept + [False] * (1000 - kept)
    assert 100 < kept < 400  # 100 KB in the queue, and what the kernel takes
    assert one.link.dropped == 1000 - kept
    assert_never(lambda: other.got, 0.05)
    other.link.resume()
    wait_until(lambda: len(other.got) == kept)
    assert one.send(b"after")
    wait_until(lambda: len(other.got) == kept + 1)

    assert [int(body[:5]) for _, body in other.got[:-1]] == list(range(kept))


def test_what_a_worker_has_sent_arrives_though_it_has_ended(ends: tuple[End, End]) -> None:
    one, other = ends
    for number in range(50):
        one.send(b"%d" % number)
    other.send(b"unread")
    one.link.close()
    one.has_ended = True
    wait_until(lambda: other.has_ended)

    assert [int(body) for _, body in other.got] == list(range(50))


def test_sending_to_a_worker_that_has_ended_is_no_failure(ends: tuple[End, End]) -> None:
    one, other = ends
    other.link.pause()
    for _ in range(500):
        one.send(bytes(1000))
    other.link.close()
    other.has_ended = True
    for _ in range(500):
        one.send(bytes(1000))
    wait_until(lambda: one.has_ended)

    assert one.link.descriptor == -1
    assert one.link.is_sent
