"""An exception of user code, wherever it is called, ends at most its own connection."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import logging
import signal
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gserver import fault_isolation
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, HandlerTimeout
from gserver.limits.deadlines import Deadlines
from gserver.service import Service, stream
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until

ERRORS = [
    RuntimeError("a bug"),
    asyncio.CancelledError(),
    GeneratorExit(),
    SystemExit(3),
    KeyboardInterrupt(),
    gevent.GreenletExit(),
    gevent.Timeout(),
    HandlerTimeout("from somewhere else"),
]
#: Where it raises, its name in the log, and whether the peer is answered.
PLACES = [
    ("on_open", "on_open", True),
    ("on_message", "handler", True),
    ("on_close", "on_close", False),
    ("codec", "codec", False),
    ("receive", "codec", True),
    ("messages", "codec", True),
    ("partial", "codec", True),
    ("eof", "codec", True),
    ("encode", "handler", True),
]


@pytest.fixture(autouse=True)
def _ctrl_c_is_ignored() -> Iterator[None]:
    """As in a worker."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


class Trap:
    """A service of lines that raises at one place, for one connection."""

    def __init__(self, place: str, error: BaseException) -> None:
        self.place = place
        self.error = error
        self.is_armed = False
        self.faults: list[BaseException] = []

    def at(self, place: str) -> None:
        if self.is_armed and place == self.place:
            raise self.error

    def service(self) -> Service:
        trap = self

        class Codec:
            def __init__(self) -> None:
                trap.at("codec")
                self._lines = Lines()

            def receive(self, data: bytes) -> None:
                trap.at("receive")
                self._lines.receive(data)

            def messages(self) -> Iterator[bytes]:
                yield from self._lines.messages()
                trap.at("messages")

            def encode(self, message: bytes) -> bytes:
                if message != b"sorry":
                    trap.at("encode")
                return self._lines.encode(message)

            def eof(self) -> None:
                trap.at("eof")
                self._lines.eof()

            @property
            def partial(self) -> bool:
                trap.at("partial")
                return bool(self._lines.partial)

        return Service(
            self._on_message,
            Codec,
            on_open=lambda conn: self.at("on_open"),
            on_close=lambda conn, reason: self.at("on_close"),
            on_error=self._on_error,
        )

    def _on_message(self, line: bytes, conn: Connection) -> bytes:
        self.at("on_message")
        return line

    def _on_error(self, fault: Any, conn: Connection) -> bytes:
        self.faults.append(fault)
        return b"sorry"


