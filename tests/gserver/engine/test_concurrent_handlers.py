"""Service(concurrency=...): several messages of one connection are handled at the same time."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from gserver.codecs import JsonLines, Lines
from gserver.connection.connection import Connection
from gserver.counters import SAMPLED_ONE_OF, handler_times
from gserver.errors import CloseReason, DeclarationError
from gserver.json_service import JsonService
from gserver.limits.deadlines import Deadlines
from gserver.service import Fault, Service
from tests.helpers.serving import Serving, assert_closed, closed_reasons
from tests.helpers.waiting import wait_until


class Gates:
    """A handler that waits for the gate of its line; a gate is opened by its line."""

    def __init__(self) -> None:
        self.gates: dict[bytes, Event] = {}
        self.running: set[bytes] = set()
        self.most = 0

    def handle(self, line: bytes, conn: Connection) -> bytes:
        self.running.add(line)
        self.most = max(self.most, len(self.running))
        try:
            self.gate(line).wait()
        finally:
            self.running.discard(line)
        if line.startswith(b"bad"):
            raise RuntimeError(line.decode())
        return line.upper()

    def gate(self, line: bytes) -> Event:
        return self.gates.setdefault(line, Event())

    def open(self, *lines: bytes) -> None:
        for line in lines:
            self.gate(line).set()


@pytest.fixture
def gates() -> Gates:
    return Gates()


def on_error(fault: Fault, conn: Connection) -> bytes:
    return b"error: %b" % str(fault).encode()


def test_replies_are_sent_in_the_order_in_which_they_are_ready(serving: Serving, gates: Gates, greenlets: str) -> None:
    server = serving.start(Service(gates.handle, codec=Lines, concurrency=3), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"a\nb\nc\n")
    wait_until(lambda: gates.running == {b"a", b"b", b"c"})
    for line in (b"c", b"a", b"b"):
        gates.open(line)
        assert peer.read_line() == line.upper()
    assert server.counters.messages == 3


def test_ordered_replies_are_sent_in_the_order_of_their_messages(
    serving: Serving, gates: Gates, greenlets: str
) -> None:
    service = Service(gates.handle, codec=Lines, concurrency=3, ordered=True, on_error=on_error)
    peer = serving.connect(serving.start(service, greenlets=greenlets))
    peer.send(b"a\nbad\nc\n")
    wait_until(lambda: gates.running == {b"a", b"bad", b"c"})
    gates.open(b"c", b"bad")
    wait_until(lambda: gates.running == {b"a"})
    gates.open(b"a")

    assert [peer.read_line() for _ in range(3)] == [b"A", b"error: bad", b"C"]


@pytest.mark.parametrize("ordered", [False, True])
def test_no_more_messages_are_handled_at_once_than_are_allowed(
    serving: Serving, gates: Gates, greenlets: str, ordered: bool
) -> None:
    server = serving.start(Service(gates.handle, codec=Lines, concurrency=2, ordered=ordered), greenlets=greenlets)
    peer = serving.connect(server)
    lines = [b"%d" % number for number in range(200)]
    peer.send(b"".join(line + b"\n" for line in lines))
    wait_until(lambda: len(gates.running) == 2)
    other = serving.connect(server)
    other.send(b"other\n")
    gates.open(b"other")
    assert other.read_line() == b"OTHER"
    gates.open(*lines)
    replies = [peer.read_line() for _ in lines]

    assert (replies if ordered else sorted(replies, key=int)) == lines
    assert gates.most <= 3  # two of the one, and the other connection's


def test_a_peer_that_ends_and_a_drain_get_all_replies(serving: Serving, gates: Gates) -> None:
    server = serving.start(Service(gates.handle, codec=Lines, concurrency=2))
    ended, drained = serving.connect(server), serving.connect(server)
    ended.send(b"a\nb\nc\n")
    ended.finish()
    drained.send(b"d\ne\nf\n")
    wait_until(lambda: len(gates.running) == 4)
    drain = gevent.spawn(server.drain, 30)
    wait_until(lambda: server.closed)
    gates.open(*(b"%c" % letter for letter in b"abcdef"))

    assert sorted(ended.read_to_end().split()) == [b"A", b"B", b"C"]
    assert sorted(drained.read_to_end().split()) == [b"D", b"E", b"F"]
    assert drain.get() == 0
    assert closed_reasons(server) == {CloseReason.PEER_EOF: 1, CloseReason.DRAINED: 1}


def test_each_handler_has_its_own_deadline(serving: Serving, gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(gates.handle, codec=Lines, concurrency=2, on_error=on_error)
    server = serving.start(service, deadlines=Deadlines(handler_s=0.1))
    peer = serving.connect(server)
    peer.send(b"a\n")
    assert peer.read_to_end() == b"error: no answer within 0.1 s\n"
    assert_closed(server, CloseReason.HANDLER_TIMEOUT)


def test_while_the_connection_waits_for_a_place_no_deadline_runs(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(0.15)
        return line

    server = serving.start(Service(handle, codec=Lines, concurrency=2), deadlines=Deadlines(handler_s=0.25))
    peer = serving.connect(server)
    peer.send(b"a\nb\nc\nd\ne\nf\n")

    assert sorted(peer.read_line() for _ in range(6)) == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_an_exception_without_an_answer_ends_the_connection(serving: Serving, gates: Gates) -> None:
    server = serving.start(Service(gates.handle, codec=Lines, concurrency=2))
    peer = serving.connect(server)
    peer.send(b"bad\n")
    gates.open(b"bad")

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)
    assert server.counters.errors == 1


def test_a_message_of_the_wrong_type_is_malformed_there_too(serving: Serving) -> None:
    api = JsonService(concurrency=4)
    api.on("ECHO")(lambda message, conn: message)
    server = serving.start(api)
    peer = serving.connect(server)

    assert JsonLines().encode({"status": "ERROR", "message": "Unknown type"}) == peer.ask(b'{"type":"?"}') + b"\n"
    assert peer.ask(b'{"type":"ECHO"}') == b'{"type":"ECHO"}'
    assert server.counters.errors == 1


def test_the_time_of_handlers_is_counted_not_the_time_to_start_them(serving: Serving) -> None:
    def handle(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(0.02)
        return line

    server = serving.start(Service(handle, codec=Lines, concurrency=SAMPLED_ONE_OF))
    peer = serving.connect(server)
    peer.send(b"a\n" * SAMPLED_ONE_OF)
    for _ in range(SAMPLED_ONE_OF):
        peer.read_line()

    counted = {bound: count for bound, count in handler_times(server.counters.cells).items() if count}
    assert list(counted.values()) == [1]
    assert min(counted) > 0.02


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", None])
def test_an_impossible_number_is_refused(number: object) -> None:
    with pytest.raises(DeclarationError, match=r"^concurrency is .*, must be an integer from 1 \(.*\)$"):
        Service(lambda message, conn: None, concurrency=number)  # type: ignore[arg-type]


def test_a_peer_that_does_not_read_is_not_read_from(serving: Serving) -> None:
    """Replies do not wait for it either, so the handlers end, and their deadlines do not run."""
    handled: list[bytes] = []

    def handle(line: bytes, conn: Connection) -> bytes:
        handled.append(line)
        return b"x" * 50_000

    server = serving.start(Service(handle, codec=Lines, concurrency=4), deadlines=Deadlines(handler_s=0.1), narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"a\n" * 200)
    wait_until(lambda: bool(server.connections) and server.connections[0].outbox is not None)
    gevent.sleep(0.3)
    assert len(handled) < 20
    assert closed_reasons(server) == {}

    assert len(peer.read_exactly(200 * 50_001)) == 200 * 50_001
    assert len(handled) == 200
