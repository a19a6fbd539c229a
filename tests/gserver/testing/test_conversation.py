from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event

from gserver import (
    CloseReason,
    ConfigError,
    ConnectionClosed,
    HandlerTimeout,
    JsonService,
    Lines,
    MsgPack,
    ProtocolError,
    Raw,
    Service,
    stream,
)
from gserver.testing import Conversation, serve
from tests.helpers.services import make_echo_lines, make_lines


def sleepy(line: bytes, conn: Any) -> bytes:
    gevent.sleep(float(line))
    return line


def test_messages_and_parts_of_messages() -> None:
    with Conversation(make_echo_lines()) as conv:
        assert conv.send(b"one\ntw") == [b"one"]
        assert conv.send(b"o\n") == [b"two"]
        assert conv.message(b"three", b"four") == [b"three", b"four"]
        assert conv.received == [b"one", b"two", b"three", b"four"]
        assert conv.received_bytes == b"one\ntwo\nthree\nfour\n"
        assert (conv.conn.messages, conv.conn.peer) == (4, ("127.0.0.1", 50000))


def test_the_listener_of_the_connection_is_chosen() -> None:
    names = make_lines(lambda line, conn: conn.listener.encode())
    with Conversation(names) as conv:
        assert conv.message(b"?") == [b"conversation"]
    with Conversation(names, listener="admin") as conv:
        assert conv.message(b"?") == [b"admin"]
        assert conv.another().message(b"?") == [b"admin"]


def test_a_day_takes_no_time() -> None:
    began = time.perf_counter()
    with Conversation(make_lines(sleepy), handler_timeout=0) as conv:
        assert conv.message(b"86400") == []
        assert conv.advance(86399) == []
        assert conv.advance(1) == [b"86400"]

    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("greenlets", ["pooled", "dedicated"])
def test_the_deadlines_of_gserver(greenlets: str) -> None:
    with Conversation(make_echo_lines(), greenlets=greenlets, idle_timeout=60, message_timeout=10) as conv:
        conv.message(b"x")
        conv.advance(59)
        assert not conv.is_closed
        conv.message(b"y")
        conv.advance(59)
        conv.send(b"half")
        conv.advance(9)
        assert not conv.is_closed
        conv.advance(1)
        assert (conv.is_closed, conv.close_reason) == (True, CloseReason.MESSAGE_TIMEOUT)

    with Conversation(make_echo_lines(), greenlets=greenlets) as conv:
        conv.advance(30)
        assert conv.close_reason is CloseReason.FIRST_BYTE_TIMEOUT


def test_a_handler_that_takes_too_long() -> None:
    service = make_lines(sleepy, on_error=lambda fault, conn: type(fault).__name__.encode())
    with Conversation(service, handler_timeout=5) as conv:
        conv.message(b"10")
        assert conv.advance(4.7) == []
        assert conv.advance(0.5) == [b"HandlerTimeout"]
        assert conv.close_reason is CloseReason.HANDLER_TIMEOUT
        assert isinstance(conv.errors.pop(), HandlerTimeout)


def test_a_deadline_of_the_service() -> None:
    def handle(line: bytes, conn: Any) -> bytes:
        conn.set_deadline(None)
        return b"welcome"

    service = make_lines(handle, on_open=lambda conn: conn.set_deadline(10))
    with Conversation(service, first_byte_timeout=0) as late, Conversation(service, idle_timeout=0) as early:
        late.advance(10.25)
        assert late.close_reason is CloseReason.DEADLINE
        assert early.message(b"login") == [b"welcome"]
        early.advance(10_000)
        assert not early.is_closed


def test_tasks_and_concurrency() -> None:
    def handle(line: bytes, conn: Any) -> None:
        conn.spawn(later, line, conn)

    def later(line: bytes, conn: Any) -> None:
        gevent.sleep(float(line))
        conn.send(line)

    with Conversation(make_lines(handle)) as conv:
        conv.message(b"3", b"1", b"2")
        assert [conv.advance(1), conv.advance(1), conv.advance(1)] == [[b"1"], [b"2"], [b"3"]]
    with Conversation(Service(sleepy, Lines, concurrency=2)) as conv:
        conv.message(b"3", b"1", b"1")
        assert [conv.advance(1), conv.advance(1), conv.advance(1)] == [[b"1"], [b"1"], [b"3"]]
    with Conversation(Service(sleepy, Lines, concurrency=3, ordered=True)) as conv:
        conv.message(b"3", b"1", b"2")
        assert [conv.advance(2), conv.advance(1)] == [[], [b"3", b"1", b"2"]]


def test_a_drain_answers_and_sends_the_last_words() -> None:
    with Conversation(make_lines(sleepy, on_drain=lambda conn: conn.send(b"bye"))) as conv:
        conv.message(b"2")
        assert conv.drain() == []
        assert conv.advance(2) == [b"2", b"bye"]
        assert (conv.is_closed, conv.close_reason) == (True, CloseReason.DRAINED)


