"""A wrong declaration is an error where it is made, in one line with the fault and the line of code."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from gserver.codecs import JsonLines, LengthPrefixed, Lines
from gserver.connection.connection import Connection
from gserver.errors import CloseReason, ConfigError
from gserver.json_service import JsonService
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, StreamService, stream
from gserver.user_errors import check_made_codec, described
from tests.helpers.processes import run_gserver
from tests.helpers.serving import Serving

ANY: Any = None


def answer(message: Any, conn: Any) -> Any:
    return message


async def async_of_one(conn: Any) -> None: ...
async def async_of_two(message: Any, conn: Any) -> None: ...
async def async_of_none() -> None: ...
async def async_generator(message: Any, conn: Any) -> Any:
    yield


def generator(message: Any, conn: Any) -> Iterator[Any]:
    yield message


def of_three(message: Any, conn: Any, third: Any) -> None: ...
def of_none() -> None: ...
def of_one(one: Any) -> None: ...


class AsyncCall:
    async def __call__(self, message: Any, conn: Any) -> None: ...


class Point(msgspec.Struct):
    x: int


def on(handler: Any, *arguments: Any) -> JsonService:
    api = JsonService()
    api.on(*(arguments or ("X",)))(handler)
    return api


ASYNC = "an async function: gserver does not await it"
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "async on_message": (lambda: Service(async_of_two, Lines), f"on_message is async_of_two, {ASYNC}"),
    "async on_open": (lambda: Service(answer, Lines, on_open=async_of_one), f"on_open is async_of_one, {ASYNC}"),
    "async on_close": (lambda: Service(answer, Lines, on_close=async_of_two), f"on_close is async_of_two, {ASYNC}"),
    "async on_error": (lambda: Service(answer, Lines, on_error=async_of_two), f"on_error is async_of_two, {ASYNC}"),
    "async ready": (lambda: Service(answer, Lines, ready=async_of_none), f"ready is async_of_none, {ASYNC}"),
    "async ready of JSON": (lambda: JsonService(ready=async_of_none), f"ready is async_of_none, {ASYNC}"),
    "async stream": (lambda: stream(async_of_one), f"the @stream function is async_of_one, {ASYNC}"),
    "async stream with codec": (
        lambda: stream(codec=Lines)(async_of_one),
        f"the @stream function is async_of_one, {ASYNC}",
    ),
    "async ready of a stream": (lambda: stream(ready=async_of_none)(of_one), f"ready is async_of_none, {ASYNC}"),
    "async handler": (lambda: on(async_of_two), f"the handler of 'X' is async_of_two, {ASYNC}"),
    "async generator": (lambda: Service(async_generator, Lines), f"on_message is async_generator, {ASYNC}"),
    "async partial": (lambda: Service(functools.partial(async_of_two), Lines), "is partial(async_of_two), an async"),
    "async object": (lambda: Service(AsyncCall(), Lines), ASYNC),
    "async mock": (lambda: Service(mock.AsyncMock(), Lines), ASYNC),
    "async codec": (lambda: Service(answer, async_of_none), f"codec is async_of_none, {ASYNC}"),
    "generator": (
        lambda: Service(generator, Lines),
        "on_message is generator, a generator function (it contains",
    ),
    "generator as handler": (lambda: on(generator), "the handler of 'X' is generator, a generator function"),
    "codec object": (lambda: Service(answer, Lines()), "codec is an instance of Lines: each connection needs"),
    "codec object of JSON": (lambda: JsonService(JsonLines()), "codec is an instance of JsonLines"),
    "codec object of a stream": (lambda: stream(codec=Lines())(of_one), "pass the class, codec=Lines, or"),
    "codec by name": (lambda: Service(answer, ANY or "lines"), "codec is 'lines': must be a codec class, such as"),
    "no codec": (lambda: Service(answer, codec=ANY), "codec is None: must be a codec class"),
    "codec with arguments": (lambda: Service(answer, ANY or of_one), "codec is of_one(one: 'Any') -> 'None': must"),
    "arguments in the wrong order": (
        lambda: Service(Lines, answer),
        "on_message is the class Lines, which cannot be called with 2 arguments: must be a function on_message(",
    ),
    "one argument": (lambda: Service(of_one, Lines), "on_message is of_one(one: 'Any') -> 'None', which "),
    "three arguments": (lambda: Service(of_three, Lines), "on_message is of_three("),
    "on_open of two": (lambda: Service(answer, Lines, on_open=answer), "1 argument: must be a function on_open(conn)"),
    "on_close of one": (lambda: Service(answer, Lines, on_close=of_one), "must be a function on_close(conn, reason)"),
    "on_error of one": (lambda: Service(answer, Lines, on_error=of_one), "must be a function on_error(fault, conn)"),
    "ready of one": (lambda: Service(answer, Lines, ready=of_one), "with no arguments: must be a function ready()"),
    "stream of none": (lambda: stream(of_none), "must be a function handler(conn)"),
    "handler of one": (lambda: on(of_one), "the handler of 'X' is of_one("),
    "an object": (lambda: Service(ANY or object(), Lines), "on_message is <object object at "),
    "nothing": (lambda: Service(ANY, Lines), "on_message is None: must be a function on_message(message, conn)"),
    "a call instead of a function": (lambda: Service(answer, Lines, ready=ANY or answer(1, 2)), "ready is 1: must be"),
    "stream of a codec": (lambda: stream(ANY or Lines), "@stream got the class Lines: write @stream(codec=Lines)"),
    "on without a type": (lambda: JsonService().on(ANY or answer), "the handler answer has the annotation Any for its"),
    "on with a handler": (lambda: on(answer, "X", answer), "the shape of 'X' is the function answer: write "),
    "on with an object": (lambda: on(answer, "X", Point(1)), "the shape of 'X' is Point(x=1): must be a type"),
    "async bare": (lambda: TcpServer(("", 0), async_of_two), f"handle is async_of_two, {ASYNC}"),
}


@pytest.mark.parametrize("fault_name", ERRORS)
def test_a_mistake_is_one_line_with_the_place(fault_name: str) -> None:
    make, says = ERRORS[fault_name]
    with pytest.raises(ConfigError) as caught:
        make()
    text = str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert says in text
    assert "\n" not in text
    assert re.search(rf" \({re.escape(__file__)}:\d+\)$", text)


def test_functions_that_may_be_right_are_accepted() -> None:
    """The checks accept everything that they cannot judge."""

    class Handler:
        def __call__(self, message: Any, conn: Any) -> Any:
            return message

        def method(self, message: Any, conn: Any, more: int = 0) -> Any:
            return message

    def with_third(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(message: Any, conn: Any) -> Any:
            return function(message, conn, None)

        return call

    def run(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return None

        return call

    kept: list[Any] = []
    for handler in (
        *(answer, Handler(), Handler().method, with_third(of_three), run(async_of_two), mock.Mock(), print, max),
        *(functools.partial(of_three, third=1), lambda *_: None, lambda message, conn, more=1: None),
    ):
        assert Service(handler, Lines).on_message is handler
        assert on(handler).on_message
    Service(answer, Lines, on_open=kept.append, on_close=print, on_error=lambda *_: b"", ready=kept.clear)
    Service(answer, functools.partial(Lines, max_bytes=9))
    Service(answer, lambda: LengthPrefixed(2))
    StreamService(kept.append)
    on(answer, "X", dict[str, int])


# Codecs


class Whole:
    """A user's own codec."""

    def __init__(self) -> None:
        self.partial = b""

    def receive(self, data: bytes) -> None: ...

    def messages(self) -> Iterator[Any]:
        yield from ()

    def encode(self, message: Any, flag: bool = False) -> bytes:
        return b""

    def eof(self) -> None: ...


