"""Messages on the command line, and replies without framing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.workloads.custom_message import Echoed, escaped, parse_message, unescaped


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("plain", b"plain"),
        (r"a\nb\r\t\0\\c", b"a\nb\r\t\0\\c"),
        (r"\x00\xfF\x41", b"\x00\xffA"),
        ("é\n", b"\xc3\xa9\n"),
    ],
)
def test_escapes_stand_for_bytes(text: str, data: bytes) -> None:
    assert unescaped(text) == data


@pytest.mark.parametrize("text", ["PING", "é — 結果", "a\\n\\\\\\x00b", "\udcc3\udca9"])
def test_an_escaped_message_is_ascii_and_stands_for_the_same_bytes(text: str) -> None:
    assert escaped(text).isascii()
    assert unescaped(escaped(text)) == unescaped(text)


@pytest.mark.parametrize("text", ["\\q", "end\\", "\\x4", "\\xgg"])
def test_an_unknown_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="after a backslash"):
        unescaped(text)


def test_a_message_is_a_value_of_its_codec() -> None:
    assert parse_message("ping", "lines", "pong").message == b"ping"
    assert parse_message("ping", "lines", "").expected is None
    value = parse_message('{"type": "SUM", "a": 1}', "json_lines", "[1, 2]")
    assert (value.message, value.expected) == ({"type": "SUM", "a": 1}, [1, 2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", "morse", ""), "--codec: unknown codec 'morse': expected one of raw, lines"),
        (("{", "json_lines", ""), "--message is '{', which is not JSON"),
        (("1", "json_lines", "}"), "--expect is '}', which is not JSON"),
        (("a\\nb", "lines", ""), "which cannot be encoded as lines"),
    ],
)
def test_a_wrong_option_is_named(arguments: tuple[str, str, str], words: str) -> None:
    with pytest.raises(ValueError, match=r"^--") as raised:
        parse_message(*arguments)

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_raw_reply_is_complete_at_the_expected_length() -> None:
    codec = parse_message("ping", "raw", "a long reply").codec()
    codec.encode(b"ping")
    codec.receive(b"a long ")
    assert list(codec.messages()) == []
    codec.receive(b"reply")

    assert list(codec.messages()) == [b"a long reply"]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.randoms())
def test_an_echo_is_split_at_the_lengths_of_its_messages(messages: list[bytes], chance: random.Random) -> None:
    codec, received = Echoed(), []
    data = b"".join(codec.encode(message) for message in messages)
    while data:
        size = chance.randrange(1, 40)
        codec.receive(data[:size])
        received += codec.messages()
        data = data[size:]

    assert received == messages
    assert not codec.partial


def test_bytes_beyond_the_expected_length_are_a_message_of_their_own() -> None:
    codec = Echoed()
    codec.encode(b"ab")
    codec.receive(b"abc")

    assert codec.messages() == [b"ab", b"c"]
