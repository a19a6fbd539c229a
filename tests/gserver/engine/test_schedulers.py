"""The schedulers: order of replies, cut messages, blocking, back-pressure, fairness, idle connections."""

from __future__ import annotations

import functools
import gc
import socket
import weakref
from typing import Any

import gevent
import pytest

from gserver.codecs import LengthPrefixed, Lines, Raw
from gserver.connection.connection import Connection
from gserver.engine.message_loop import IDLE_RUNNERS
from gserver.engine.schedulers import Runner
from gserver.errors import CloseReason
from gserver.handlers import echo
from gserver.server.tcp_server import TcpServer
from gserver.service import Service
from tests.helpers.leaks import live_greenlets
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Serving, assert_closed
from tests.helpers.waiting import assert_never, wait_until


def lines_of(numbers: range) -> bytes:
    return b"".join(b"%d\n" % number for number in numbers)


def test_replies_come_in_the_order_of_the_messages(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(lines_of(range(1000)))

    assert peer.read_exactly(len(lines_of(range(1000)))) == lines_of(range(1000))


def test_replies_keep_their_order_when_some_handlers_block(serving: Serving, greenlets: str) -> None:
    def sometimes_slow(line: bytes, conn: Connection) -> bytes:
        if int(line) % 7 == 3:
            gevent.sleep(0.001)
        return line

    server = serving.start(make_lines(sometimes_slow), greenlets=greenlets)
    peer = serving.connect(server)
    for start in range(0, 100, 20):
        peer.send(lines_of(range(start, start + 20)))

    assert peer.read_exactly(len(lines_of(range(100)))) == lines_of(range(100))


def test_one_message_at_a_time_is_handled(serving: Serving, greenlets: str) -> None:
    busy: list[bytes] = []

    def alone(line: bytes, conn: Connection) -> bytes:
        busy.append(line)
        gevent.sleep(0.002)
        together = len(busy)
        busy.remove(line)
        return b"%d" % together

    server = serving.start(make_lines(alone), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"a\nb\n")
    gevent.sleep(0.001)
    peer.send(b"c\nd\n")

    assert [peer.read_line() for _ in range(4)] == [b"1"] * 4


@pytest.mark.parametrize("cut", range(1, 12))
def test_messages_cut_anywhere_are_answered(serving: Serving, greenlets: str, cut: int) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    peer = serving.meet(server)
    wire = b"hello\nworld\n"
    peer.send(wire[:cut])
    wait_until(lambda: any_connection(server).received_bytes == cut)
    peer.send(wire[cut:])

    assert peer.read_exactly(12) == wire


def any_connection(server: TcpServer) -> Connection:
    return next(iter(server._connections))


def test_messages_byte_by_byte_are_answered(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda data, conn: data, LengthPrefixed), greenlets=greenlets)
    peer = serving.connect(server)
    for byte in b"\x00\x00\x00\x03abc\x00\x00\x00\x00":
        peer.send(bytes([byte]))
        gevent.sleep(0)

    assert peer.read_exactly(11) == b"\x00\x00\x00\x03abc\x00\x00\x00\x00"


