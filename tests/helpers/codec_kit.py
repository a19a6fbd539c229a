"""Checks of the contract of codecs: check_codec() runs all of them on pairs of wire bytes and messages.

Each check is a function, so that a test can call it alone. check_garbage() takes any bytes and is also a fuzz target.
A codec "frames" if its messages do not depend on how the bytes are split into reads. All codecs frame except Raw, for
which only the concatenation of the messages is compared.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from gserver.codecs import Codec, Malformed
from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError

__all__ = [
    "Limit",
    "check_codec",
    "check_copied_bytes",
    "check_discard",
    "check_garbage",
    "check_limit",
    "check_linear_cost",
    "decode",
    "feed",
]

MakeCodec = Callable[[], Codec]
#: Bytes of whole messages, and these messages.
Pair = tuple[bytes, Sequence[Any]]

# Growth of the message: a linear cost grows by the same factor, a quadratic one by its square.
GROWTH = 8
MOST_GROWTH = 13.0
COST_BYTES = 32 * 1024
# Allowed: so many copies of each byte, and so many bytes of objects for each receive() and messages().
COPIES = 8
CALL_BYTES = 1500
# So small that a codec that copies its buffer for each piece allocates ten times the allowed bytes.
PIECE_BYTES = 16


@dataclass(frozen=True)
class Limit:
    """How to test the maximum size of a codec.

    codec(n): a codec with a maximum of n bytes. wire(n): a message of n bytes. unfinished(n): the beginning of a
    message from which it is clear that it has at least n bytes.
    """

    codec: Callable[[int], Codec]
    wire: Callable[[int], bytes]
    unfinished: Callable[[int], bytes]


def comparable(message: Any) -> Any:
    """Return the message, or for a Malformed, which has no equality, its text for the peer."""
    return ("Malformed", message.message) if isinstance(message, Malformed) else message


def feed(codec: Codec, pieces: Iterable[bytes]) -> list[Any]:
    """Feed the pieces to the codec one after another; return the messages."""
    messages: list[Any] = []
    for piece in pieces:
        codec.receive(piece)
        messages.extend(comparable(message) for message in codec.messages())
    return messages


def decode(make: MakeCodec, wire: bytes) -> list[Any]:
    """Return the messages of `wire`, received at once; it must end with a whole message."""
    codec = make()
    messages = feed(codec, [wire])
    codec.eof()
    return messages


def check_codec(make: MakeCodec, pairs: Sequence[Pair], *, frames: bool = True, limit: Limit | None = None) -> None:
    """Check the whole contract in gserver.codecs."""
    for wire, messages in pairs:
        expected = [comparable(message) for message in messages]
        check_whole(make, wire, expected)
        check_every_split(make, wire, expected, frames)
        check_bytewise(make, wire, expected, frames)
        check_eof_at_every_point(make, wire, frames)
        check_garbage(make, wire + wire[:-1], frames)
        if not any(isinstance(message, Malformed) for message in messages):
            check_identity(make, messages, frames)
    check_one_segment(make, pairs, frames)
    if limit is not None:
        check_limit(limit)
        check_linear_cost(lambda: limit.codec(2 * GROWTH * COST_BYTES), limit.wire)
        check_copied_bytes(lambda: limit.codec(2 * COST_BYTES), limit.wire(COST_BYTES))


def check_whole(make: MakeCodec, wire: bytes, expected: list[Any]) -> None:
    """The whole wire gives each message once, and nothing is left in the codec."""
    codec = make()

    assert list(codec.messages()) == []
    assert feed(codec, [wire]) == expected
    assert list(codec.messages()) == []
    codec.eof()
    codec.eof()


def check_bytewise(make: MakeCodec, wire: bytes, expected: list[Any], frames: bool) -> None:
    """Byte by byte, each message comes with its last byte, in order."""
    codec = make()
    messages: list[Any] = []
    for position in range(len(wire)):
        codec.receive(wire[position : position + 1])
        new = [comparable(message) for message in codec.messages()]
        if frames:
            assert len(new) <= 1, (wire, position)
            assert len(messages) + len(new) == len(complete_in(make, wire[: position + 1])), (wire, position)
        messages.extend(new)
    assert_same(messages, expected, frames)
    codec.eof()


def complete_in(make: MakeCodec, wire: bytes) -> list[Any]:
    return feed(make(), [wire])


def check_every_split(make: MakeCodec, wire: bytes, expected: list[Any], frames: bool) -> None:
    """Cut into two at any position, the wire gives the same messages."""
    for cut in range(len(wire) + 1):
        assert_same(feed(make(), [wire[:cut], wire[cut:]]), expected, frames)


def check_one_segment(make: MakeCodec, pairs: Sequence[Pair], frames: bool) -> None:
    """Several messages in one read are all decoded; the beginning of a further one is kept until the rest arrives."""
    for wire, messages in pairs:
        expected = [comparable(message) for message in messages]
        for cut in range(1, len(wire)):
            codec = make()
            first = feed(codec, [wire + wire + wire[:cut]])
            rest = feed(codec, [wire[cut:]])
            assert_same(first + rest, expected * 3, frames)
            if frames:
                assert first[: 2 * len(expected)] == expected * 2


def check_identity(make: MakeCodec, messages: Sequence[Any], frames: bool = True) -> None:
    """Encoded messages decode to the same messages."""
    codec = make()
    assert_same(decode(make, b"".join(map(codec.encode, messages))), list(messages), frames)


def check_eof_at_every_point(make: MakeCodec, wire: bytes, frames: bool) -> None:
    """EOF after a whole message is accepted; EOF inside one raises IncompleteMessage, then and in each later call."""
    if not frames:
        for cut in range(len(wire) + 1):
            codec = make()
            feed(codec, [wire[:cut]])
            assert not codec.partial
            codec.eof()
        return
    boundaries = ends_of_messages(make, wire)
    for cut in range(len(wire) + 1):
        codec = make()
        feed(codec, [wire[:cut]])
        assert bool(codec.partial) is (cut not in boundaries), (wire, cut)
        if cut in boundaries:
            codec.eof()
        else:
            assert_fails(codec, IncompleteMessage)


def ends_of_messages(make: MakeCodec, wire: bytes) -> set[int]:
    """Return 0 and the positions in `wire` at which a message ends."""
    codec, ends = make(), {0}
    for position in range(len(wire)):
        if feed(codec, [wire[position : position + 1]]):
            ends.add(position + 1)
    return ends


def check_limit(limit: Limit, max_bytes: int = 100) -> None:
    """A message of the maximum size passes and one byte more does not: whole or cut, alone or after a good message."""
    good, long = limit.wire(max_bytes), limit.wire(max_bytes + 1)
    for cut in range(len(good) + 1):
        assert len(feed(limit.codec(max_bytes), [good[:cut], good[cut:], good + good])) == 3
    for cut in range(len(long) + 1):
        codec = limit.codec(max_bytes)
        assert_refuses(codec, [long[:cut], long[cut:]], 0)
    assert_refuses(limit.codec(max_bytes), [good + good + long + good], 2)
    assert_refuses(limit.codec(max_bytes), [limit.unfinished(max_bytes + 1)], 0)
    assert_refuses(limit.codec(max_bytes), [good + limit.unfinished(max_bytes + 1)], 1)
    assert_refuses(limit.codec(max_bytes), [bytes([byte]) for byte in good + long], 1)


def assert_refuses(codec: Codec, pieces: Iterable[bytes], good: int) -> None:
    """The codec returns `good` messages and then raises FrameTooLarge, then and in each later call."""
    messages, error = outcome(codec, pieces)

    assert error is FrameTooLarge
    assert len(messages) == good


def assert_fails(codec: Codec, kind: type[ProtocolError]) -> None:
    """Every call raises the same error, of this kind."""
    with pytest.raises(kind) as first:
        codec.eof()
    assert not codec.partial
    for call in (codec.eof, lambda: codec.receive(b"a\n"), lambda: list(codec.messages()), codec.eof):
        with pytest.raises(kind) as again:
            call()
        assert again.value is first.value


def check_garbage(make: MakeCodec, data: bytes, frames: bool = True, pieces: Sequence[bytes] | None = None) -> None:
    """Any bytes give messages or a ProtocolError, and the same ones whole as in pieces (default: byte by byte)."""
    if pieces is None:
        pieces = [data[position : position + 1] for position in range(len(data))]
    whole, whole_error = outcome(make(), [data])
    parts, parts_error = outcome(make(), pieces)

    assert_same(parts, whole, frames)
    assert parts_error is whole_error


def check_discard(make: MakeCodec, good: bytes, long: bytes, report: str) -> None:
    """A message that is too long gives one Malformed at its end; messages after it are decoded, however it is cut.

    Meanwhile the codec keeps none of its bytes, and `partial` is true.
    """
    (message,) = decode(make, good)
    expected = [message, ("Malformed", report), message]
    wire = good + long + good
    for cut in range(len(wire) + 1):
        assert feed(make(), [wire[:cut], wire[cut:]]) == expected
    check_bytewise(make, wire, expected, frames=True)
    check_eof_at_every_point(make, wire, frames=True)
    assert feed(make(), [wire + wire]) == expected * 2
    assert kept_bytes(make(), long[:-1]) < 100


def kept_bytes(codec: Codec, wire: bytes) -> int:
    """Return the number of bytes that the codec keeps after `wire`."""
    middle = len(wire) // 2
    assert feed(codec, [wire[:middle], wire[middle:]]) == []
    return len(codec.partial)


def outcome(codec: Codec, pieces: Iterable[bytes]) -> tuple[list[Any], type[ProtocolError] | None]:
    """Return the messages, and the type of the error that ended them or None."""
    messages: list[Any] = []
    try:
        for piece in pieces:
            codec.receive(piece)
            for message in codec.messages():
                messages.append(comparable(message))
        codec.eof()
    except ProtocolError as error:
        assert_fails(codec, type(error))
        return messages, type(error)
    return messages, None


def assert_same(messages: list[Any], expected: list[Any], frames: bool) -> None:
    if frames:
        assert messages == expected
    else:
        assert b"".join(messages) == b"".join(expected)


def check_linear_cost(make: MakeCodec, wire: Callable[[int], bytes]) -> None:
    """The CPU time for a message that arrives byte by byte is proportional to its size.

    Eight times the bytes take about eight times as long; a codec that searches or copies its buffer again for each byte
    takes up to 64 times as long. The best of five tries counts, so that other load on the host does not matter.
    """
    small = list(map(bytes, zip(wire(COST_BYTES), strict=False)))
    large = list(map(bytes, zip(wire(GROWTH * COST_BYTES), strict=False)))
    tries: list[float] = []
    while len(tries) < 5:
        tries.append(cpu_seconds(make(), large) / cpu_seconds(make(), small))
        if tries[-1] < MOST_GROWTH:
            return
    raise AssertionError(f"{GROWTH} times the bytes cost {min(tries):.1f} times as much")


def check_copied_bytes(make: MakeCodec, wire: bytes) -> None:
    """A message in small pieces allocates a few times its own bytes, and small objects for each call.

    A codec that copies its buffer for each piece would allocate half of the message each time.
    """
    codec, allocated = make(), 0
    pieces = [wire[position : position + PIECE_BYTES] for position in range(0, len(wire), PIECE_BYTES)]
    tracemalloc.start()
    try:
        for piece in pieces:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            codec.receive(piece)
            for _ in codec.messages():
                pass
            allocated += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

    assert allocated < COPIES * len(wire) + CALL_BYTES * len(pieces), f"{allocated} bytes for a message of {len(wire)}"


def cpu_seconds(codec: Codec, pieces: Sequence[bytes]) -> float:
    messages = 0
    started = time.thread_time()
    for piece in pieces:
        codec.receive(piece)
        messages += sum(1 for _ in codec.messages())
    spent = time.thread_time() - started

    assert messages == 1
    return spent
