"""Checks of the contract of codecs (gserver.codecs): check_codec() runs them on pairs of bytes and messages.

Each check is a function, so that a test can call it alone. check_garbage() takes any bytes and is also a fuzz target.
A failure is an AssertionError that names the bytes, where they were cut, and what differs.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gserver.codecs import Codec, Malformed
from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError
from gserver.user_errors import check_made_codec

__all__ = [
    "COST_BYTES",
    "Limit",
    "MakeCodec",
    "Pair",
    "assert_fails",
    "assert_refuses",
    "check_codec",
    "check_copied_bytes",
    "check_discard",
    "check_garbage",
    "check_identity",
    "check_idle_memory",
    "check_limit",
    "check_linear_cost",
    "comparable",
    "feed",
]

# pytest: a failure is shown at the line that calls a check, and in the codec; not in here.
__tracebackhide__ = True

MakeCodec = Callable[[], Codec]
#: Bytes of whole messages, and these messages.
Pair = tuple[bytes, Sequence[Any]]

# Growth of the message: a linear cost grows by the same factor, a quadratic one by its square.
GROWTH = 8
MOST_GROWTH = 13.0
#: The size of the messages whose cost is measured.
COST_BYTES = 32 * 1024
# Allowed: so many copies of each byte, and so many bytes of objects for each receive() and messages().
COPIES = 8
CALL_BYTES = 1500
# So small that a codec that copies its buffer for each piece allocates ten times the allowed bytes.
PIECE_BYTES = 16
# A codec between two messages may keep so many bytes more than a new one.
IDLE_BYTES = 2048
# So much of long bytes is in the text of a failure.
SHOWN_BYTES = 60


@dataclass(frozen=True)
class Limit:
    """How to test the maximum size of a codec.

        Limit(lambda size: Lines(max_bytes=size), wire=lambda size: b"a" * size + b"\\n", unfinished=lambda n: b"a" * n)

    Args:
        codec: called as codec(n), returns a codec with a maximum of n bytes.
        wire: called as wire(n), returns the bytes of one message of n bytes.
        unfinished: called as unfinished(n), returns the beginning of a message from which it is clear that it has at
            least n bytes.
    """

    codec: Callable[[int], Codec]
    wire: Callable[[int], bytes]
    unfinished: Callable[[int], bytes]


def feed(codec: Codec | MakeCodec, data: bytes | Iterable[bytes]) -> list[Any]:
    """Decode bytes, and return the messages that are complete.

        assert feed(Lines, b"one\\ntwo\\nthr") == [b"one", b"two"]

    Args:
        codec: a codec class, or another callable that makes a codec; or a codec, which is continued.
        data: bytes that are received at once, or several pieces of them that are received one after another.

    A message whose content is invalid is a Malformed in the list. Raises what the codec raises, such as a ProtocolError
    for bytes that cannot be a message.
    """
    made: Any = codec() if isinstance(codec, type) or not hasattr(codec, "receive") else codec
    pieces = [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)
    messages: list[Any] = []
    for piece in pieces:
        made.receive(piece)
        messages.extend(made.messages())
    return messages


def check_codec(codec: MakeCodec, pairs: Sequence[Pair], *, frames: bool = True, limit: Limit | None = None) -> None:
    """Check that a codec keeps the whole contract in gserver.codecs.

        check_codec(Lines, [(b"one\\n", [b"one"]), (b"two\\n\\n", [b"two", b""])])

    It has the methods of a codec. Each message comes once, with its last byte, however the bytes are cut; several may
    come in one read. The end of the bytes inside a message raises IncompleteMessage, and elsewhere nothing. After a
    ProtocolError the codec stays in error. `partial` is true inside a message only. Between messages no buffer is kept.
    encode() makes what decodes to the same message. With `limit`: a message of the maximum size passes, one byte more
    raises FrameTooLarge, and the cost is linear.

    Args:
        codec: a codec class, or another callable without arguments that makes a codec.
        pairs: bytes of whole messages, and these messages: a list of (bytes, messages). A Malformed is compared by its
            text for the peer. Some hundred bytes each: every cut is tried.
        frames: whether the messages do not depend on how the bytes are cut; default True. False for one such as Raw, of
            whose messages only the concatenation is compared.
        limit: how to test the maximum size of a message; default: not tested.

    Raises AssertionError with the bytes and what differs, and what the codec raises by mistake. With `limit` it takes
    some seconds.
    """
    check_made_codec(codec)
    for wire, messages in pairs:
        expected = [comparable(message) for message in messages]
        check_whole(codec, wire, expected)
        check_every_split(codec, wire, expected, frames)
        check_bytewise(codec, wire, expected, frames)
        check_eof_at_every_point(codec, wire, frames)
        check_garbage(codec, wire + wire[:-1], frames)
        if not any(isinstance(message, Malformed) for message in messages):
            check_identity(codec, messages, frames)
    check_one_segment(codec, pairs, frames)
    check_idle_memory(codec, pairs)
    if limit is not None:
        check_limit(limit)
        check_linear_cost(lambda: limit.codec(2 * GROWTH * COST_BYTES), limit.wire)
        check_copied_bytes(lambda: limit.codec(2 * COST_BYTES), limit.wire(COST_BYTES))


def comparable(message: Any) -> Any:
    """Return the message, or for a Malformed, which has no equality, its text for the peer."""
    return ("Malformed", message.message) if isinstance(message, Malformed) else message


def check_whole(make: MakeCodec, wire: bytes, expected: list[Any]) -> None:
    """The whole wire gives each message once, and nothing is left in the codec."""
    codec = make()

    _assert_equal(list(codec.messages()), [], "the messages of a new codec")
    _assert_equal(_fed(codec, [wire]), expected, f"the messages of {_shown([wire])}")
    _assert_equal(list(codec.messages()), [], f"what messages() returns when it is called again after {_shown([wire])}")
    _assert_between_messages(codec, wire)
    _assert_between_messages(codec, wire)


def check_bytewise(make: MakeCodec, wire: bytes, expected: list[Any], frames: bool) -> None:
    """Byte by byte, each message comes with its last byte, in order."""
    codec = make()
    messages: list[Any] = []
    for position in range(len(wire)):
        new = _fed(codec, [wire[position : position + 1]])
        if frames:
            before = f"byte {position} of {_shown([wire])}, received byte by byte"
            _assert(len(new) <= 1, f"{before}, gave {len(new)} messages, must be at most 1: {new!r}")
            complete = len(_fed(make(), [wire[: position + 1]]))
            _assert_equal(len(messages) + len(new), complete, f"the number of messages up to {before}")
        messages.extend(new)
    _assert_same(messages, expected, frames, f"the messages of {_shown([wire])}, received byte by byte,")
    _assert_between_messages(codec, wire)


def check_every_split(make: MakeCodec, wire: bytes, expected: list[Any], frames: bool) -> None:
    """Cut into two at any position, the wire gives the same messages."""
    for cut in range(len(wire) + 1):
        pieces = [wire[:cut], wire[cut:]]
        _assert_same(_fed(make(), pieces), expected, frames, f"the messages of {_shown(pieces)}")


def check_one_segment(make: MakeCodec, pairs: Sequence[Pair], frames: bool) -> None:
    """Several messages in one read are all decoded; the beginning of a further one is kept until the rest arrives."""
    for wire, messages in pairs:
        expected = [comparable(message) for message in messages]
        for cut in range(1, len(wire)):
            codec = make()
            pieces = [wire + wire + wire[:cut], wire[cut:]]
            first = _fed(codec, pieces[:1])
            rest = _fed(codec, pieces[1:])
            _assert_same(first + rest, expected * 3, frames, f"the messages of {_shown(pieces)}")
            if frames:
                whole = first[: 2 * len(expected)]
                _assert_equal(whole, expected * 2, f"the first messages of {_shown(pieces[:1])}")


def check_identity(make: MakeCodec, messages: Sequence[Any], frames: bool = True) -> None:
    """Encoded messages decode to the same messages."""
    codec = make()
    encoded = [codec.encode(message) for message in messages]
    for message, data in zip(messages, encoded, strict=True):
        _assert(isinstance(data, bytes), f"encode({message!r}) returned {data!r}, must be bytes")
    wire = b"".join(encoded)
    decoder = make()
    decoded = _fed(decoder, [wire])
    _assert_between_messages(decoder, wire)
    _assert_same(decoded, list(messages), frames, f"the messages of {_shown([wire])}, which encode() made,")


def check_eof_at_every_point(make: MakeCodec, wire: bytes, frames: bool) -> None:
    """EOF after a whole message is accepted; EOF inside one raises IncompleteMessage, then and in each later call."""
    if not frames:
        for cut in range(len(wire) + 1):
            codec = make()
            _fed(codec, [wire[:cut]])
            _assert(not codec.partial, f"partial is {codec.partial!r} after {_shown([wire[:cut]])}, must be false")
            _assert_between_messages(codec, wire[:cut])
        return
    boundaries = ends_of_messages(make, wire)
    for cut in range(len(wire) + 1):
        codec = make()
        _fed(codec, [wire[:cut]])
        is_inside = cut not in boundaries
        where = f"after {_shown([wire[:cut]])}, which {'is part of' if is_inside else 'ends with'} a message"
        _assert(bool(codec.partial) is is_inside, f"partial is {codec.partial!r} {where}, must be {is_inside}")
        if is_inside:
            assert_fails(codec, IncompleteMessage, where)
        else:
            _assert_between_messages(codec, wire[:cut])


def ends_of_messages(make: MakeCodec, wire: bytes) -> set[int]:
    """Return 0 and the positions in `wire` at which a message ends."""
    codec, ends = make(), {0}
    for position in range(len(wire)):
        if _fed(codec, [wire[position : position + 1]]):
            ends.add(position + 1)
    return ends


def check_limit(limit: Limit, max_bytes: int = 100) -> None:
    """A message of the maximum size passes and one byte more does not: whole or cut, alone or after a good message."""
    good, long = limit.wire(max_bytes), limit.wire(max_bytes + 1)
    for cut in range(len(good) + 1):
        pieces = [good[:cut], good[cut:], good + good]
        count = len(_fed(limit.codec(max_bytes), pieces))
        _assert_equal(count, 3, f"the number of messages of {max_bytes} bytes, the maximum, in {_shown(pieces)}")
    for cut in range(len(long) + 1):
        assert_refuses(limit.codec(max_bytes), [long[:cut], long[cut:]], 0)
    assert_refuses(limit.codec(max_bytes), [good + good + long + good], 2)
    assert_refuses(limit.codec(max_bytes), [limit.unfinished(max_bytes + 1)], 0)
    assert_refuses(limit.codec(max_bytes), [good + limit.unfinished(max_bytes + 1)], 1)
    assert_refuses(limit.codec(max_bytes), [bytes([byte]) for byte in good + long], 1)


def assert_refuses(codec: Codec, pieces: Sequence[bytes], good: int) -> None:
    """The codec returns `good` messages and then raises FrameTooLarge, then and in each later call."""
    messages, error = outcome(codec, pieces)

    name = "nothing" if error is None else error.__name__
    _assert(error is FrameTooLarge, f"{_shown(pieces)}, above the maximum, raised {name}, must raise FrameTooLarge")
    _assert_equal(len(messages), good, f"the number of messages before FrameTooLarge in {_shown(pieces)}")


def assert_fails(codec: Codec, kind: type[ProtocolError], where: str = "") -> None:
    """Every call raises the same error, of this kind. `where`: where the codec is, for the text of a failure."""
    first = _raised(codec.eof)
    _assert(isinstance(first, kind), f"eof() raised {first!r} {where}, must raise {kind.__name__}")
    _assert(not codec.partial, f"partial is {codec.partial!r} after {kind.__name__}, must be false")
    calls = {
        "eof()": codec.eof,
        "receive()": lambda: codec.receive(b"a\n"),
        "messages()": lambda: list(codec.messages()),
    }
    for name, call in calls.items():
        again = _raised(call)
        _assert(again is first, f"{name} raised {again!r} after {first!r} {where}, must raise the same error again")


def _assert_between_messages(codec: Codec, wire: bytes) -> None:
    error = _raised(codec.eof)
    _assert(error is None, f"eof() raised {error!r} after {_shown([wire])}, must raise nothing after whole messages")


def _raised(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def check_garbage(make: MakeCodec, data: bytes, frames: bool = True, pieces: Sequence[bytes] | None = None) -> None:
    """Any bytes give messages or a ProtocolError, and the same ones whole as in pieces (default: byte by byte)."""
    if pieces is None:
        pieces = [data[position : position + 1] for position in range(len(data))]
    whole, whole_error = outcome(make(), [data])
    parts, parts_error = outcome(make(), pieces)

    _assert_same(parts, whole, frames, f"the messages of {_shown(pieces)}, compared with those of {_shown([data])},")
    _assert(
        parts_error is whole_error,
        f"{_shown(pieces)} ended with {parts_error and parts_error.__name__}, "
        f"but {_shown([data])} with {whole_error and whole_error.__name__}",
    )


def check_discard(make: MakeCodec, good: bytes, long: bytes, report: str) -> None:
    """A message that is too long gives one Malformed at its end; messages after it are decoded, however it is cut.

    Meanwhile the codec keeps none of its bytes, and `partial` is true.
    """
    (message,) = _fed(make(), [good])
    expected = [message, ("Malformed", report), message]
    wire = good + long + good
    check_every_split(make, wire, expected, frames=True)
    check_bytewise(make, wire, expected, frames=True)
    check_eof_at_every_point(make, wire, frames=True)
    _assert_equal(_fed(make(), [wire + wire]), expected * 2, f"the messages of {_shown([wire + wire])}")
    kept = kept_bytes(make(), long[:-1])
    _assert(kept < 100, f"{kept} bytes of a message that is discarded are kept")


def kept_bytes(codec: Codec, wire: bytes) -> int:
    """Return the number of bytes that the codec keeps after `wire`."""
    middle = len(wire) // 2
    _assert_equal(_fed(codec, [wire[:middle], wire[middle:]]), [], f"the messages of {_shown([wire])}")
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


def check_idle_memory(make: MakeCodec, pairs: Sequence[Pair]) -> None:
    """A codec that has returned its messages keeps no buffer: its memory is that of a new codec."""
    wire = b"".join(wire for wire, _ in pairs)
    if not wire:
        return
    wire *= 1 + COST_BYTES // len(wire)
    for pieces in ([wire], [wire[:-1], wire[-1:]]):
        _fed(make(), pieces)  # what is made once for all codecs
        codec = make()
        tracemalloc.start()
        try:
            _receive(codec, pieces)
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        _assert(kept < IDLE_BYTES, f"after messages of {len(wire)} bytes, the idle codec keeps {kept} bytes of memory")


def _receive(codec: Codec, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        codec.receive(piece)
        for _ in codec.messages():
            pass


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
    raise AssertionError(f"{GROWTH} times the bytes of a message cost {min(tries):.1f} times as much CPU time")


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

    most = COPIES * len(wire) + CALL_BYTES * len(pieces)
    _assert(allocated < most, f"{allocated} bytes are allocated for a message of {len(wire)}, must be less than {most}")


def cpu_seconds(codec: Codec, pieces: Sequence[bytes]) -> float:
    """Return the CPU time, in seconds, in which the codec decodes the pieces of one message."""
    messages = 0
    started = time.thread_time()
    for piece in pieces:
        codec.receive(piece)
        messages += sum(1 for _ in codec.messages())
    spent = time.thread_time() - started

    _assert_equal(messages, 1, f"the number of messages in {len(pieces)} bytes of one message")
    return spent


def _fed(codec: Codec, pieces: Sequence[bytes]) -> list[Any]:
    """Decode bytes that are valid."""
    try:
        return [comparable(message) for message in feed(codec, pieces)]
    except ProtocolError as error:
        raise AssertionError(f"{_shown(pieces)} raised {type(error).__name__}: {error}; must be valid") from error
    except Exception as error:  # a mistake in the codec: its own traceback shows where
        error.add_note(f"while {type(codec).__name__} decoded {_shown(pieces)}")
        raise


def _assert(fact: bool, text: str) -> None:
    if not fact:
        raise AssertionError(" ".join(text.split()))


def _assert_equal(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        verb = "are" if isinstance(found, list) else "is"
        raise AssertionError(f"{what} {verb} {found!r}, must be {expected!r}")


def _assert_same(messages: list[Any], expected: list[Any], frames: bool, what: str) -> None:
    if frames:
        _assert_equal(messages, expected, what)
    else:
        _assert_equal([b"".join(messages)], [b"".join(expected)], f"{what} joined,")


def _shown(pieces: Sequence[bytes]) -> str:
    """Return the bytes as text for a message: shortened, and the pieces joined by +."""
    shown = [
        repr(bytes(piece)) if len(piece) <= SHOWN_BYTES else f"{bytes(piece[:SHOWN_BYTES])!r}..." for piece in pieces
    ]
    text = " + ".join(shown if len(shown) <= 4 else [*shown[:3], f"... ({len(pieces)} pieces)"])
    return text or "no bytes"
