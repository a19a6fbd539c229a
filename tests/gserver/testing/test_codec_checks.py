"""check_codec() finds each mistake in a codec; the codecs of gserver pass it in tests/gserver/codecs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gserver import FrameTooLarge, Lines, ProtocolError
from gserver.errors import ConfigError, IncompleteMessage
from gserver.testing import Limit, check_codec, feed


class Plain:
    """A right codec for lines, for the mistakes below."""

    max_bytes = 1 << 20

    def __init__(self) -> None:
        self.partial: Any = bytearray()
        self._complete: list[bytes] = []
        self._error: ProtocolError | None = None

    def receive(self, data: bytes) -> None:
        self._check()
        *complete, rest = data.split(b"\n")
        for line in complete:
            self._complete.append(bytes(self.partial + line))
            self.partial.clear()
        self.partial += rest

    def messages(self) -> Iterator[bytes]:
        self._check()
        complete, self._complete = self._complete, []
        for line in complete:
            if len(line) > self.max_bytes:
                self.fail(FrameTooLarge(f"line of {len(line)} bytes"))
            yield line
        if len(self.partial) > self.max_bytes:
            self.fail(FrameTooLarge("line without an end"))

    def encode(self, message: bytes) -> bytes:
        return message + b"\n"

    def eof(self) -> None:
        self._check()
        if self.partial:
            self.fail(IncompleteMessage("the end inside a line"))

    def fail(self, error: ProtocolError) -> None:
        self._error, self.partial = error, bytearray()
        raise error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class LosesCutBytes(Plain):
    def receive(self, data: bytes) -> None:
        self.partial.clear()
        super().receive(data)


class OneMessageARead(Plain):
    def messages(self) -> Iterator[bytes]:
        yield from list(super().messages())[:1]


class RepeatsMessages(Plain):
    def messages(self) -> Iterator[bytes]:
        yield from self._complete


class IgnoresTheEnd(Plain):
    def eof(self) -> None:
        pass


class RecoversFromErrors(Plain):
    def fail(self, error: ProtocolError) -> None:
        raise error


class AlwaysPartial(Plain):
    def receive(self, data: bytes) -> None:
        super().receive(data)
        self.partial = self.partial or bytearray(b"x")


class NeverPartial:
    partial = False

    def __init__(self) -> None:
        right = Plain()
        self.receive, self.messages, self.encode, self.eof = right.receive, right.messages, right.encode, right.eof


class EncodesText(Plain):
    def encode(self, message: bytes) -> Any:
        return message.decode() + "\n"


class EncodesWithoutAnEnd(Plain):
    def encode(self, message: bytes) -> bytes:
        return message


class KeepsAll(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[bytes] = []

    def receive(self, data: bytes) -> None:
        super().receive(data)
        self.history.append(data + b"")
        self.history.append(bytes(len(data)))


class Raises(Plain):
    def receive(self, data: bytes) -> None:
        if len(data) == 3:
            raise IndexError("a mistake in the codec")
        super().receive(data)


PAIRS = [(b"one\ntwo\n", [b"one", b"two"]), (b"a\n", [b"a"])]


def limit_of(kind: Callable[[], Any]) -> Limit:
    def make(size: int) -> Any:
        codec = kind()
        codec.max_bytes = size
        return codec

    return Limit(make, wire=lambda size: b"a" * size + b"\n", unfinished=lambda size: b"a" * size)


def test_a_right_codec_passes() -> None:
    check_codec(Plain, PAIRS, limit=limit_of(Plain))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (LosesCutBytes, "the messages of b'o' + b'ne\\ntwo\\n' are [b'ne', b'two'], must be [b'one', b'two']"),
        (OneMessageARead, "the messages of b'one\\ntwo\\n' are [b'one'], must be [b'one', b'two']"),
        (RepeatsMessages, "what messages() returns when it is called again after b'one\\ntwo\\n' are"),
        (
            IgnoresTheEnd,
            "eof() raised None after b'o', which is part of a message, must raise IncompleteMessage",
        ),
        (RecoversFromErrors, "partial is bytearray(b'o') after IncompleteMessage, must be false"),
        (
            AlwaysPartial,
            "eof() raised IncompleteMessage('the end inside a line') after b'one\\ntwo\\n', must raise nothing",
        ),
        (NeverPartial, "partial is False after b'o', which is part of a message, must be True"),
        (EncodesText, "encode(b'one') returned 'one\\n', must be bytes"),
        (EncodesWithoutAnEnd, "eof() raised IncompleteMessage('the end inside a line') after b'onetwo'"),
        (KeepsAll, "the idle codec keeps"),
    ],
)
def test_a_mistake_is_named(kind: Callable[[], Any], text: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check_codec(kind, PAIRS)

    assert text in str(raised.value)


def test_an_exception_of_the_codec_has_the_bytes_as_a_note() -> None:
    with pytest.raises(IndexError) as raised:
        check_codec(Raises, PAIRS)

    assert raised.value.__notes__ == ["while Raises decoded b'one' + b'\\ntwo\\n'"]


class NoMaximum(Plain):
    def messages(self) -> Iterator[bytes]:
        self.max_bytes = 1 << 30
        yield from super().messages()


class Quadratic(Plain):
    def receive(self, data: bytes) -> None:
        super().receive(data)
        sum(self.partial)  # it looks at the whole message again


@pytest.mark.parametrize(
    ("kind", "text"),
    [(NoMaximum, "above the maximum, raised nothing, must raise FrameTooLarge"), (Quadratic, "times as much CPU time")],
)
def test_limit_and_cost_are_checked(monkeypatch: pytest.MonkeyPatch, kind: Callable[[], Any], text: str) -> None:
    monkeypatch.setattr("gserver.testing.codec_checks.COST_BYTES", 512)  # 32 KiB would take a minute here
    with pytest.raises(AssertionError, match=text):
        check_codec(kind, PAIRS, limit=limit_of(kind))


def test_what_is_no_codec_is_named() -> None:
    with pytest.raises(ConfigError, match="which is no codec"):
        check_codec(lambda: object(), PAIRS)  # type: ignore[arg-type,return-value]


def test_feed_takes_a_class_a_codec_bytes_and_pieces() -> None:
    codec = Lines()

    assert feed(Lines, b"a\nb\nc") == [b"a", b"b"]
    assert feed(codec, [b"a", b"\nb"]) == [b"a"]
    assert feed(codec, b"c\n") == [b"bc"]
    with pytest.raises(FrameTooLarge, match=re.escape("line of at least 4 bytes, the limit is 3")):
        feed(lambda: Lines(max_bytes=3), b"abcd")