class WithoutEof(Whole):
    eof = ANY


class WithoutTwo(Whole):
    eof = encode = ANY


class WithoutPartial(Whole):
    def __init__(self) -> None: ...


class OtherReceive(Whole):
    def receive(self) -> None:  # type: ignore[override]
        ...


class OtherEof(Whole):
    def eof(self, conn: Any) -> None:  # type: ignore[override]
        ...


class AsyncEncode(Whole):
    async def encode(self, message: Any) -> bytes:  # type: ignore[override]
        return b""


class YieldingReceive(Whole):
    def receive(self, data: bytes) -> Iterator[int]:  # type: ignore[override]
        yield 1


class Raises(Whole):
    def __init__(self) -> None:
        raise KeyError("a setting")


CODEC_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "without eof": (WithoutEof, "the codec WithoutEof makes a WithoutEof that has no eof: a codec has receive(data), "),
    "without two": (WithoutTwo, "that has no encode and no eof: "),
    "without partial": (WithoutPartial, "that has no partial: "),
    "receive without data": (OtherReceive, "OtherReceive.receive() -> 'None' must be callable as receive(data) ("),
    "eof with an argument": (OtherEof, "must be callable as eof() ("),
    "async encode": (AsyncEncode, f"the codec's method AsyncEncode.encode is {ASYNC}"),
    "receive that yields": (YieldingReceive, "the codec's method YieldingReceive.receive is a generator function"),
    "raises": (Raises, f"the codec Raises cannot be made: KeyError: 'a setting' ({__file__}:"),
    "a class": (lambda: Lines, "the codec <lambda> makes <class 'gserver.codecs.lines.Lines'>, which is no codec ("),
    "nothing": (lambda: None, "makes None, which is no codec ("),
}


