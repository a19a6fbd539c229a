"""Rate limits: a connection that sends faster is throttled, answered or closed; others are not affected."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from gserver import Service, stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.log_throttling import Notices
from gserver.connection.stream_connection import StreamConnection
from gserver.engine import rate_limiter as meter
from gserver.engine.rate_limiter import RateLimiter
from gserver.errors import CloseReason, LimitExceeded
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Serving, assert_closed

TELLING: dict[str, Any] = {"on_error": lambda fault, conn: str(fault).encode()}


@stream(codec=Lines)
def echo_stream(conn: StreamConnection) -> None:
    try:
        for line in conn:
            conn.send(line)
    except LimitExceeded as error:
        conn.send(str(error).encode())
        raise


def kinds() -> Any:
    return pytest.mark.parametrize("service", [make_echo_lines(**TELLING), echo_stream], ids=["service", "stream"])


@kinds()
def test_a_client_that_sends_too_many_messages_is_throttled(
    serving: Serving, greenlets: str, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_s: list[float] = []

    def wait_unread(limiter: meter.RateLimiter, conn: Connection, seconds: float) -> None:
        if seconds > 0:
            pauses_s.append(seconds)
            gevent.sleep(seconds)

    monkeypatch.setattr(meter.RateLimiter, "wait_unread", wait_unread)
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_message_rate=100))
    fast, other = serving.meet(server), serving.meet(server)
    began = time.monotonic()
    for _ in range(100):  # the messages of one second, which may come at once
        fast.ask(b"x")
    assert pauses_s == []
    for _ in range(30):
        fast.ask(b"x")
    assert time.monotonic() - began >= 0.2
    assert other.ask(b"y") == b"y"


@kinds()
def test_a_client_that_sends_too_many_bytes_is_throttled(serving: Serving, greenlets: str, service: Any) -> None:
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_byte_rate=10_000))
    peer = serving.meet(server)
    began = time.monotonic()
    for _ in range(13):
        assert peer.ask(b"x" * 999) == b"x" * 999

    assert time.monotonic() - began >= 0.2


@kinds()
def test_a_client_that_sends_too_fast_is_answered_and_closed(serving: Serving, greenlets: str, service: Any) -> None:
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_message_rate=5, rate_action="refuse"))
    peer = serving.meet(server)
    for number in range(10):
        peer.send(b"%d\n" % number)
        if peer.read_line() != b"%d" % number:
            break

    assert peer.read_to_end() in (b"", b"more than 5 messages a second\n")
    assert_closed(server, CloseReason.RATE_LIMIT)


def test_a_client_that_sends_too_fast_is_closed_without_an_answer(serving: Serving, greenlets: str) -> None:
    limits = Limits(max_message_rate=5, max_byte_rate=1000, rate_action="close")
    server = serving.start(make_echo_lines(**TELLING), greenlets=greenlets, limits=limits)
    peer = serving.meet(server)
    peer.send(b"x\n" * 10)

    assert peer.read_to_end() == b"x\n" * 10
    assert_closed(server, CloseReason.RATE_LIMIT)


def test_a_throttled_connection_drains_like_any_other(serving: Serving, greenlets: str) -> None:
    limits = Limits(max_message_rate=1)
    server = serving.start(make_echo_lines(), greenlets=greenlets, limits=limits, linger_s=0.1)
    peer = serving.meet(server)
    peer.send(b"x\n" * 50)
    assert peer.read_exactly(100) == b"x\n" * 50
    began = time.monotonic()
    assert server.drain(90.0) == 0

    assert time.monotonic() - began < 60
    assert_closed(server, CloseReason.DRAINED)


def test_the_handler_timeout_does_not_run_while_a_connection_is_throttled(serving: Serving, greenlets: str) -> None:
    deadlines = Deadlines(handler_s=0.1, first_byte_s=0, idle_s=0)
    service = Service(lambda line, conn: line, Lines)
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_message_rate=10), deadlines=deadlines)
    peer = serving.meet(server)
    peer.send(b"x\n" * 16)
    assert peer.read_exactly(32) == b"x\n" * 16

    assert peer.ask(b"y") == b"y"


def test_the_error_names_both_rates() -> None:
    meter = RateLimiter(5, 1000, "refuse")

    assert str(meter.exceeded()) == "more than 5 messages or 1000 bytes a second"
    assert meter.exceeded().close_reason is CloseReason.RATE_LIMIT


def test_without_a_rate_there_is_no_meter() -> None:
    assert RateLimiter.of(Limits(), Notices()) is None
