from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import LengthPrefixed
from gserver.errors import FrameTooLarge, IncompleteMessage, InvalidHeader
from gserver.testing.codec_checks import Limit, assert_fails, check_codec, check_garbage, check_limit, check_linear_cost
from tests.helpers.codec_kit import feed
from tests.helpers.cuts import cut_anywhere

Order = Literal["big", "little"]
SHAPES = list(itertools.product((1, 2, 3, 4, 8), ("big", "little"), (False, True)))
SHAPE = st.sampled_from(SHAPES)


def make_wire(body: bytes, header_bytes: int, byteorder: Order, includes_header: bool) -> bytes:
    length = len(body) + (header_bytes if includes_header else 0)
    return length.to_bytes(header_bytes, byteorder) + body


def make_limit(header_bytes: int, byteorder: Order, includes_header: bool) -> Limit:
    def wire(size: int) -> bytes:
        return make_wire(bytes(size), header_bytes, byteorder, includes_header)

    return Limit(
        codec=lambda size: LengthPrefixed(header_bytes, byteorder, max_bytes=size, includes_header=includes_header),
        wire=wire,
        unfinished=lambda size: wire(size)[:header_bytes],
    )


@pytest.mark.parametrize(("header_bytes", "byteorder", "includes_header"), SHAPES)
def test_every_shape_passes_the_battery(header_bytes: int, byteorder: Order, includes_header: bool) -> None:
    make = functools.partial(LengthPrefixed, header_bytes, byteorder, includes_header=includes_header)
    wire = functools.partial(make_wire, header_bytes=header_bytes, byteorder=byteorder, includes_header=includes_header)
    pairs = [
        (wire(b"hello"), [b"hello"]),
        (wire(b""), [b""]),
        (wire(b"") + wire(b"\x00\xff" * 9) + wire(b"\n"), [b"", b"\x00\xff" * 9, b"\n"]),
    ]
    check_codec(make, pairs)


@pytest.mark.parametrize(("header_bytes", "byteorder", "includes_header"), SHAPES)
def test_the_maximum_holds_in_every_shape(header_bytes: int, byteorder: Order, includes_header: bool) -> None:
    check_limit(make_limit(header_bytes, byteorder, includes_header))


def test_the_cost_per_byte_is_the_same_byte_by_byte() -> None:
    limit = make_limit(4, "big", False)
    check_linear_cost(lambda: limit.codec(1 << 20), limit.wire)


def test_a_length_over_the_maximum_is_refused_with_its_header() -> None:
    codec = LengthPrefixed(max_bytes=1000)
    with pytest.raises(FrameTooLarge) as caught:
        feed(codec, [b"\x7f\xff\xff\xff"])

    assert str(caught.value) == "message of 2147483647 bytes, the limit is 1000"
    assert_fails(codec, FrameTooLarge)


def test_the_largest_length_of_eight_bytes_is_only_too_large() -> None:
    with pytest.raises(FrameTooLarge):
        feed(LengthPrefixed(8), [b"\xff" * 8])


@pytest.mark.parametrize("announced", range(4))
def test_a_length_shorter_than_its_header_is_invalid(announced: int) -> None:
    codec = LengthPrefixed(4, includes_header=True)
    with pytest.raises(InvalidHeader) as caught:
        feed(codec, [announced.to_bytes(4, "big")])

    assert str(caught.value) == f"length {announced} is less than the 4 bytes of its own header"
    assert_fails(codec, InvalidHeader)


def test_eof_in_a_message_names_how_much_of_it_came() -> None:
    codec = LengthPrefixed(2)
    feed(codec, [b"\x00\x01a\x00\x05abc"])
    with pytest.raises(IncompleteMessage) as caught:
        codec.eof()

    assert str(caught.value) == "the peer stopped 5 bytes into a message"


