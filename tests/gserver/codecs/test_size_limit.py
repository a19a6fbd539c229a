"""Messages above the maximum: discarded and reported, or the end of the connection."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from gserver.codecs import (
    Codec,
    ContentLength,
    Delimited,
    JsonContentLength,
    JsonLines,
    LengthPrefixed,
    Lines,
    Netstring,
    OctetCounted,
    VarintPrefixed,
)
from gserver.errors import FrameTooLarge, IncompleteMessage, InvalidHeader
from gserver.testing.codec_checks import (
    COST_BYTES,
    assert_fails,
    assert_refuses,
    check_codec,
    check_copied_bytes,
    check_discard,
)
from tests.helpers.codec_kit import feed

MakeCodec = Callable[..., Codec]

#: Codec, one good message, and a message of the given number of bytes.
CODECS: dict[str, tuple[MakeCodec, bytes, Callable[[int], bytes]]] = {
    "lines": (Lines, b"good\n", lambda size: b"a" * size + b"\n"),
    "lines that end in crlf": (Lines, b"good\r\n", lambda size: b"\r" * size + b"\r\n"),
    "json lines": (JsonLines, b"1\n", lambda size: b"[" * size + b"\n"),
    "delimited": (Delimited, b"good\0", lambda size: b"a" * size + b"\0"),
    "delimited by many": (
        functools.partial(Delimited, b"--", b"\n-=", b"="),
        b"good=",
        lambda size: b"-" + b"\n-" * (size // 2 - 1) + b"a" * (size % 2 + 1) + b"--",
    ),
    "length": (LengthPrefixed, b"\0\0\0\4good", lambda size: size.to_bytes(4, "big") + b"\xff" * size),
    "length with offset": (
        functools.partial(LengthPrefixed, 3, offset=1, strip=4),
        b"x\0\0\4good",
        lambda size: b"x" + size.to_bytes(3, "big") + b"\xff" * size,
    ),
    "varint": (VarintPrefixed, b"\4good", lambda size: VarintPrefixed().encode(b"\xff" * size)),
    "netstring": (Netstring, b"4:good,", lambda size: b"%d:%b," % (size, b"," * size)),
    "octet counted": (OctetCounted, b"4 good", lambda size: b"%d %b" % (size, b"\n" * size)),
    "octet counted, with newline": (
        functools.partial(OctetCounted, newline=True),
        b"<13>good\n",
        lambda size: b"<" + b"1" * (size - 1) + b"\n",
    ),
    "content length": (
        ContentLength,
        b"Content-Length: 4\r\n\r\ngood",
        lambda size: b"Content-Length: %d\r\n\r\n%b" % (size, b"\r\n" * (size // 2) + b"\n" * (size % 2)),
    ),
    "content length of json": (
        JsonContentLength,
        b"Content-Length: 2\r\n\r\n{}",
        lambda size: b"Content-Length: %d\r\n\r\n%b" % (size, b"[" * size),
    ),
}
UNITS = {"lines": "line", "lines that end in crlf": "line", "json lines": "line"}
every_codec = pytest.mark.parametrize("name", CODECS)


def unit_of(name: str) -> str:
    return UNITS.get(name, "message")


@every_codec
@pytest.mark.parametrize("size", [11, 12, 300])
def test_a_message_over_the_maximum_is_discarded_and_reported_once(name: str, size: int) -> None:
    make, good, wire = CODECS[name]

    check_discard(
        functools.partial(make, max_bytes=10, overflow="discard"),
        good,
        wire(size),
        f"{unit_of(name)} of {size} bytes, the limit is 10",
    )


@every_codec
def test_exactly_the_maximum_is_not_discarded(name: str) -> None:
    make, good, wire = CODECS[name]
    whole = feed(make(max_bytes=10, overflow="discard"), [good + wire(10)])

    assert len(whole) == 2
    assert feed(make(), [wire(10)]) == whole[1:]


@every_codec
def test_codecs_that_discard_pass_the_battery(name: str) -> None:
    make, good, _ = CODECS[name]
    messages = feed(make(), [good])

    check_codec(
        functools.partial(make, max_bytes=10, overflow="discard"), [(good, messages), (good + good, messages * 2)]
    )


@every_codec
def test_a_message_above_max_discard_ends_the_connection(name: str) -> None:
    make, good, wire = CODECS[name]
    for pieces in ([good + wire(31)], [good, *(bytes([byte]) for byte in wire(31))]):
        assert_refuses(make(max_bytes=10, overflow="discard", max_discard=30), pieces, 1)
    assert len(feed(make(max_bytes=10, overflow="discard", max_discard=30), [good + wire(30)])) == 2


@pytest.mark.parametrize("name", ["lines", "json lines", "delimited", "octet counted, with newline"])
def test_a_message_without_an_end_is_not_discarded_without_limit(name: str) -> None:
    make, good, wire = CODECS[name]
    endless = wire(31)[:-1]
    for pieces in ([good + endless], [good + endless[:20], endless[20:]], [good, *(bytes([byte]) for byte in endless)]):
        assert_refuses(make(max_bytes=10, overflow="discard", max_discard=30), pieces, 1)


def test_a_carriage_return_may_still_be_half_of_the_end_of_a_discarded_line() -> None:
    codec = Lines(10, overflow="discard", max_discard=30)

    assert feed(codec, [b"a" * 20, b"a" * 10 + b"\r"]) == []
    assert feed(codec, [b"\n"]) == [("Malformed", "line of 30 bytes, the limit is 10")]
    with pytest.raises(FrameTooLarge, match=r"^line of at least 31 bytes, the limit is 10$"):
        feed(codec, [b"a" * 20, b"a" * 10 + b"\r\r"])


@every_codec
def test_messages_over_the_maximum_that_follow_each_other_are_reported_each(name: str) -> None:
    make, good, wire = CODECS[name]
    long = wire(12) + wire(13)
    kinds = [unit_of(name)]
    reports = [("Malformed", f"{kind} of {size} bytes, the limit is 10") for kind in kinds for size in (12, 13)]
    for cut in range(len(long) + 1):
        codec = make(max_bytes=10, overflow="discard")
        assert feed(codec, [long[:cut], long[cut:] + good])[:2] == reports
        codec.eof()


@every_codec
def test_discarding_costs_in_proportion_to_the_bytes(name: str) -> None:
    make, _, wire = CODECS[name]

    check_copied_bytes(functools.partial(make, max_bytes=10, overflow="discard"), wire(COST_BYTES))


@every_codec
def test_eof_in_a_discarded_message_is_an_incomplete_message(name: str) -> None:
    make, _, wire = CODECS[name]
    long = wire(200)
    codec = make(max_bytes=10, overflow="discard")
    feed(codec, [long[:50], long[50:-1]])
    with pytest.raises(IncompleteMessage, match=f"^the peer stopped {len(long) - 1} bytes into a {unit_of(name)}$"):
        codec.eof()
    assert_fails(codec, IncompleteMessage)


@pytest.mark.parametrize(
    "header",
    [
        (LengthPrefixed, (2**31).to_bytes(4, "big")),
        (functools.partial(LengthPrefixed, 8), (2**63).to_bytes(8, "big")),
        (functools.partial(VarintPrefixed, 64), b"\xff" * 9 + b"\x01"),
        (Netstring, b"9223372036854775808:"),
        (OctetCounted, b"9223372036854775808 "),
        (ContentLength, b"Content-Length: 9223372036854775808\r\n\r\n"),
    ],
    ids=["length of 4", "length of 8", "varint", "netstring", "octet counted", "content length"],
)
def test_a_hostile_length_is_not_waited_for(header: tuple[MakeCodec, bytes]) -> None:
    make, wire = header
    with pytest.raises(FrameTooLarge):
        feed(make(overflow="discard"), [wire])


@pytest.mark.parametrize(("max_bytes", "most"), [(1000, 1024 * 1024), (100_000, 1_600_000)])
def test_sixteen_times_the_maximum_is_discarded_and_a_mebibyte_at_least(max_bytes: int, most: int) -> None:
    codec = LengthPrefixed(max_bytes=max_bytes, overflow="discard")
    assert feed(codec, [most.to_bytes(4, "big")]) == []
    with pytest.raises(FrameTooLarge):
        feed(LengthPrefixed(max_bytes=max_bytes, overflow="discard"), [(most + 1).to_bytes(4, "big")])


def test_the_comma_of_a_discarded_netstring_is_checked() -> None:
    for cut in range(len(b"12:aaaaaaaaaaaa")):
        wire = b"12:aaaaaaaaaaaa;1:a,"
        codec = Netstring(10, overflow="discard")
        with pytest.raises(InvalidHeader, match=r"^b';' after a message of 12 bytes, must be b','$"):
            feed(codec, [wire[:cut], wire[cut:], b""])
        assert_fails(codec, InvalidHeader)


def test_a_report_that_was_not_taken_is_not_lost() -> None:
    codec = Lines(3, overflow="discard")
    feed(codec, [b"too lo"])
    codec.receive(b"ng\n")
    codec.receive(b"ok\n")

    assert feed(codec, [b"and\n"]) == [("Malformed", "line of 8 bytes, the limit is 3"), b"ok", b"and"]


@every_codec
def test_contradictory_arguments_are_rejected(name: str) -> None:
    make = CODECS[name][0]
    with pytest.raises(ValueError, match=r"^overflow is 'drop', must be 'close' or 'discard'$"):
        make(overflow="drop")
    with pytest.raises(ValueError, match=r"^max_discard is 5, must be at least max_bytes, and overflow 'discard'$"):
        make(max_bytes=10, overflow="discard", max_discard=5)
    with pytest.raises(ValueError, match=r"^max_discard is 50, "):
        make(max_bytes=10, max_discard=50)


def test_a_report_is_carried_by_the_codec_of_the_service() -> None:
    """JsonService answers a Malformed with a line of JSON."""
    (report,) = list(_reports(JsonLines(10, overflow="discard"), b'"' + b"a" * 20 + b'"\n'))

    assert json.loads(JsonLines().encode({"message": report.message}))["message"] == report.detail


def _reports(codec: Codec, wire: bytes) -> list[Any]:
    codec.receive(wire)
    return list(codec.messages())
