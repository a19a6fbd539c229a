from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Lines
from gserver.errors import FrameTooLarge, IncompleteMessage, ProtocolError
from gserver.testing.codec_checks import Limit, check_codec, check_garbage, check_identity, check_limit
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere

LF_LIMIT = Limit(Lines, wire=lambda size: b"a" * size + b"\n", unfinished=lambda size: b"a" * size)
CRLF_LIMIT = Limit(Lines, wire=lambda size: b"a" * size + b"\r\n", unfinished=lambda size: b"a" * size)
#: What a line can carry both ways.
LINE = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").rstrip(b"\r"))


def test_lines_pass_the_battery() -> None:
    pairs = [
        (b"hello\n", [b"hello"]),
        (b"\n", [b""]),
        (b"one\ntwo\n\nfour\n", [b"one", b"two", b"", b"four"]),
        (b"\x00\xff\n", [b"\x00\xff"]),
        (b"a\rb\n", [b"a\rb"]),
    ]
    check_codec(Lines, pairs, limit=LF_LIMIT)


def test_lines_that_end_in_crlf_pass_the_battery() -> None:
    pairs = [(b"hello\r\n", [b"hello"]), (b"\r\n\r\n", [b"", b""]), (b"a\nb\r\n", [b"a", b"b"])]
    check_codec(functools.partial(Lines, crlf=True), pairs, limit=CRLF_LIMIT)


def test_only_one_carriage_return_belongs_to_the_terminator() -> None:
    assert decode(Lines, b"a\r\r\n") == [b"a\r"]


@pytest.mark.parametrize(("crlf", "wire"), [(False, b"hello\n"), (True, b"hello\r\n")])
def test_encode_ends_the_line_with_lf_or_crlf(crlf: bool, wire: bytes) -> None:
    assert Lines(crlf=crlf).encode(b"hello") == wire


def test_encode_refuses_a_newline() -> None:
    with pytest.raises(ValueError, match=r"^a line cannot contain a newline$"):
        Lines().encode(b"a\nb")


def test_encode_rejects_messages_that_would_decode_differently() -> None:
    """A final CR would be decoded as part of the terminator."""
    with pytest.raises(ValueError):
        Lines().encode(b"a\r")


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_maximum_below_one_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"^max_bytes is {max_bytes}, must be at least 1$"):
        Lines(max_bytes)


def test_the_error_names_the_figure_and_the_limit() -> None:
    for wire, text in [
        (b"abcdef\n", "line of 6 bytes, the limit is 5"),
        (b"abcdefg", "line of at least 7 bytes, the limit is 5"),
    ]:
        with pytest.raises(FrameTooLarge) as caught:
            feed(Lines(5), [wire])
        assert str(caught.value) == text


def test_eof_in_a_line_names_how_much_of_it_came() -> None:
    codec = Lines()
    feed(codec, [b"good\nhalf"])
    with pytest.raises(IncompleteMessage) as caught:
        codec.eof()

    assert str(caught.value) == "the peer stopped 4 bytes into a line"


@pytest.mark.parametrize("max_bytes", [1, 2, 100])
def test_the_maximum_holds_at_every_size(max_bytes: int) -> None:
    check_limit(LF_LIMIT, max_bytes)
    check_limit(CRLF_LIMIT, max_bytes)


def test_a_carriage_return_beyond_the_maximum_is_only_graced_before_a_newline() -> None:
    codec = Lines(5)

    assert feed(codec, [b"abcde\r"]) == []
    with pytest.raises(FrameTooLarge):
        feed(codec, [b"f"])


def test_more_than_the_maximum_may_arrive_together_if_no_line_is_longer() -> None:
    assert feed(Lines(3), [b"abc\n" * 100]) == [b"abc"] * 100


@given(st.lists(LINE), st.booleans(), st.data())
def test_any_lines_cut_anywhere_are_the_same_lines(lines: list[bytes], crlf: bool, data: st.DataObject) -> None:
    codec = Lines(crlf=crlf)
    wire = b"".join(map(codec.encode, lines))

    assert feed(codec, cut_anywhere(data, wire)) == lines
    codec.eof()


@given(st.binary(max_size=40), st.booleans())
def test_encoded_lines_are_decoded_again(message: bytes, crlf: bool) -> None:
    make = functools.partial(Lines, crlf=crlf)
    try:
        make().encode(message)
    except ValueError:
        return
    check_identity(make, [message])


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b"bc", b"\x00", b"\xff" * 9])).map(b"".join))
def test_garbage_gives_lines_or_a_protocol_error(data: bytes) -> None:
    check_garbage(functools.partial(Lines, 8), data)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"abc"])).map(b"".join), st.data())
def test_the_maximum_does_not_depend_on_the_cuts(wire: bytes, data: st.DataObject) -> None:
    def outcome(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        codec, lines = Lines(4), []
        try:
            for piece in pieces:
                codec.receive(piece)
                for line in codec.messages():
                    lines.append(line)
        except ProtocolError:
            return lines, True
        return lines, False

    assert outcome(cut_anywhere(data, wire)) == outcome([wire])