def test_messages_that_came_before_an_error_are_delivered() -> None:
    codec = LengthPrefixed(1, max_bytes=3)
    codec.receive(b"\x01a\x02bc\x04")
    messages = iter(codec.messages())

    assert next(messages) == b"a"
    assert next(messages) == b"bc"
    with pytest.raises(FrameTooLarge):
        next(messages)


def test_a_message_that_does_not_fit_its_length_field_cannot_be_encoded() -> None:
    assert LengthPrefixed(1).encode(bytes(255))[:1] == b"\xff"
    with pytest.raises(ValueError, match=r"^message of 256 bytes does not fit a 1-byte length field$"):
        LengthPrefixed(1).encode(bytes(256))
    with pytest.raises(ValueError, match=r"^message of 255 bytes does not fit a 1-byte length field$"):
        LengthPrefixed(1, includes_header=True).encode(bytes(255))


Shape = dict[str, Any]
#: From the documentation of Netty's LengthFieldBasedFrameDecoder: "HELLO, WORLD" in each of its examples.
NETTY: list[tuple[Shape, bytes, bytes]] = [
    ({"header_bytes": 2, "strip": 0}, b"\x00\x0cHELLO, WORLD", b"\x00\x0cHELLO, WORLD"),
    ({"header_bytes": 2, "strip": 2}, b"\x00\x0cHELLO, WORLD", b"HELLO, WORLD"),
    ({"header_bytes": 2, "adjustment": -2, "strip": 0}, b"\x00\x0eHELLO, WORLD", b"\x00\x0eHELLO, WORLD"),
    (
        {"header_bytes": 3, "offset": 2, "strip": 0},
        b"\xca\xfe\x00\x00\x0cHELLO, WORLD",
        b"\xca\xfe\x00\x00\x0cHELLO, WORLD",
    ),
    (
        {"header_bytes": 3, "adjustment": 2, "strip": 0},
        b"\x00\x00\x0c\xca\xfeHELLO, WORLD",
        b"\x00\x00\x0c\xca\xfeHELLO, WORLD",
    ),
]
SYMMETRICAL: list[Shape] = [
    {"header_bytes": 2, "offset": 3},
    {"header_bytes": 3, "byteorder": "little", "offset": 1, "adjustment": -5},
    {"header_bytes": 2, "offset": 2, "includes_header": True},
    {"header_bytes": 4, "strip": 0},
    {"header_bytes": 4, "offset": 4, "strip": 8, "lead": b"MAGI"},
    {"header_bytes": 2, "offset": 2, "strip": 1, "lead": b"\x07?"},
    {"header_bytes": 2, "offset": 1, "strip": 2, "lead": b"!"},
    {"header_bytes": 1, "adjustment": 3, "strip": 0},
]


@pytest.mark.parametrize(("options", "wire", "message"), NETTY)
def test_the_examples_of_netty_give_their_messages(options: Shape, wire: bytes, message: bytes) -> None:
    check_codec(functools.partial(LengthPrefixed, **options), [(wire, [message]), (wire * 2, [message] * 2)])


@pytest.mark.parametrize("options", SYMMETRICAL)
def test_every_frame_decodes_to_a_message_that_encodes_to_it(options: Shape) -> None:
    """The frame has the lead in place of the bytes that `strip` removes."""
    make = functools.partial(LengthPrefixed, **options)
    codec = make()
    header = options.get("lead", bytes(options.get("offset", 0))) + bytes(options["header_bytes"])
    kept = header[options.get("strip", 0) :]
    messages = [kept + body for body in (b"abc", b"hello", b"\n" * 40)]
    wires = [codec.encode(message) for message in messages]
    decoded = [feed(make(), [wire])[0] for wire in wires]

    assert [codec.encode(message) for message in decoded] == wires
    assert [len(message) for message in decoded] == [len(message) for message in messages]
    assert all(wire.startswith(options.get("lead", b"")) for wire in wires)
    check_codec(make, list(zip(wires, ([message] for message in decoded), strict=True)))