def test_a_drain_kills_what_does_not_end() -> None:
    with Conversation(make_lines(sleepy), graceful_timeout=3) as conv:
        conv.message(b"100")
        conv.drain()
        conv.advance(3)
        assert conv.close_reason is CloseReason.KILLED


def test_a_slow_reader() -> None:
    with Conversation(make_lines(lambda line, conn: line * 1000), write_timeout=30) as conv:
        conv.pause_reading()
        conv.message(*[b"x" * 1000] * 10)
        conv.advance(29)
        assert not conv.is_closed
        conv.advance(10)
        assert conv.close_reason is CloseReason.WRITE_TIMEOUT


def test_a_slow_reader_that_reads_at_last() -> None:
    with Conversation(Service(lambda data, conn: bytes(1_000_000), Raw)) as conv:
        conv.pause_reading()
        assert conv.send(b"x") == []
        conv.advance(20)
        assert sum(map(len, conv.resume_reading())) == 1_000_000
        assert not conv.is_closed


def test_a_service_that_does_not_read_holds_the_client_back() -> None:
    with Conversation(Service(lambda data, conn: gevent.sleep(10), Raw)) as conv:
        conv.send(bytes(10_000_000))
        assert conv.unsent_bytes > 5_000_000
        conv.advance(10_000)
        assert conv.unsent_bytes == 0
        assert conv.conn.received_bytes == 10_000_000


def test_the_end_and_a_reset_by_the_client() -> None:
    with Conversation(make_echo_lines()) as conv:
        conv.message(b"x")
        assert conv.finish() == []
        assert conv.close_reason is CloseReason.PEER_EOF
    with Conversation(make_echo_lines()) as conv:
        conv.send(b"half")
        conv.finish()
        assert conv.close_reason is CloseReason.EOF_IN_MESSAGE
    with Conversation(make_echo_lines()) as conv:
        conv.message(b"x")
        conv.reset()
        assert conv.close_reason is CloseReason.PEER_RESET


def test_a_reset_while_a_handler_runs() -> None:
    seen: list[Any] = []

    def handle(line: bytes, conn: Any) -> None:
        gevent.sleep(1)
        conn.send(b"a")
        try:
            conn.send(b"b")
        except ConnectionClosed as error:
            seen.append(error.reason)

    with Conversation(make_lines(handle)) as conv:
        conv.message(b"x")
        conv.reset()
        conv.advance(1)

    assert seen == [CloseReason.PEER_RESET]


def test_nothing_is_sent_on_a_closed_connection() -> None:
    with Conversation(make_lines(lambda line, conn: conn.close())) as conv:
        conv.message(b"x")
        with pytest.raises(ConnectionClosed, match="the connection is closed: finished"):
            conv.message(b"y")


def test_several_connections_share_the_server_and_the_clock() -> None:
    members: list[Any] = []

    def say(line: bytes, conn: Any) -> None:
        for member in members:
            member.send_nowait(line)

    with Conversation(make_lines(say, on_open=members.append), idle_timeout=10) as alice:
        bob = alice.another(peer=("192.0.2.7", 1))
        assert bob.conn.peer == ("192.0.2.7", 1)
        assert alice.message(b"hi") == [b"hi"]
        assert bob.received == [b"hi"]
        alice.advance(10)
        assert (alice.is_closed, bob.is_closed) == (True, True)


def test_limits_by_address() -> None:
    with Conversation(make_echo_lines(), deny=["192.0.2.0/24"]) as conv:
        assert conv.another(peer=("192.0.2.7", 1)).close_reason is CloseReason.DENIED


def test_rates_follow_the_clock() -> None:
    with Conversation(make_echo_lines(), max_message_rate=1) as conv:
        assert conv.message(b"1", b"2") == [b"1", b"2"]
        assert conv.message(b"3") == []
        assert conv.advance(2) == [b"3"]


def test_the_functions_of_time_follow_the_clock_in_the_service_only() -> None:
    def handle(line: bytes, conn: Any) -> bytes:
        began, wall = time.monotonic(), time.time()
        time.sleep(100)
        return b"%.3f %.3f" % (time.monotonic() - began, time.time() - wall)

    real = time.monotonic, time.time, time.sleep
    with Conversation(make_lines(handle), handler_timeout=0) as conv:
        conv.message(b"x")
        assert conv.advance(100) == [b"100.000 100.000"]
        assert (time.monotonic, time.time, time.sleep) == real


def test_another_thread_keeps_the_real_time() -> None:
    seen: list[float] = []

    def handle(line: bytes, conn: Any) -> bytes:
        thread = threading.Thread(target=lambda: seen.append(time.monotonic()))
        thread.start()
        thread.join()
        return line

    began = time.monotonic()
    with Conversation(make_lines(handle)) as conv:
        conv.advance(25)
        conv.message(b"x")

    assert began <= seen[0] <= time.monotonic()


def test_beside_a_real_server() -> None:
    with serve(make_echo_lines(), idle_timeout=600) as server, Conversation(make_echo_lines(), idle_timeout=0) as conv:
        client = server.connect()
        for _ in range(50):
            assert client.call(b"x") == b"x"
            assert conv.message(b"y") == [b"y"]
            conv.advance(1000)
        assert server.open == 1