def name_of(peer: Peer) -> str:
    host, port = peer.sock.getsockname()
    return f"{host}:{port}"


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of the errors. The id of a connection is removed, after a check that the message names it."""
    return [_without_id(record) for record in caplog.records if record.levelno >= logging.ERROR]


def _without_id(record: logging.LogRecord) -> str:
    message, conn = record.getMessage(), getattr(record, "connection", None)
    if conn is None:
        return message
    assert f"{vars(record)['peer']} ({conn})" in message
    return message.replace(f" ({conn})", "")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("place", "what", "is_answered"), PLACES, ids=lambda each: str(each))
def test_it_is_logged_once_counted_answered_and_ends_its_connection(
    serving: Serving,
    greenlets: str,
    caplog: pytest.LogCaptureFixture,
    place: str,
    what: str,
    is_answered: bool,
    error: BaseException,
) -> None:
    trap = Trap(place, error)
    server = serving.start(trap.service(), greenlets=greenlets)
    other = serving.meet(server)
    assert other.ask(b"hello") == b"hello"
    trap.is_armed = True
    peer = serving.connect(server)
    peer.send(b"hello\n")
    peer.finish()
    received = peer.read_to_end()
    wait_until(lambda: server.counters.open == 1 and server.counters.errors)
    trap.is_armed = False

    assert logged(caplog) == [f"{what} failed for {name_of(peer)}"]
    assert server.counters.errors == 1
    assert (b"sorry" in received) == is_answered
    assert trap.faults == [error] * is_answered
    assert other.ask(b"still there") == b"still there"


def test_an_on_error_that_fails_as_well_ends_the_connection(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> bytes:
        raise SystemExit

    server = serving.start(Service(fail, Lines, on_error=fail), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"hello\nhello\n")

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1}
    assert logged(caplog) == [f"handler failed for {name_of(peer)}", f"on_error failed for {name_of(peer)}"]


def test_replies_before_an_exception_of_the_codec_are_sent(serving: Serving, greenlets: str) -> None:
    class Codec(Lines):
        def messages(self) -> Iterator[bytes]:
            for line in super().messages():
                if line == b"bad":
                    raise KeyError(line)
                yield line

    server = serving.start(Service(lambda line, conn: line, Codec), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"one\ntwo\nbad\nthree\n")

    assert peer.read_to_end() == b"one\ntwo\n"
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1}
    assert server.counters.messages == 2


@pytest.mark.parametrize("encoded", ["text", None, bytearray(b"bytes")])
def test_a_codec_that_does_not_encode_to_bytes_is_reported(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, encoded: Any
) -> None:
    class Codec(Lines):
        def encode(self, message: bytes) -> bytes:
            return encoded  # type: ignore[no-any-return]

    server = serving.start(Service(lambda line, conn: line, Codec), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"hello\n")

    assert peer.read_to_end() == b""
    assert f"encode() of the codec Codec returned {type(encoded).__name__}, must be bytes" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_stream_handler_that_raises_anything_ends_its_connection(
    serving: Serving, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    @stream(codec=Lines)
    def handle(conn: StreamConnection) -> None:
        for line in conn:
            if line == b"raise":
                raise error
            conn.send(line)

    server = serving.start(handle)
    other, peer = serving.meet(server), serving.connect(server)
    assert other.ask(b"hello") == b"hello"
    peer.send(b"raise\n")

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1}
    assert logged(caplog) == [f"stream handler failed for {name_of(peer)}"]
    assert server.counters.errors == 1
    assert other.ask(b"hello") == b"hello"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_deadlines_work_after_a_handler_raised_something_else_when_interrupted(
    serving: Serving, greenlets: str, error: BaseException
) -> None:
    def hang(line: bytes, conn: Connection) -> bytes:
        try:
            gevent.sleep(60)
        except BaseException:
            raise error from None
        return line

    deadlines = Deadlines(first_byte_s=0.3, handler_s=0.1)
    server = serving.start(Service(hang, Lines), greenlets=greenlets, deadlines=deadlines)
    peer = serving.meet(server)
    peer.send(b"hang\n")
    assert peer.read_to_end() == b""

    assert serving.connect(server).read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1, CloseReason.FIRST_BYTE_TIMEOUT: 1}


def test_deadlines_work_after_a_codec_failed_during_a_check(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """`partial` is user code too, and is read when a deadline is checked."""
    fails = False

    class Codec:
        def __init__(self) -> None:
            lines = Lines()
            self.receive, self.messages, self.encode, self.eof = lines.receive, lines.messages, lines.encode, lines.eof

        @property
        def partial(self) -> bool:
            if fails:
                raise SystemExit
            return True

    deadlines = Deadlines(first_byte_s=0, message_s=0.1, idle_s=0.1)
    server = serving.start(Service(lambda line, conn: line, Codec), deadlines=deadlines)
    first = serving.meet(server)
    assert first.ask(b"hello") == b"hello"
    fails = True

    assert first.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1}
    fails = False
    assert serving.connect(server).read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1, CloseReason.IDLE_TIMEOUT: 1}
    assert len(logged(caplog)) == 1


# Callbacks of the hub


def test_an_exception_of_a_shielded_callback_is_logged_and_not_propagated(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise SystemExit

    assert not fault_isolation.shielded("the heartbeat", fail)
    assert fault_isolation.shielded("the heartbeat", print)
    assert logged(caplog) == ["the heartbeat failed"]


def test_in_a_worker_an_exception_of_a_greenlet_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gevent.get_hub(), "handle_error", None, raising=False)
    fault_isolation.log_hub_errors()

    def leave() -> None:
        raise SystemExit(3)

    for run in (leave, lambda: asyncio.run(asyncio.sleep("x"))):  # type: ignore[arg-type]
        gevent.spawn(run).join()
    gevent.get_hub().loop.run_callback(leave)
    gevent.sleep(0.001)

    assert len(logged(caplog)) == 3
    assert "leave" in logged(caplog)[0]


def test_ctrl_c_during_a_handler_still_ends_the_program(serving: Serving, greenlets: str) -> None:
    def interrupted(line: bytes, conn: Connection) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return line

    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = serving.start(Service(interrupted, Lines), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"hello\n")

    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(5)
    assert closed_reasons(server) == {CloseReason.HANDLER_ERROR: 1}


# Context variables

USER: contextvars.ContextVar[bytes] = contextvars.ContextVar("USER", default=b"nobody")


def remember(line: bytes, conn: Connection) -> bytes:
    word, _, name = line.partition(b" ")
    if word == b"login":
        USER.set(name)
        decimal.getcontext().prec = 5
    elif word == b"block":
        gevent.sleep(0.01)
    return b"%s %d" % (USER.get(), decimal.getcontext().prec)


def test_a_context_variable_is_seen_by_its_connection_alone(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(remember, Lines), greenlets=greenlets)
    alice, bob = serving.meet(server), serving.meet(server)

    assert alice.ask(b"login alice") == b"alice 5"
    assert bob.ask(b"who") == b"nobody 28"
    assert bob.ask(b"login bob") == b"bob 5"
    assert [alice.ask(b"who"), bob.ask(b"who")] == [b"alice 5", b"bob 5"]


def test_a_handler_that_blocks_keeps_its_context(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(remember, Lines), greenlets=greenlets)
    peers = {b"user%d" % number: serving.meet(server) for number in range(20)}
    for name, peer in peers.items():
        peer.send(b"login %s\nblock\nwho\n" % name)

    for name, peer in peers.items():
        assert [peer.read_line() for _ in range(3)] == [name + b" 5"] * 3
    assert serving.connect(server).ask(b"who") == b"nobody 28"


def test_all_callbacks_of_a_connection_share_its_context(serving: Serving, greenlets: str) -> None:
    seen: list[tuple[str, bytes]] = []

    def note(place: str) -> None:
        seen.append((place, USER.get()))

    def opened(conn: Connection) -> None:
        USER.set(b"from on_open")
        gevent.sleep(0)

    def failing(line: bytes, conn: Connection) -> None:
        note("on_message")
        raise ValueError

    service = Service(
        failing,
        Lines,
        on_open=opened,
        on_error=lambda fault, conn: note("on_error"),
        on_close=lambda conn, reason: note("on_close"),
    )
    server = serving.start(service, greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"hello\n")
    peer.read_to_end()
    wait_until(lambda: len(seen) == 3)

    assert seen == [(place, b"from on_open") for place in ("on_message", "on_error", "on_close")]


def test_streams_have_a_context_each(serving: Serving) -> None:
    @stream(codec=Lines)
    def handle(conn: StreamConnection) -> None:
        for line in conn:
            conn.send(remember(line, conn))

    server = serving.start(handle)
    alice, bob = serving.meet(server), serving.meet(server)

    assert alice.ask(b"login alice") == b"alice 5"
    assert bob.ask(b"who") == b"nobody 28"
    assert alice.ask(b"who") == b"alice 5"


def test_the_context_of_a_killed_handler_is_not_passed_on(serving: Serving, greenlets: str) -> None:
    def hang(line: bytes, conn: Connection) -> bytes:
        if line == b"who":
            return USER.get()
        USER.set(line)
        gevent.sleep(60)
        return line

    deadlines = Deadlines(handler_s=0.1)
    server = serving.start(Service(hang, Lines), greenlets=greenlets, deadlines=deadlines)
    for _ in range(3):
        peer = serving.meet(server)
        peer.send(b"alice\n")
        peer.read_to_end()

    assert [serving.connect(server).ask(b"who") for _ in range(5)] == [b"nobody"] * 5
