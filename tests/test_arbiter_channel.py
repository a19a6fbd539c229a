"""What arbiter and worker say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gserver.arbiter.channel import DRAIN, LISTEN, READY, Channel, Message

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()


def test_messages_stay_apart_and_in_order(pair: Pair) -> None:
    one, other = pair
    assert one.send(READY)
    assert one.send(DRAIN, ["127.0.0.1:1", "unix:/a b"])

    assert other.receive() == Message(READY)
    assert other.receive() == Message(DRAIN, ("127.0.0.1:1", "unix:/a b"))


def test_descriptors_arrive_as_the_receivers_own(pair: Pair) -> None:
    one, other = pair
    reader, writer = os.pipe()
    one.send(LISTEN, ["pipe"], [writer])
    os.close(writer)

    message = other.receive()

    assert message is not None
    (received,) = message.descriptors
    os.write(received, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(received)
    os.close(reader)


def test_receiving_nothing_never_blocks(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        pair[1].receive()


def test_a_closed_end_is_noticed_after_what_it_said(pair: Pair) -> None:
    one, other = pair
    one.send(READY)
    one.close()

    assert other.receive() == Message(READY)
    assert other.receive() is None
    assert not other.send(READY)


def test_an_end_that_closed_with_unread_words_is_gone_too(pair: Pair) -> None:
    one, other = pair
    one.send(READY)
    other.close()

    assert one.receive() is None


def test_saying_too_much_to_somebody_who_does_not_listen_never_blocks(pair: Pair) -> None:
    one, other = pair
    said = 0
    while one.send(READY) and said < 100_000:
        said += 1

    assert 100 < said < 100_000
    for _ in range(said):
        assert other.receive() == Message(READY)