def test_a_handler_that_waits_for_the_test() -> None:
    opened = Event()

    def handle(line: bytes, conn: Any) -> bytes:
        return b"open" if opened.wait(60) else b"late"

    with Conversation(make_lines(handle), handler_timeout=0) as conv:
        assert conv.message(b"x") == []
        opened.set()
        assert conv.advance(0) == [b"open"]
        opened.clear()
        conv.message(b"x")
        assert conv.advance(60) == [b"late"]


def test_timeouts_of_gevent() -> None:
    def handle(line: bytes, conn: Any) -> bytes:
        with pytest.raises(gevent.Timeout), gevent.Timeout(5):
            gevent.sleep(50)
        return b"on time"

    with Conversation(make_lines(handle)) as conv:
        conv.message(b"x")
        assert (conv.advance(4.9), conv.advance(0.1)) == ([], [b"on time"])


def fail(line: bytes, conn: Any) -> None:
    raise ValueError(f"cannot handle {line!r}")


def run(service: Any, talk: Callable[[Conversation], object], **settings: Any) -> None:
    with Conversation(service, **settings) as conv:
        talk(conv)


def test_an_exception_of_a_handler_fails_the_test_with_the_users_line() -> None:
    with pytest.raises(AssertionError) as raised:
        run(make_lines(fail), lambda conv: conv.message(b"x"))

    assert f"ValueError: cannot handle b'x' ({__file__}:" in str(raised.value)
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_handler_that_does_not_end_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"still busy after graceful_timeout \(5 s\), and were killed: 1"):
        run(make_lines(sleepy), lambda conv: conv.message(b"60"))


def test_a_service_that_does_not_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gserver.testing.conversation.MOST_CALLBACKS", 100)
    over: list[int] = []

    def spin(line: bytes, conn: Any) -> None:
        while not over:
            gevent.sleep(0)

    with Conversation(make_lines(spin)) as conv:
        with pytest.raises(AssertionError, match="does not come to rest: 100 callbacks"):
            conv.message(b"x")
        over.append(1)


def test_a_handler_cannot_use_the_conversation() -> None:
    convs: list[Conversation] = []

    def handle(line: bytes, conn: Any) -> bytes:
        with pytest.raises(RuntimeError, match="only the test may use it"):
            convs[0].message(b"y")
        return b"ok"

    with Conversation(make_lines(handle)) as conv:
        convs.append(conv)
        assert conv.message(b"x") == [b"ok"]


def test_ready_and_stop() -> None:
    calls: list[str] = []
    service = make_echo_lines(ready=lambda: calls.append("ready"), stop=lambda: calls.append("stop"))
    with Conversation(service):
        assert calls == ["ready"]

    assert calls == ["ready", "stop"]


def test_a_failure_of_ready() -> None:
    def fail_to_start() -> None:
        raise OSError("no database")

    with pytest.raises(ConfigError, match="OSError: no database"):
        run(make_echo_lines(ready=fail_to_start), lambda conv: None)
    with pytest.raises(ConfigError, match=r"ready\(\) has not returned"):
        run(make_echo_lines(ready=lambda: gevent.sleep(1)), lambda conv: None)


def test_what_needs_a_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"use serve\(\)"):
        Conversation(lambda sock, address: None)
    with pytest.raises(ConfigError, match=r"certfile .*: use serve\(\)"):
        Conversation(make_echo_lines(), certfile=__file__)
    with pytest.raises(ValueError, match="seconds is -1"):
        run(make_echo_lines(), lambda conv: conv.advance(-1))


def test_invalid_replies_are_reported_at_the_call() -> None:
    with pytest.raises(ProtocolError):
        run(make_lines(lambda line, conn: b"x" * 100), lambda conv: conv.message(b"x"), codec=Lines(max_bytes=10))


class Add(msgspec.Struct, tag=True):
    a: int
    b: int


def test_typed_messages() -> None:
    api = JsonService(MsgPack)

    @api.on
    def add(message: Add, conn: Any) -> Any:
        return message.a + message.b

    with Conversation(api) as conv:
        assert conv.message(Add(1, 2)) == [3]
        assert conv.message({"type": "Add", "a": "1", "b": 2})[0]["status"] == "ERROR"


def test_streams() -> None:
    @stream(codec=Lines)
    def handle(conn: Any) -> None:
        conn.send(b"hello")
        for line in conn:
            gevent.sleep(1)
            conn.send(line)
        conn.send(b"bye")

    with Conversation(handle) as conv:
        assert conv.received == [b"hello"]
        conv.message(b"a", b"b")
        assert conv.advance(2) == [b"a", b"b"]
        assert conv.drain() == [b"bye"]
        assert conv.close_reason is CloseReason.DRAINED


def test_in_a_greenlet_of_another_hub() -> None:
    def talk() -> list[Any]:
        with Conversation(make_lines(sleepy)) as conv:
            conv.message(b"5")
            gevent.sleep(0.001)
            return conv.advance(5)

    talks = [gevent.spawn(talk) for _ in range(3)]
    assert [each.get() for each in talks] == [[b"5"]] * 3