def test_a_handler_that_blocks_delays_no_other_connection(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    blocked = [serving.connect(server) for _ in range(20)]
    for peer in blocked:
        peer.send(b"wait\n")
    wait_until(lambda: gate.waiting == 20)
    quick = [serving.connect(server) for _ in range(5)]

    assert [peer.ask(b"hello") for peer in quick] == [b"did hello"] * 5
    gate.opened.set()
    assert [peer.read_line() for peer in blocked] == [b"did wait"] * 20


def test_connections_of_one_loop_iteration_are_served_although_the_first_blocks(
    serving: Serving, greenlets: str
) -> None:
    """All become readable before the loop checks: the runner that blocks must not keep the queue."""
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peers = [serving.meet(server) for _ in range(10)]
    for number, peer in enumerate(peers):
        peer.sock._sock.send(b"hello\n" if number % 2 else b"wait\n")

    assert [peer.read_line() for peer in peers[1::2]] == [b"did hello"] * 5
    gate.opened.set()
    assert [peer.read_line() for peer in peers[::2]] == [b"did wait"] * 5


def test_replies_that_are_ready_do_not_wait_for_a_message_that_blocks(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\n2\nwait\n3\nwait\n4\n")

    assert [peer.read_line() for _ in range(2)] == [b"did 1", b"did 2"]
    assert gate.waiting == 1
    gate.opened.set()
    assert [peer.read_line() for _ in range(4)] == [b"did wait", b"did 3", b"did wait", b"did 4"]


def test_replies_between_two_messages_that_block_do_not_wait(serving: Serving, greenlets: str) -> None:
    """Once a turn has blocked, its next replies are sent before it blocks again."""
    gates = [Gate(), Gate()]

    def on_message(line: bytes, conn: Connection) -> bytes:
        if line.isdigit():
            gates[int(line)].block()
        return line

    server = serving.start(make_lines(on_message), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"0\nbetween\n1\n")
    wait_until(lambda: gates[0].waiting)
    gates[0].opened.set()

    assert [peer.read_line() for _ in range(2)] == [b"0", b"between"]
    assert gates[1].waiting == 1
    gates[1].opened.set()
    assert peer.read_line() == b"1"


def test_a_connection_whose_handler_is_busy_is_not_read_from(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    peer.send(b"more\n" * 100)
    wait_until(lambda: not any_connection(server).watcher.active)

    assert any_connection(server).received_bytes == 5
    gate.opened.set()
    assert peer.read_exactly(9 * 101) == b"did wait\n" + b"did more\n" * 100


def test_a_peer_that_does_not_read_is_not_read_from(serving: Serving, greenlets: str) -> None:
    """Unsent replies are bounded by the input of one turn, however much the peer sends."""
    server = serving.start(echo(), greenlets=greenlets, narrow=True)
    peer = serving.meet(server, narrow=True)
    flood = gevent.spawn(send_until_stuck, peer.sock, b"x" * 65536)
    flood.join()
    conn = any_connection(server)
    waiting = conn.received_bytes - conn.sent_bytes

    assert waiting <= 3 * 65536
    received = conn.received_bytes
    assert_never(lambda: conn.received_bytes != received)
    total = flood.get()
    assert len(peer.read_exactly(total)) == total


def send_until_stuck(sock: Any, data: bytes) -> int:
    """Send until the kernel accepts nothing for a while; return how many bytes it accepted."""
    sent = 0
    raw = sock._sock
    for _ in range(40):
        try:
            while True:
                sent += raw.send(data)
        except BlockingIOError:
            gevent.sleep(0.005)
    return sent


def test_one_batch_of_messages_cannot_fill_the_memory_with_replies(serving: Serving, greenlets: str) -> None:
    """Back-pressure works inside a turn too: small messages with large replies wait for their peer."""
    handled = []

    def enlarge(line: bytes, conn: Connection) -> bytes:
        handled.append(line)
        return bytes(10_000)

    server = serving.start(make_lines(enlarge), greenlets=greenlets, narrow=True)
    peer = serving.meet(server, narrow=True)
    peer.send(b"\n" * 2_000)
    wait_until(lambda: any_connection(server).outbox is not None)
    assert_never(lambda: len(handled) > 200, 0.03)

    assert len(peer.read_exactly(10_001 * 2_000)) == 10_001 * 2_000
    assert len(handled) == 2_000


def test_a_peer_that_floods_does_not_starve_another(serving: Serving, greenlets: str) -> None:
    """A turn receives a bounded number of bytes; then other connections are served before the rest of the flood."""
    chunks: list[bytes] = []
    server = serving.start(Service(lambda data, conn: chunks.append(data), Raw), greenlets=greenlets)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    flood, small = serving.meet(server), serving.meet(server)
    flood.sock._sock.sendall(b"x" * 500_000)
    small.sock._sock.send(b"y")
    wait_until(lambda: sum(map(len, chunks)) == 500_001)

    assert max(map(len, chunks)) <= 65536
    assert chunks.index(b"y") <= 1


@pytest.mark.parametrize("count", [200])
def test_idle_connections_hold_no_greenlet_when_pooled(serving: Serving, count: int) -> None:
    before = len(live_greenlets())
    server = serving.start(make_echo_lines())
    peers = [serving.connect(server) for _ in range(count)]
    for peer in peers:
        assert peer.ask(b"hello") == b"hello"
    gc.collect()

    assert server.counters.open == count
    assert len(live_greenlets()) - before <= 2


def test_every_connection_has_a_greenlet_when_dedicated(serving: Serving) -> None:
    before = len(live_greenlets())
    server = serving.start(make_echo_lines(), greenlets="dedicated")
    for peer in [serving.connect(server) for _ in range(20)]:
        assert peer.ask(b"hello") == b"hello"

    assert len(live_greenlets()) - before >= 20


def test_runners_of_a_burst_of_blocked_handlers_end(serving: Serving) -> None:
    gate = Gate()
    server = serving.start(gate.service())
    peers = [serving.connect(server) for _ in range(IDLE_RUNNERS + 40)]
    for peer in peers:
        peer.send(b"wait\n")
    wait_until(lambda: gate.waiting == len(peers))
    gate.opened.set()
    for peer in peers:
        assert peer.read_line() == b"did wait"
    gc.collect()

    assert sum(isinstance(each, Runner) for each in live_greenlets()) <= IDLE_RUNNERS


def test_a_parked_runner_keeps_no_connection(serving: Serving) -> None:
    class Session:
        """An object to which only the connection refers."""

    def block(line: bytes, conn: Connection) -> bytes:
        conn.session = Session()
        sessions.append(weakref.ref(conn.session))
        gevent.sleep(0.001)
        return line

    sessions: list[weakref.ref[Session]] = []
    server = serving.start(make_lines(block))
    for peer in [serving.connect(server) for _ in range(5)]:
        assert peer.ask(b"hello") == b"hello"
        peer.finish()
    wait_until(lambda: server.counters.open == 0)
    gc.collect()

    assert [session() for session in sessions] == [None] * 5


def test_runners_end_when_the_server_stops(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    assert serving.connect(server).ask(b"hello") == b"hello"
    server.drain(0.1)

    wait_until(lambda: not any(isinstance(each, Runner) for each in live_greenlets()))


def test_a_stray_exception_in_a_parked_runner_harms_no_connection(
    serving: Serving, greenlets: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A Timeout that a handler has left behind is raised in its runner later; no connection hangs."""

    def forgetful(line: bytes, conn: Connection) -> bytes:
        if line == b"forget":
            gevent.Timeout.start_new(0.005)
        return line

    server = serving.start(make_lines(forgetful), greenlets=greenlets)
    peer = serving.connect(server)
    assert peer.ask(b"forget") == b"forget"
    wait_until(lambda: "Timeout" in capfd.readouterr().err + caplog.text)  # gevent's report, or ours

    assert serving.connect(server).ask(b"hello") == b"hello"
    peer.send(b"hello\n")
    assert peer.read() in (b"hello\n", b"")


def test_many_connections_that_come_and_go_are_all_answered(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)

    def visit(number: int) -> bytes:
        peer = serving.connect(server)
        answers = b" ".join(peer.ask(b"%d" % (number + turn)) for turn in range(5))
        peer.close()
        return answers

    visits = [gevent.spawn(visit, number) for number in range(100)]

    assert [visit.get() for visit in visits] == [
        b" ".join(b"%d" % (number + turn) for turn in range(5)) for number in range(100)
    ]
    assert_closed(server, CloseReason.PEER_EOF, 100)


def test_both_engines_give_the_same_answers(serving: Serving) -> None:
    wire = b"1\n22\n\r\n333\r\nx" + b"y" * 200 + b"\n"
    answers = []
    for shape in ("pooled", "dedicated"):
        service = Service(lambda line, conn: line[::-1], functools.partial(Lines, 100))
        server = serving.start(service, greenlets=shape)
        peer = serving.connect(server)
        peer.send(wire)
        answers.append(peer.read_to_end())
        assert_closed(server, CloseReason.PROTOCOL_ERROR)

    assert answers == [b"1\n22\n\n333\n"] * 2
