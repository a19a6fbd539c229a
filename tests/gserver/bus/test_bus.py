"""gserver.bus in one process: who gets what, in which order, and that nobody is disturbed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.event
import msgspec
import pytest

from gserver import (
    CloseReason,
    Connection,
    ConnectionClosed,
    JsonLines,
    JsonService,
    Lines,
    Service,
    StreamConnection,
    bus,
    stream,
)
from gserver.bus import worker_bus
from gserver.counters import Counters, bus_counts
from gserver.testing import Conversation, serve
from tests.helpers.serving import Peer, Serving
from tests.helpers.waiting import wait_until

QUEUE_BYTES = 100_000


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counters]:
    """The counters of the bus of a worker that is alone."""
    monkeypatch.setattr(worker_bus, "_current", None)
    monkeypatch.setattr(worker_bus, "_listening", [])
    counters = Counters()
    started = worker_bus.start(QUEUE_BYTES, counters.cells, lambda: None)
    yield counters
    started.close(0.0)


def counts(counters: Counters) -> tuple[int, int, int]:
    found = bus_counts(counters.cells)
    return found["published"], found["delivered"], found["dropped"]


class Room:
    """A server whose connections subscribe to "room" when they are opened; a line that one sends is published."""

    def __init__(self, serving: Serving, codec: Any = Lines, **options: Any) -> None:
        self.conns: list[Connection] = []
        self._serving = serving
        self.server = serving.start(Service(self._publish, codec, on_open=self._enter), **options)

    def join(self, narrow: bool = False) -> Peer:
        """Return a client that has subscribed; its connection is the last of `conns`."""
        before = len(self.conns)
        peer = self._serving.connect(self.server, narrow)
        wait_until(lambda: len(self.conns) > before)
        return peer

    def _enter(self, conn: Connection) -> None:
        bus.subscribe(conn, "room")
        self.conns.append(conn)

    def _publish(self, message: Any, conn: Connection) -> None:
        bus.publish("room", message)


def test_all_subscribers_get_a_message_also_its_publisher(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    peers = [room.join() for _ in range(3)]
    peers[0].send(b"hello\n")

    assert [peer.read_line() for peer in peers] == [b"hello"] * 3
    assert counts(counters) == (1, 3, 0)


def test_exclude_leaves_out_one_connection(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    one, other = room.join(), room.join()
    bus.publish("room", b"first", exclude=room.conns[0])
    bus.publish("room", b"second")

    assert (one.read_line(), other.read_line(), other.read_line()) == (b"second", b"first", b"second")
    assert counts(counters) == (2, 3, 0)


def test_messages_come_in_the_order_of_their_publishing(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    peer = room.join()
    lines = [b"%d" % number for number in range(300)]
    for line in lines:
        bus.publish("room", line)

    assert [peer.read_line() for _ in lines] == lines


def test_a_topic_without_subscribers_costs_nothing_and_gets_nothing(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    peer = room.join()
    for _ in range(1000):
        bus.publish("elsewhere", bytes(1000))
    bus.publish("room", b"hello")

    assert peer.read_line() == b"hello"
    assert counts(counters) == (1001, 1, 0)


def test_unsubscribe_ends_it_also_for_messages_that_wait(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    one, other = room.join(), room.join()
    bus.publish("room", b"before")
    bus.unsubscribe(room.conns[0], "room")
    bus.unsubscribe(room.conns[0], "room")
    bus.unsubscribe(room.conns[0], "never")
    assert other.read_line() == b"before"
    bus.subscribe(room.conns[0], "room")
    bus.subscribe(room.conns[0], "room")
    bus.publish("room", b"again")

    assert (one.read_line(), other.read_line()) == (b"again", b"again")
    assert counts(counters) == (2, 3, 0)


def test_a_connection_may_have_many_topics(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    peer = room.join()
    for number in range(100):
        bus.subscribe(room.conns[0], f"topic {number}")
        bus.publish(f"topic {number}", b"%d" % number)

    assert [peer.read_line() for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_a_subscription_ends_with_its_connection(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    leaving, staying = room.join(), room.join()
    subscriptions = worker_bus.current()._subscriptions
    bus.subscribe(room.conns[0], "alone")
    assert (len(subscriptions), subscriptions.topics) == (3, [b"room", b"alone"])
    leaving.close()
    wait_until(lambda: len(subscriptions) == 1)
    bus.publish("room", b"hello")

    assert staying.read_line() == b"hello"
    assert subscriptions.topics == [b"room"]
    with pytest.raises(ConnectionClosed):
        bus.subscribe(room.conns[0], "room")
    assert len(subscriptions) == 1


def test_a_member_that_does_not_read_is_closed_by_its_limit_and_delays_nobody(
    serving: Serving, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(serving, narrow=True, send_limit=20_000)
    slow, quick = room.join(narrow=True), room.join()
    for number in range(100):
        bus.publish("room", b"%06d" % number + bytes(2000).replace(b"\0", b"."))
        assert quick.read_line()[:6] == b"%06d" % number
    wait_until(lambda: room.server.counters.closed[CloseReason.BUFFER_LIMIT] == 1)

    assert counts(counters)[2] == 0
    assert len(worker_bus.current()._subscriptions) == 1
    slow.close()


def test_a_message_that_a_codec_cannot_encode_is_missed_by_that_connection_alone(
    serving: Serving, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    lines, json = Room(serving), Room(serving, JsonLines)
    one, other = lines.join(), json.join()
    bus.publish("room", {"text": "hi"})
    bus.publish("room", b"bytes")

    assert (other.read_line(), other.read_line()) == (b'{"text":"hi"}', b'"Ynl0ZXM="')
    assert one.read_line() == b"bytes"
    assert counts(counters) == (2, 3, 1)
    assert "bus: 1 messages not delivered, the last to 127.0.0.1" in caplog.text
    assert "TypeError: a message of Lines must be bytes, not dict" in caplog.text
    assert one.is_answered(b"hello")  # it is still open, and gets what it publishes


class Evil(Lines):
    """Raises what user code may raise."""

    def encode(self, message: bytes) -> bytes:
        if message == b"exit":
            raise SystemExit
        if message == b"kill":
            raise gevent.GreenletExit
        return super().encode(message)


@pytest.mark.parametrize("order", [b"exit", b"kill"])
def test_no_exception_of_a_codec_ends_the_deliveries(serving: Serving, counters: Counters, order: bytes) -> None:
    evil, good = Room(serving, Evil), Room(serving)
    one, other = evil.join(), good.join()
    bus.publish("room", order)
    bus.publish("room", b"next")

    assert (one.read_line(), other.read_line(), other.read_line()) == (b"next", order, b"next")


def test_what_waits_is_bounded(serving: Serving, counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    room = Room(serving)
    peer = room.join()
    for number in range(200):  # without a turn of the event loop
        bus.publish("room", b"%06d" % number + b"." * 994)
    bus.publish("elsewhere", b"nobody misses it")
    received = [
        int(peer.read_line()[:6]) for _ in range(bus_counts(counters.cells)["published"] - 1 - counts(counters)[2])
    ]
    bus.publish("room", b"next")

    assert received == list(range(len(received)))  # the first ones, in order
    assert 70 < len(received) < 100
    assert peer.read_line() == b"next"
    assert "messages dropped: this worker has too much to deliver" in caplog.text


def test_a_message_longer_than_the_queue_is_refused(counters: Counters) -> None:
    bus.publish("room", bytes(QUEUE_BYTES - 300))
    with pytest.raises(ValueError, match=rf"too many for the setting bus_queue, which is {QUEUE_BYTES}"):
        bus.publish("room", bytes(QUEUE_BYTES))


@pytest.mark.parametrize("call", [bus.subscribe, bus.unsubscribe])
def test_topics_are_checked_everywhere(serving: Serving, counters: Counters, call: Any) -> None:
    room = Room(serving)
    room.join()
    for topic in ("", b"room", None, "a" * 256):
        with pytest.raises((TypeError, ValueError), match="topic is"):
            call(room.conns[0], topic)
        with pytest.raises((TypeError, ValueError), match="topic is"):
            bus.publish(topic, b"hello")  # type: ignore[arg-type]


def test_only_connections_of_services_can_subscribe(counters: Counters) -> None:
    with pytest.raises(TypeError, match="conn is 'socket': a subscriber is the connection of a Service"):
        bus.subscribe("socket", "room")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exclude is 5, must be a connection"):
        bus.publish("room", b"hello", exclude=5)  # type: ignore[arg-type]


def test_another_thread_is_refused(counters: Counters) -> None:
    failures = []

    def publish() -> None:
        try:
            bus.publish("room", b"hello")
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join(10)

    assert failures == ["the bus is for the greenlets of the worker: this is another thread"]


def test_stream_handlers_get_messages_while_they_read(serving: Serving, counters: Counters) -> None:
    @stream(codec=Lines)
    def chat(conn: StreamConnection) -> None:
        bus.subscribe(conn, "room")
        conn.send(b"welcome")
        for line in conn:
            bus.publish("room", line)

    server = serving.start(chat)
    one, other = serving.connect(server), serving.connect(server)
    assert (one.read_line(), other.read_line()) == (b"welcome", b"welcome")
    one.send(b"hello\n")

    assert (one.read_line(), other.read_line()) == (b"hello", b"hello")


def test_others_are_served_during_a_fan_out(serving: Serving, counters: Counters) -> None:
    """A fan-out that takes long is interrupted: a client that asks meanwhile is answered before its end."""
    sent: list[int] = []

    class Slow(Lines):
        def encode(self, message: bytes) -> bytes:
            sent.append(1)
            end = time.perf_counter() + 0.002
            while time.perf_counter() < end:
                pass
            return super().encode(message)

    room = Room(serving, Slow)
    peers = [room.join() for _ in range(50)]
    other = serving.meet(serving.start(Service(lambda line, conn: line, Lines)))
    bus.publish("room", b"news")
    gevent.sleep(0)
    assert other.ask(b"ping") == b"ping"
    before = len(sent)

    assert [peer.read_line() for peer in peers] == [b"news"] * 50
    assert before < 40


def test_a_process_that_was_forked_has_a_bus_of_its_own(serving: Serving, counters: Counters) -> None:
    room = Room(serving)
    peer = room.join()
    own = worker_bus.current()
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if worker_bus.current() is not own else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    bus.publish("room", b"hello")

    assert peer.read_line() == b"hello"


def test_functions_get_messages_in_order_one_at_a_time_and_may_block(
    serving: Serving, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Any] = []

    def note(message: Any) -> None:
        gevent.sleep(0.001)
        if message == 3:
            raise ValueError("three")
        got.append(message)

    bus.listen("numbers", note)
    bus.listen("numbers", note)  # once is enough
    room = Room(serving)
    peer = room.join()
    for number in range(6):
        bus.publish("numbers", number)
    bus.publish("room", b"hello")
    assert peer.read_line() == b"hello"
    assert len(got) < 5  # nobody waits for a function that blocks
    wait_until(lambda: got == [0, 1, 2, 4, 5])

    assert counts(counters) == (7, 7, 0)
    assert "ValueError: three" in caplog.text


def test_a_function_that_hangs_misses_what_is_too_much(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    released = gevent.event.Event()
    got: list[int] = []

    def hang(number: int) -> None:
        released.wait()
        got.append(number)

    bus.listen("numbers", hang)
    for number in range(1500):
        bus.publish("numbers", number)
        if number % 100 == 99:
            wait_until(lambda number=number: sum(counts(counters)[1:]) == number + 1)  # type: ignore[misc]
    released.set()
    wait_until(lambda: len(got) == 1001)

    assert got == list(range(1001))
    assert counts(counters) == (1500, 1001, 499)
    assert "ListenerFull: 1000 messages wait for <function" in caplog.text


def test_a_function_may_be_declared_before_the_worker_has_its_bus(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_bus, "_current", None)
    got: list[Any] = []
    bus.listen("early", got.append)
    started = worker_bus.start(QUEUE_BYTES, counters.cells, lambda: None)
    bus.publish("early", {"a": 1})
    wait_until(lambda: got == [{"a": 1}])
    started.close(0.0)

    with pytest.raises(TypeError, match="function is 5, must be a function of one argument"):
        bus.listen("early", 5)  # type: ignore[arg-type]


class Say(msgspec.Struct, tag="say"):
    text: str


api = JsonService()


@api.on
def say(message: Say, conn: Connection) -> None:
    bus.subscribe(conn, "room")
    bus.publish("room", message)


def test_a_typed_message_reaches_clients_as_json() -> None:
    with serve(api) as server, server.connect(JsonLines()) as one:
        one.send({"type": "say", "text": "hi"})

        assert one.recv() == {"type": "say", "text": "hi"}


def test_a_conversation_shows_what_the_bus_delivers() -> None:
    def enter(conn: Connection) -> None:
        bus.subscribe(conn, "room")

    service = Service(lambda line, conn: bus.publish("room", line), Lines, on_open=enter)
    with Conversation(service) as one:
        other = one.another()
        assert one.message(b"hello") == [b"hello"]
        assert other.received == [b"hello"]


def test_two_servers_of_tests_share_nothing() -> None:
    def enter(conn: Connection) -> None:
        bus.subscribe(conn, "room")

    def publish(line: bytes, conn: Connection) -> None:
        bus.publish("room", line)

    service = Service(publish, Lines, on_open=enter)
    with serve(service) as one, serve(service) as other, one.connect() as mine, other.connect() as theirs:
        theirs.send(b"theirs")
        assert theirs.recv() == b"theirs"
        mine.send(b"mine")

        assert mine.recv() == b"mine"


def test_dropped_messages_are_logged_once_in_a_while(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    started = worker_bus.current()
    started.close(0.0)
    for _ in range(5):
        bus.publish("room", b"hello")
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [
        "bus: 1 messages dropped: the worker is about to end"
    ]
    started._notices.log_all()

    assert "bus: 4 messages dropped: the worker is about to end" in caplog.text
