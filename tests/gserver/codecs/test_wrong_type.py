"""Messages of the wrong type: the error of every codec has the type, the required type and a hint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gserver.codecs import (
    CODECS,
    Codec,
    Delimited,
    JsonContentLength,
    JsonLines,
    LengthPrefixed,
    Lines,
    MsgPack,
    Raw,
)

OF_BYTES: dict[str, Callable[[], Codec]] = {
    **{name: codec for name, codec in CODECS.items() if name not in ("json_lines", "msgpack")},
    "lines with crlf": partial(Lines, crlf=True),
    "length with a header": partial(LengthPrefixed, offset=2),
    "several delimiters": partial(Delimited, b";", b"\r\n"),
}


async def later() -> bytes:
    return b"never"


@pytest.mark.parametrize("codec", OF_BYTES.values(), ids=OF_BYTES)
@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("a long text", "must be bytes, not str: use .encode()"),
        ("", "must be bytes, not str: use .encode()"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}, "must be bytes, not dict: use a JSON codec"),
        ([b"one", b"two", b"three", b"four", b"five", b"six"], "must be bytes, not list: "),
        (5, "must be bytes, not int"),
        (5.0, "must be bytes, not float"),
        (True, "must be bytes, not bool"),
        (None, "must be bytes, not NoneType"),
        ((message for message in (b"a", b"b")), "a generator is not run"),
    ],
    ids=lambda value: "" if isinstance(value, str) and " " in value else repr(value)[:12],
)
def test_the_error_names_the_type_and_a_hint(codec: Callable[[], Codec], message: Any, says: str) -> None:
    made = codec()
    with pytest.raises(TypeError) as caught:
        made.encode(message)
    assert str(caught.value).startswith(f"a message of {type(made).__name__} must be bytes, not ")
    assert says in str(caught.value)


@pytest.mark.parametrize("codec", [*OF_BYTES.values(), JsonLines, JsonContentLength, MsgPack])
def test_a_coroutine_has_words_of_its_own_and_is_closed(codec: Callable[[], Codec]) -> None:
    coroutine = later()
    with pytest.raises(TypeError, match="does not await async functions"):
        codec().encode(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("codec", [JsonLines, JsonContentLength])
def test_the_error_names_the_value_that_json_does_not_have(codec: Callable[[], Codec]) -> None:
    with pytest.raises(TypeError, match=r"^a message of Json\w+ must be a JSON value: .*object"):
        codec().encode({"a": object()})


@pytest.mark.parametrize("codec", OF_BYTES.values(), ids=OF_BYTES)
def test_bytes_in_other_clothes_are_bytes(codec: Callable[[], Codec]) -> None:
    plain = codec().encode(b"a message")

    assert codec().encode(bytearray(b"a message")) == plain  # type: ignore[arg-type]


def test_raw_keeps_nothing_that_may_still_change() -> None:
    message = bytearray(b"abc")
    sent = Raw().encode(message)  # type: ignore[arg-type]
    message[:] = b"xyz"

    assert sent == b"abc"
    assert Raw().encode(memoryview(b"abc")) == b"abc"  # type: ignore[arg-type]
