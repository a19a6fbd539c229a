from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Delimited
from gserver.errors import FrameTooLarge, IncompleteMessage
from gserver.testing.codec_checks import Limit, check_codec, check_identity, check_limit
from tests.helpers.codec_kit import decode, feed
from tests.helpers.cuts import cut_anywhere

NUL_LIMIT = Limit(
    lambda size: Delimited(max_bytes=size), wire=lambda size: b"a" * size + b"\0", unfinished=lambda size: b"a" * size
)
#: With a delimiter of three bytes, of which the message may end with two.
LONG_LIMIT = Limit(
    lambda size: Delimited(b"--\n", b"=", max_bytes=size),
    wire=lambda size: b"a" * (size - 2) + b"--" + b"--\n",
    unfinished=lambda size: b"-" * size + b"--",
)
CRLF_OR_LF = functools.partial(Delimited, b"\n", b"\r\n")


def test_messages_that_end_with_nul_pass_the_battery() -> None:
    pairs = [(b"hello\0", [b"hello"]), (b"\0\0", [b"", b""]), (b"a\nb\0\xff\0", [b"a\nb", b"\xff"])]
    check_codec(Delimited, pairs, limit=NUL_LIMIT)


def test_messages_with_a_long_delimiter_pass_the_battery() -> None:
    pairs = [(b"a--b---\r\n--\n", [b"a--b---\r\n"]), (b"----\n--\n", [b"--", b""])]
    check_codec(functools.partial(Delimited, b"--\n"), pairs)
    check_limit(LONG_LIMIT)


def test_messages_with_several_delimiters_pass_the_battery() -> None:
    pairs = [(b"one;two|three<>", [b"one", b"two", b"three"]), (b"<;<<>", [b"<", b"<"])]
    check_codec(functools.partial(Delimited, b";", b"|", b"<>"), pairs)


@pytest.mark.parametrize(
    ("delimiters", "wire", "messages"),
    [
        ((b"\n", b"\r\n"), b"a\r\nb\n\r\n", [b"a", b"b", b""]),  # both end at the same byte: the longest
        ((b"\r\n", b"\n"), b"a\r\nb\n\r\n", [b"a", b"b", b""]),  # in any order
        ((b"abc", b"bcd"), b"abcdbcdbc abc", [b"", b"d", b"bc "]),  # they overlap: the one that ends first
        ((b"bcd", b"abc"), b"-abcd", [b"-"]),
        ((b"aab", b"abab"), b"aabab-abab", [b"", b"ab-"]),
        ((b"aa",), b"aaab aaaa", [b"", b"ab ", b""]),
        ((b".", b"*", b"[", b"\\"), b"a.b*c[d\\", [b"a", b"b", b"c", b"d"]),  # characters with a meaning in patterns
    ],
)
def test_the_delimiter_that_ends_first_counts_and_of_those_the_longest(
    delimiters: tuple[bytes, ...], wire: bytes, messages: list[bytes]
) -> None:
    for cut in range(len(wire) + 1):
        assert feed(Delimited(*delimiters), [wire[:cut], wire[cut:]]) == messages
    assert feed(Delimited(*delimiters), [bytes([byte]) for byte in wire]) == messages


@pytest.mark.parametrize(
    ("delimiters", "text"),
    [
        ((b"\r", b"\r\n"), rb"the delimiter b'\r\n' never ends a message: b'\r' in it ends it before"),
        ((b"abc", b"b"), rb"the delimiter b'abc' never ends a message: b'b' in it ends it before"),
        ((b"\n", b"\n\n"), rb"the delimiter b'\n\n' never ends a message: b'\n' in it ends it before"),
        ((b"",), rb"the delimiter b'' must be bytes, and not empty"),
        (("\n",), rb"the delimiter '\n' must be bytes, and not empty"),
    ],
)
def test_a_delimiter_that_cannot_end_a_message_is_refused(delimiters: tuple[bytes, ...], text: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        Delimited(*delimiters)

    assert str(caught.value) == text.decode()


def test_the_same_delimiter_twice_is_one() -> None:
    assert decode(functools.partial(Delimited, b";", b";"), b"a;b;") == [b"a", b"b"]


def test_encode_ends_with_the_first_delimiter() -> None:
    assert Delimited(b"\r\n", b"\n").encode(b"a") == b"a\r\n"
    assert Delimited().encode(b"a") == b"a\0"


@pytest.mark.parametrize("message", [b"a\nb", b"a\r\nb", b"a\r", b"\n"])
def test_encode_rejects_messages_that_would_decode_differently(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a message cannot contain the delimiter b'"):
        CRLF_OR_LF().encode(message)


def test_the_beginning_of_a_delimiter_is_not_counted_as_message() -> None:
    codec = Delimited(b"--\n", max_bytes=3)

    assert feed(codec, [b"abc-", b"-", b"\n"]) == [b"abc"]
    with pytest.raises(FrameTooLarge, match=r"^message of at least 4 bytes, the limit is 3$"):
        feed(codec, [b"abc-", b"-", b"-"])


def test_eof_in_a_message_names_how_much_of_it_came() -> None:
    codec = Delimited()
    feed(codec, [b"good\0half"])
    with pytest.raises(IncompleteMessage, match=r"^the peer stopped 4 bytes into a message$"):
        codec.eof()


def test_messages_are_bytes_whichever_way_they_came() -> None:
    messages = feed(Delimited(b";"), [b"a", b"b;c", b";"])

    assert messages == [b"ab", b"c"]
    assert {type(message) for message in messages} == {bytes}


DELIMITERS = st.lists(st.text("abc", min_size=1, max_size=3).map(str.encode), min_size=1, max_size=3)


@given(DELIMITERS, st.lists(st.text("abcd", max_size=12).map(str.encode), max_size=6), st.data())
def test_encoded_messages_are_decoded_again_in_pieces_of_any_size(
    delimiters: list[bytes], messages: list[bytes], data: st.DataObject
) -> None:
    try:
        codec = Delimited(*delimiters)
        wire = b"".join(map(codec.encode, messages))
    except ValueError:
        return
    check_identity(functools.partial(Delimited, *delimiters), messages)
    assert feed(codec, cut_anywhere(data, wire)) == messages


@given(DELIMITERS, st.text("abcd", max_size=30).map(str.encode))
def test_messages_are_those_of_a_search_byte_by_byte(delimiters: list[bytes], wire: bytes) -> None:
    try:
        codec = Delimited(*delimiters)
    except ValueError:
        return
    assert feed(codec, [wire]) == split_slowly(delimiters, wire)


def split_slowly(delimiters: list[bytes], wire: bytes) -> list[bytes]:
    """The same rule, written differently: when the bytes end with a delimiter, remove the longest one."""
    messages, message = [], b""
    for byte in wire:
        message += bytes([byte])
        ending = max((each for each in delimiters if message.endswith(each)), key=len, default=None)
        if ending is not None:
            messages.append(message.removesuffix(ending))
            message = b""
    return messages
