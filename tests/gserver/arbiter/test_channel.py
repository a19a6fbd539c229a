"""The messages between the arbiter and a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gserver.arbiter.channel import DRAIN, LISTEN, MAX_DESCRIPTORS, READY, SET, Channel, Message

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


def test_messages_of_an_end_that_closed_with_unread_ones_are_received(pair: Pair) -> None:
    one, other = pair
    one.send(DRAIN)
    assert other.send(READY)
    assert other.send(READY)
    other.close()

    assert one.receive() == Message(READY)
    assert one.receive() == Message(READY)
    assert one.receive() is None
    assert one.receive() is None


def test_a_closed_end_is_noticed_after_its_messages(pair: Pair) -> None:
    one, other = pair
    one.send(READY)
    one.close()

    assert other.receive() == Message(READY)
    assert other.receive() is None
    assert not other.send(READY)


def test_an_end_that_closed_with_unread_messages_has_ended_too(pair: Pair) -> None:
    one, other = pair
    one.send(READY)
    other.close()

    assert one.receive() is None


def test_sending_too_much_to_an_end_that_does_not_read_never_blocks(pair: Pair) -> None:
    one, other = pair
    said = 0
    while one.send(READY) and said < 100_000:
        said += 1

    assert 100 < said < 100_000
    for _ in range(said):
        assert other.receive() == Message(READY)


@pytest.mark.parametrize("address", ["unix:/tmp/\udcff", "unix:/a\nb", "unix:/\N{GREEK SMALL LETTER BETA}", ""])
def test_every_address_arrives_as_it_was_sent(pair: Pair, address: str) -> None:
    one, other = pair
    assert one.send(LISTEN, [address, "127.0.0.1:1"])

    assert other.receive() == Message(LISTEN, (address, "127.0.0.1:1"))


@pytest.mark.parametrize("size", [100, 60_000, 70_000, 200_000, 1_000_000])
def test_a_message_arrives_whole_or_not_at_all(pair: Pair, size: int) -> None:
    one, other = pair
    if one.send(LISTEN, ["x" * size]):
        assert other.receive() == Message(LISTEN, ("x" * size,))
    else:
        assert size > 60_000
        with pytest.raises(BlockingIOError):
            other.receive()


def test_as_many_descriptors_as_a_message_may_carry_arrive_in_order(pair: Pair) -> None:
    one, other = pair
    with socket.socket() as first, open(os.devnull) as rest:
        assert one.send(LISTEN, (), [first.fileno(), *[rest.fileno()] * (MAX_DESCRIPTORS - 1)])
        message = other.receive()

        assert message is not None
        assert len(message.descriptors) == MAX_DESCRIPTORS
        same = os.path.samestat(os.fstat(message.descriptors[0]), os.fstat(first.fileno()))
    for received in message.descriptors:
        os.close(received)
    assert same


def test_a_descriptor_that_was_received_is_not_left_to_other_programs(pair: Pair) -> None:
    one, other = pair
    with socket.socket() as sent:
        one.send(LISTEN, (), [sent.fileno()])
    message = other.receive()

    assert message is not None
    (received,) = message.descriptors
    is_left = os.get_inheritable(received)
    os.close(received)
    assert not is_left


@pytest.mark.parametrize("count", [MAX_DESCRIPTORS + 1, 1000])
def test_more_descriptors_than_that_cannot_be_sent(pair: Pair, count: int) -> None:
    one, other = pair
    with open(os.devnull) as file:
        assert not one.send(LISTEN, (), [file.fileno()] * count)

    with pytest.raises(BlockingIOError):
        other.receive()


def test_a_descriptor_that_is_not_open_cannot_be_sent(pair: Pair) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)

    assert not pair[0].send(LISTEN, (), [reader])


def test_descriptors_that_nobody_received_are_closed_with_the_channel(pair: Pair) -> None:
    one, other = pair
    reader, writer = os.pipe()
    one.send(LISTEN, (), [writer])
    os.close(writer)
    one.close()
    other.close()

    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_message_that_cannot_be_sent_leaves_the_others(pair: Pair) -> None:
    one, other = pair
    reader, writer = os.pipe()
    said = 0
    while one.send(LISTEN, [], [writer] if said == 0 else ()):
        said += 1
    assert not one.send(LISTEN, [], [writer])
    os.close(writer)
    first = other.receive()

    assert first is not None
    (received,) = first.descriptors
    assert one.send(READY)
    assert [other.receive() for _ in range(said)] == [Message(LISTEN)] * (said - 1) + [Message(READY)]
    os.close(received)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("quote", ["", '"'])
def test_whether_a_message_fits_is_known_before_it_is_sent(pair: Pair, quote: str) -> None:
    """Quotation marks and letters beyond ASCII are longer in JSON."""
    one, other = pair
    longest = max(size for size in range(30_000, 70_000, 7) if Channel.fits(SET, [quote * size or "x" * size]))
    text = quote * longest or "x" * longest

    assert one.send(SET, [text])
    assert other.receive() == Message(SET, (text,))
    assert not Channel.fits(SET, [text + "\N{SNOWMAN}" * 5])
    assert not one.send(SET, [text + "\N{SNOWMAN}" * 5])
    with pytest.raises(BlockingIOError):
        other.receive()