def test_the_bytes_before_the_length_are_handed_over_and_sent_as_they_are() -> None:
    codec = LengthPrefixed(2, offset=2)

    assert codec.encode(b"\xca\xfe??abc") == b"\xca\xfe\x00\x03abc"
    assert feed(codec, [b"\xca\xfe\x00\x03abc"]) == [b"\xca\xfe\x00\x03abc"]


def test_a_message_without_all_of_its_header_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"^message of 3 bytes, must begin with 4 bytes of its header$"):
        LengthPrefixed(2, offset=2).encode(b"abc")
    with pytest.raises(ValueError, match=r"^message of 2 bytes does not fit a 2-byte length field$"):
        LengthPrefixed(2, adjustment=3).encode(b"ab")
    with pytest.raises(ValueError, match=r"^message of 258 bytes does not fit a 1-byte length field$"):
        LengthPrefixed(1, offset=1).encode(bytes(258))


def test_a_length_that_the_adjustment_makes_negative_is_invalid() -> None:
    codec = LengthPrefixed(1, adjustment=-3)

    assert feed(codec, [b"\x03"]) == [b""]
    with pytest.raises(InvalidHeader, match=r"^length 2 is less than 3, which the adjustment subtracts$"):
        feed(codec, [b"\x02"])
    assert_fails(codec, InvalidHeader)


def test_the_maximum_is_that_of_the_message_as_it_is_handed_over() -> None:
    assert feed(LengthPrefixed(1, offset=1, max_bytes=5), [b"t\x03abc"]) == [b"t\x03abc"]
    with pytest.raises(FrameTooLarge, match=r"^message of 6 bytes, the limit is 5$"):
        feed(LengthPrefixed(1, offset=1, max_bytes=5), [b"t\x04"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"offset": -1}, "offset is -1, must not be negative"),
        ({"strip": 5}, "strip is 5, must be from 0 to 4, the size of the header"),
        ({"strip": -1}, "strip is -1, must be from 0 to 4, the size of the header"),
        ({"offset": 2, "lead": b"abc"}, "lead has 3 bytes, must have 2, the value of offset"),
    ],
)
def test_a_header_that_cannot_be_is_refused(options: Shape, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        LengthPrefixed(**options)

    assert str(caught.value) == text


@pytest.mark.parametrize("header_bytes", [0, 5, 16, -1])
def test_other_widths_are_refused(header_bytes: int) -> None:
    with pytest.raises(ValueError, match="must be one of 1, 2, 3, 4, 8"):
        LengthPrefixed(header_bytes)


def test_other_byte_orders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^byteorder is 'network', must be 'big' or 'little'$"):
        LengthPrefixed(4, "network")  # type: ignore[arg-type]


def test_a_negative_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_bytes is -1, must not be negative$"):
        LengthPrefixed(max_bytes=-1)


def test_messages_are_bytes_and_not_views() -> None:
    """A message is never a view of the buffer."""
    codec = LengthPrefixed(1)
    messages = feed(codec, [b"\x03a", b"bc\x03", b"def\x03ghi"])

    assert messages == [b"abc", b"def", b"ghi"]
    assert {type(message) for message in messages} == {bytes}


@given(SHAPE, st.lists(st.binary(max_size=40)), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(
    shape: tuple[int, Order, bool], messages: list[bytes], data: st.DataObject
) -> None:
    codec = LengthPrefixed(shape[0], shape[1], includes_header=shape[2])
    wire = b"".join(map(codec.encode, messages))

    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()


@given(SHAPE, st.lists(st.sampled_from([b"\x00", b"\x01", b"\x05", b"\x09", b"\xff"])).map(b"".join))
def test_garbage_gives_messages_or_a_protocol_error(shape: tuple[int, Order, bool], data: bytes) -> None:
    check_garbage(functools.partial(LengthPrefixed, shape[0], shape[1], max_bytes=8, includes_header=shape[2]), data)
