from __future__ import annotations

import functools
import shutil
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import OctetCounted
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.service import Service
from gserver.testing.codec_checks import Limit, check_codec, check_limit, check_linear_cost
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

BOTH = functools.partial(OctetCounted, newline=True)
LIMIT = Limit(OctetCounted, wire=lambda size: b"%d %b" % (size, b"a" * size), unfinished=lambda size: b"%d " % size)
NEWLINE_LIMIT = Limit(
    BOTH, wire=lambda size: b"<" + b"a" * (size - 1) + b"\n", unfinished=lambda size: b"<" + b"a" * (size - 1)
)


def test_octet_counted_messages_pass_the_battery() -> None:
    pairs = [(b"5 hello", [b"hello"]), (b"1 \n11 <34>1 a\nb 9", [b"\n", b"<34>1 a\nb 9"]), (b"2 1 ", [b"1 "])]
    check_codec(OctetCounted, pairs, limit=LIMIT)


# Frames and their messages.
FRAMES = [(b"5 hello", b"hello"), (b"3 \n<\n", b"\n<\n"), (b"1 x", b"x")]
LINES = [(b"<34>one\n", b"<34>one"), (b"<1>\n", b"<1>")]


@pytest.mark.parametrize("newline", [False, True])
@given(data=st.data())
def test_line_feeds_between_frames_are_dropped_wherever_the_wire_is_cut(newline: bool, data: st.DataObject) -> None:
    some = st.lists(st.sampled_from([*FRAMES, *(LINES if newline else [])]), max_size=6)
    wire, expected = b"", []
    for frame, message in data.draw(some):
        wire += b"\n" * data.draw(st.integers(0, 3)) + frame
        expected.append(message)
    codec = OctetCounted(newline=newline)

    assert feed(codec, cut_anywhere(data, wire + b"\n" * data.draw(st.integers(0, 3)))) == expected
    assert not codec.partial
    codec.eof()


@pytest.mark.parametrize("newline", [False, True])
def test_a_flood_of_line_feeds_is_no_message_and_keeps_nothing(newline: bool) -> None:
    codec = OctetCounted(5, newline=newline, overflow="discard")
    flood = b"\n" * 65536
    for _ in range(3):
        assert feed(codec, [flood]) == []
        assert len(codec.partial) == 0
        assert feed(codec, [b"2 ab" + flood + b"1 c" + flood + b"1"]) == [b"ab", b"c"]
        assert codec.partial == b"1"
        assert feed(codec, [b" d" + flood]) == [b"d"]
    codec.eof()


def test_the_cost_of_line_feeds_is_linear() -> None:
    """No line feed between frames is searched twice."""
    codec = OctetCounted()
    began = time.process_time()
    assert len(feed(codec, [(b"\n" * 50 + b"1 a") * 20_000])) == 20_000
    assert feed(codec, [b"\n"] * 50_000) == []

    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("behind", [b"", b"\n", b"\n\n1 b", b"\n<7>\n"])
def test_line_feeds_behind_a_message_that_is_discarded_are_dropped_too(behind: bytes) -> None:
    wire = b"\n\n9 abcdefghi" + behind
    right = [message for message in (b"b", b"<7>") if message in behind]
    for cut in range(len(wire) + 1):
        codec = OctetCounted(5, newline=True, overflow="discard")
        first, *others = feed(codec, [wire[:cut], wire[cut:]])
        assert first == ("Malformed", "message of 9 bytes, the limit is 5")
        assert others == right
        assert not codec.partial


def test_both_framings_on_one_stream_pass_the_battery() -> None:
    pairs = [
        (b"<34>one\n", [b"<34>one"]),
        (b"5 hello<1>\n<\n7 <34>\n9 <2>x\n", [b"hello", b"<1>", b"<", b"<34>\n9 ", b"<2>x"]),
    ]
    check_codec(BOTH, pairs)
    check_limit(NEWLINE_LIMIT)
    check_linear_cost(lambda: BOTH(1 << 20), NEWLINE_LIMIT.wire)


class SearchedBuffer(bytearray):
    """Counts the searched bytes."""

    searched = 0

    def find(self, sought: Any, start: Any = 0, end: Any = None) -> int:
        self.searched += len(self) - start
        return super().find(sought, start)


def test_a_line_that_arrives_byte_by_byte_is_searched_once() -> None:
    codec = BOTH()
    codec.partial = buffer = SearchedBuffer(b"<")
    feed(codec, [b"a"] * 1000)

    assert codec.partial is buffer
    assert buffer.searched <= len(buffer)


@pytest.mark.parametrize(
    "wire", [b"0 ", b"01 a", b"+1 a", b" 1 a", b"a", b"1\ta", b"<34>a\n", b"\r\n", b"\na", b"1" * 21]
)
def test_an_invalid_length_is_rejected(wire: bytes) -> None:
    with pytest.raises(InvalidHeader):
        feed(OctetCounted(), [wire])


@pytest.mark.parametrize("wire", [b"\r\n", b"hello\n", b"\n ", b"\xef\xbb\xbf<34>\n"])
def test_only_a_priority_begins_a_line(wire: bytes) -> None:
    with pytest.raises(InvalidHeader):
        feed(BOTH(), [wire])


def test_a_line_that_does_not_end_is_too_large_in_time() -> None:
    with pytest.raises(FrameTooLarge, match=r"^message of at least 6 bytes, the limit is 5$"):
        feed(BOTH(5), [b"<1>a", b"bc"])


def test_an_empty_message_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"^a syslog message cannot be empty$"):
        OctetCounted().encode(b"")


def test_messages_are_encoded_octet_counted_in_either_case() -> None:
    assert BOTH().encode(b"<34>a\nb") == OctetCounted().encode(b"<34>a\nb") == b"7 <34>a\nb"
    assert decode(BOTH, BOTH().encode(b"<34>a\nb")) == [b"<34>a\nb"]


@given(st.booleans(), st.lists(st.binary(min_size=1, max_size=40)), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(
    newline: bool, messages: list[bytes], data: st.DataObject
) -> None:
    codec = OctetCounted(newline=newline)
    wire = b"".join(map(codec.encode, messages))

    assert feed(codec, cut_anywhere(data, wire)) == messages
    codec.eof()


@pytest.mark.skipif(shutil.which("logger") is None, reason="logger (util-linux) is not installed")
@pytest.mark.parametrize("framing", [["--octet-count"], []])
def test_logger_is_understood_in_both_of_its_framings(framing: list[str], serving: Serving) -> None:
    received: list[Any] = []
    server = serving.start(Service(lambda message, conn: received.append(message), BOTH))
    host, port = server.address[:2]
    command = ["logger", "--tcp", "--server", host, "--port", str(port), "--priority", "user.notice", *framing]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as logger:
        assert logger.stdin is not None
        logger.stdin.write(b"first\nsecond line\n")
        logger.stdin.close()
        wait_until(lambda: len(received) == 2)

    assert logger.returncode == 0
    assert [message.startswith(b"<13>") for message in received] == [True, True]
    assert [message.rsplit(b" ", 1)[1] for message in received] == [b"first", b"line"]