@pytest.mark.parametrize("fault_name", CODEC_ERRORS)
def test_an_invalid_codec_is_one_line(fault_name: str) -> None:
    codec, says = CODEC_ERRORS[fault_name]
    with pytest.raises(ConfigError) as caught:
        check_made_codec(codec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", [Whole, Lines, functools.partial(Lines, max_bytes=5), lambda: JsonLines()])
def test_a_codec_that_keeps_the_contract_passes(codec: Callable[[], Any]) -> None:
    check_made_codec(codec)


# In a worker and at a call


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("async def f(line, conn): ...\napp = Service(f, Lines)", "on_message is f, an async function"),
        ("app = Service(lambda line, conn: line, Lines())", "codec is an instance of Lines"),
        ("def app(line, conn): return line", "expected Service(app, codec=...)"),
        ("class C(Lines):\n    eof = None\napp = Service(lambda line, conn: line, C)", "makes a C that has no eof"),
        ("app = Service(lambda line, conn: line, Lines, probe=1)", "the probe 1 cannot be encoded by the codec Lines"),
    ],
    ids=["async", "codec object", "bare", "codec", "probe"],
)
def test_a_worker_logs_the_error_in_one_line_and_does_not_start(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "app.py").write_text(f"from gserver import Lines, Service\n{source}\n")
    ended = run_gserver("app:app", "-b", "127.0.0.1:0", cwd=tmp_path)

    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    (first, *_) = (line for line in ended.stderr.splitlines() if "[ERROR]" in line)
    assert says in first


def test_an_exception_of_ready_is_not_reported_as_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from gserver import Lines, Service\ndef ready():\n    raise OSError('no database')\n"
        "app = Service(lambda line, conn: line, Lines, ready=ready)\n"
    )
    ended = run_gserver("app:app", "-b", "127.0.0.1:0", cwd=tmp_path)

    assert f"[ERROR] ready() raised OSError: no database ({tmp_path}/app.py:3)\nTraceback" in ended.stderr
    assert "imported" not in ended.stderr


def test_a_reply_of_the_wrong_type_fails_only_its_own_connection(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Raw sends bytes as they are, and must reject values that are not bytes."""

    def shout(data: bytes, conn: Connection) -> Any:
        return data.decode() if data == b"text" else data

    server = serving.start(Service(shout), greenlets=greenlets)
    wrong, right = serving.meet(server), serving.meet(server)
    with caplog.at_level(logging.ERROR):
        wrong.send(b"text")
        assert wrong.read_to_end() == b""
    right.send(b"bytes")
    assert right.read() == b"bytes"

    assert "a message of Raw must be bytes, not str: use .encode()" in caplog.text
    assert server.counters.closed == {CloseReason.HANDLER_ERROR: 1}
    assert server.counters.errors == 1


def test_the_return_value_of_a_bare_handler_is_warned_of_once(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server = serving.start(lambda a, b: b"for whom?")
    for _ in range(3):
        assert serving.meet(server).read_to_end() == b""

    (said,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert said.startswith("The bare handler <lambda> returned bytes, which is not sent")
    assert "Service(<lambda>, codec=...)" in said


def fault(make: Callable[[], Any]) -> str:
    with pytest.raises((TypeError, SyntaxError)) as caught:
        make()
    return described(caught.value)


def test_an_exception_is_described_with_the_line_that_raised_it() -> None:
    encoding = fault(lambda: JsonLines().encode(object()))
    line = sys._getframe().f_lineno - 1

    assert encoding.endswith(f"({__file__}:{line})")
    assert fault(lambda: compile("x = (", "some.py", "exec")) == "SyntaxError: '(' was never closed (some.py:1)"
