"""ParserCodec: what is derived from it keeps the contract of codecs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Malformed, ParserCodec
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.testing.codec_checks import Limit, assert_fails, check_codec, check_garbage, feed


class Blocks(ParserCodec):
    """A decimal length, CRLF, the bytes. A length of 0 is ignored; "?" makes a Malformed."""

    def __init__(self, max_bytes: int = 1000) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    def parse(self) -> Generator[None, None, Any]:
        length = yield from self.read_until(b"\r\n", max_bytes=10)
        if length == b"?":
            return Malformed("a question")
        if not length.isdigit():
            raise InvalidHeader(f"the length is {length!r}")
        if int(length) > self.max_bytes:
            raise FrameTooLarge(f"{int(length)} bytes, the limit is {self.max_bytes}")
        return (yield from self.read(int(length))) or None

    def encode(self, message: bytes) -> bytes:
        return b"%d\r\n%b" % (len(message), message)


LIMIT = Limit(Blocks, wire=lambda size: b"%d\r\n%b" % (size, bytes(size)), unfinished=lambda size: b"%d\r\n" % size)


def test_a_derived_codec_passes_the_battery() -> None:
    check_codec(Blocks, [(b"1\r\na3\r\n\r\n1", [b"a", b"\r\n1"]), (b"5\r\nhello", [b"hello"])], limit=LIMIT)


def test_the_time_for_a_line_byte_by_byte_is_linear() -> None:
    class Lines(Blocks):
        def parse(self) -> Generator[None, None, Any]:
            return (yield from self.read_until(b"\r\n", self.max_bytes))

        def encode(self, message: bytes) -> bytes:
            return message + b"\r\n"

    limit = Limit(Lines, wire=lambda size: b"a" * size + b"\r\n", unfinished=lambda size: b"a" * (size + 1))
    check_codec(Lines, [(b"one\r\ntwo\r\r\n", [b"one", b"two\r"])], limit=limit)


def test_none_is_ignored_and_a_malformed_is_delivered() -> None:
    codec = Blocks()
    messages = feed(codec, b"0\r\n?\r\n0\r\n1\r\na0\r\n")

    assert [each.message if isinstance(each, Malformed) else each for each in messages] == ["a question", b"a"]
    assert not codec.partial
    codec.eof()


def test_messages_before_an_error_are_delivered() -> None:
    codec = Blocks()
    messages: list[Any] = []
    codec.receive(b"1\r\nax\r\n1\r\nb")
    with pytest.raises(InvalidHeader):
        messages.extend(codec.messages())
    # A list takes what an iterator gives before it raises.
    assert messages == [b"a"]
    assert_fails(codec, InvalidHeader)


@given(st.binary(max_size=60))
def test_any_bytes_give_the_same_in_pieces(data: bytes) -> None:
    check_garbage(Blocks, data)


def test_a_parser_that_reads_nothing_is_an_error_and_no_endless_loop() -> None:
    class Wrong(Blocks):
        def parse(self) -> Generator[None, None, Any]:
            yield from ()
            return b"again"

    codec = Wrong()
    codec.receive(b"a")
    with pytest.raises(RuntimeError, match=r"Wrong.parse\(\) has read nothing"):
        list(codec.messages())


def test_both_methods_must_be_written() -> None:
    codec = ParserCodec()
    codec.receive(b"a")
    for call in (lambda: list(codec.messages()), lambda: codec.encode(b"a")):
        with pytest.raises(NotImplementedError):
            call()
