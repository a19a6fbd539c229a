"""Connections: sending from any greenlet, the outbox, and every way to close."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Any

import gevent
import pytest

from gserver.codecs import LengthPrefixed, Lines
from gserver.connection.connection import HIGH_WATER, Connection, State, format_address
from gserver.errors import CloseReason, ConnectionClosed
from gserver.service import Service
from tests.helpers.services import Gate, Keeper, make_lines
from tests.helpers.serving import Peer, Serving, assert_closed
from tests.helpers.waiting import assert_never, wait_until

BIG = 1_000_000


def keep(serving: Serving, greenlets: str, narrow: bool = False) -> tuple[Keeper, Peer]:
    """A service that keeps its connections, and one connected peer."""
    keeper = Keeper()
    server = serving.start(keeper.service(), greenlets=greenlets, narrow=narrow)
    peer = serving.connect(server, narrow)
    wait_until(lambda: keeper.conns)
    return keeper, peer


# Sending


def test_frames_of_several_senders_never_mix(serving: Serving, greenlets: str) -> None:
    """Large frames, five senders, a slow reader: every frame arrives whole, and those of each sender in order."""
    conns: list[Connection] = []
    service = Service(lambda message, conn: b"R" + message, LengthPrefixed, on_open=conns.append)
    peer = serving.connect(serving.start(service, greenlets=greenlets, narrow=True), narrow=True)
    wait_until(lambda: conns)

    def send_all(sender: int) -> None:
        for number in range(8):
            conns[0].send(bytes([sender, number]) * (30_000 + 7 * sender))

    senders = [gevent.spawn(send_all, sender) for sender in range(5)]
    peer.send(b"".join(LengthPrefixed().encode(b"%d" % number) for number in range(8)))
    frames = [read_frame(peer) for _ in range(5 * 8 + 8)]
    gevent.joinall(senders, raise_error=True)

    pushed = [(frame[0], frame[1]) for frame in frames if frame[:1] != b"R"]
    assert sorted(pushed) == [(sender, number) for sender in range(5) for number in range(8)]
    for sender in range(5):
        assert [number for who, number in pushed if who == sender] == list(range(8))
    for frame in frames:
        assert frame[:1] == b"R" or frame == frame[:2] * (30_000 + 7 * frame[0])
    assert [frame for frame in frames if frame[:1] == b"R"] == [b"R%d" % number for number in range(8)]


def read_frame(peer: Peer) -> bytes:
    (length,) = struct.unpack(">I", peer.read_exactly(4))
    return peer.read_exactly(length)


def test_messages_that_a_handler_sends_are_in_order_with_the_replies(serving: Serving, greenlets: str) -> None:
    def announce(line: bytes, conn: Connection) -> bytes:
        conn.send(b"first " + line)
        if line == b"2":
            gevent.sleep(0.001)
        conn.send(b"second " + line)
        return b"reply " + line

    peer = serving.connect(serving.start(make_lines(announce), greenlets=greenlets))
    peer.send(b"1\n2\n3\n")

    assert [peer.read_line() for _ in range(9)] == [
        prefix + b" " + number for number in (b"1", b"2", b"3") for prefix in (b"first", b"second", b"reply")
    ]


def test_messages_sent_while_a_handler_blocks_come_after_the_replies_before_it(
    serving: Serving, greenlets: str
) -> None:
    gate, conns = Gate(), list[Connection]()
    server = serving.start(gate.service(on_open=conns.append), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\nwait\n2\n")
    wait_until(lambda: gate.waiting)
    conns[0].send(b"pushed")
    gate.opened.set()

    assert [peer.read_line() for _ in range(4)] == [b"did 1", b"pushed", b"did wait", b"did 2"]


def test_send_waits_above_the_high_water_mark(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets, narrow=True)
    sent: list[int] = []

    def push() -> None:
        for number in range(60):
            keeper.conn.send(b"x" * (HIGH_WATER - 1))
            sent.append(number)

    pusher = gevent.spawn(push)
    wait_until(lambda: sent)
    settle(sent)
    stuck = len(sent)

    assert stuck < 60
    outbox = keeper.conn.outbox
    assert outbox is not None
    assert outbox.size <= 3 * HIGH_WATER
    assert len(peer.read_exactly(60 * HIGH_WATER)) == 60 * HIGH_WATER
    pusher.get()
    wait_until(lambda: keeper.conn.outbox is None)


def settle(growing: list[int]) -> None:
    """Wait until the list does not grow any more."""
    length = -1
    while len(growing) != length:
        length = len(growing)
        gevent.sleep(0.05)


def test_send_does_not_wait_below_the_high_water_mark(serving: Serving, greenlets: str) -> None:
    """send() returns at once although the peer does not read."""
    keeper, peer = keep(serving, greenlets, narrow=True)
    sent = 0
    while keeper.conn.outbox is None or keeper.conn.outbox.size < HIGH_WATER // 2:
        keeper.conn.push(b"y" * 1000)
        sent += 1000
    with gevent.Timeout(0.5):
        keeper.conn.send(b"z" * 99)

    assert keeper.conn.outbox is not None
    assert peer.read_exactly(sent + 100) == b"y" * sent + b"z" * 99 + b"\n"


class CountingSocket:
    """A socket that counts its sends."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.sends = 0

    def send(self, data: bytes) -> int:
        self.sends += 1
        return int(self._sock.send(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_small_frames_that_wait_are_sent_together(serving: Serving, greenlets: str) -> None:
    """A broadcast of small messages to a slow reader needs no system call and no loop iteration for each."""
    keeper, peer = keep(serving, greenlets, narrow=True)
    conn: Any = keeper.conn
    conn.push(b"x" * BIG)
    counting = conn.sock = CountingSocket(conn.sock)
    for _ in range(10_000):
        conn.push(b"y" * 20)

    assert peer.read_exactly(BIG + 200_000) == b"x" * BIG + b"y" * 200_000
    wait_until(lambda: conn.outbox is None)
    before_the_small = BIG // 1000
    assert counting.sends < before_the_small + 2_000


def test_bytes_are_counted_at_once(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    peer.send(b"hello\nhel")
    wait_until(lambda: keeper.conn.received_bytes == 9)

    assert peer.read_line() == b"hello"
    assert keeper.conn.sent_bytes == 6
    keeper.conn.push(b"x" * BIG)
    peer.read_exactly(BIG)
    wait_until(lambda: keeper.conn.sent_bytes == BIG + 6)


def test_the_caller_gets_the_error_for_a_message_that_the_codec_cannot_encode(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    with pytest.raises(ValueError, match="newline"):
        keeper.conn.send(b"two\nlines")

    assert peer.ask(b"still here") == b"still here"


def test_the_session_belongs_to_the_service(serving: Serving, greenlets: str) -> None:
    def count(line: bytes, conn: Connection) -> bytes:
        conn.session = (conn.session or 0) + 1
        return b"%d" % conn.session

    server = serving.start(make_lines(count), greenlets=greenlets)
    one, two = serving.connect(server), serving.connect(server)

    assert [one.ask(b""), one.ask(b""), two.ask(b"")] == [b"1", b"2", b"1"]


# Ending


def test_close_sends_unsent_bytes_first(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets, narrow=True)
    keeper.conn.push(b"x" * BIG)
    keeper.conn.close()

    assert keeper.conn.state is State.DRAINING
    assert peer.read_to_end() == b"x" * BIG
    assert keeper.conn.state is State.CLOSED
    wait_until(lambda: keeper.gone)
    assert keeper.gone == [CloseReason.FINISHED]


def test_close_in_a_handler_answers_that_message_and_no_later_one(serving: Serving, greenlets: str) -> None:
    handled: list[bytes] = []

    def leave(line: bytes, conn: Connection) -> bytes:
        handled.append(line)
        if line == b"quit":
            conn.close()
        return b"did " + line

    server = serving.start(make_lines(leave), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\nquit\n2\n")

    assert peer.read_to_end() == b"did 1\ndid quit\n"
    assert handled == [b"1", b"quit"]
    assert_closed(server, CloseReason.FINISHED)


def test_close_from_another_greenlet_lets_the_handler_answer(serving: Serving, greenlets: str) -> None:
    gate, conns = Gate(), list[Connection]()
    server = serving.start(gate.service(on_open=conns.append), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\nnever\n")
    wait_until(lambda: gate.waiting)
    conns[0].close()
    gate.opened.set()

    assert peer.read_to_end() == b"did wait\n"
    assert_closed(server, CloseReason.FINISHED)


def test_close_lets_the_handler_answer_although_the_outbox_empties_meanwhile(serving: Serving, greenlets: str) -> None:
    """A connection that closes after its handler is not closed by an outbox that empties before."""
    gate, conns = Gate(), list[Connection]()

    def on_message(line: bytes, conn: Connection) -> bytes:
        if line == b"wait":
            conn.push(b"x" * BIG + b"\n")
            gate.block()
        return b"did " + line

    server = serving.start(make_lines(on_message, on_open=conns.append), greenlets=greenlets, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    conns[0].close()
    assert peer.read_exactly(BIG + 1) == b"x" * BIG + b"\n"
    gate.opened.set()

    assert peer.read_to_end() == b"did wait\n"
    assert_closed(server, CloseReason.FINISHED)


def test_send_after_close_raises_connection_closed(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    keeper.conn.close()
    with pytest.raises(ConnectionClosed) as caught:
        keeper.conn.send(b"too late")

    assert caught.value.reason is CloseReason.FINISHED
    assert peer.read_to_end() == b""


def test_send_after_close_in_a_handler_raises_connection_closed(serving: Serving, greenlets: str) -> None:
    caught: list[ConnectionClosed] = []

    def leave(line: bytes, conn: Connection) -> None:
        conn.close()
        try:
            conn.send(b"too late")
        except ConnectionClosed as error:
            caught.append(error)

    server = serving.start(make_lines(leave), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"quit\n")

    assert peer.read_to_end() == b""
    assert [error.reason for error in caught] == [CloseReason.FINISHED]


def test_the_first_reason_is_kept(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    keeper.conn.close(CloseReason.FINISHED)
    keeper.conn.close(CloseReason.HANDLER_ERROR)
    keeper.conn.abort(CloseReason.PEER_RESET)

    assert keeper.conn.close_reason is CloseReason.FINISHED
    assert peer.read_to_end() == b""
    wait_until(lambda: keeper.gone)
    assert_never(lambda: len(keeper.gone) > 1, 0.02)


def test_abort_wakes_a_greenlet_that_waits_to_send(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets, narrow=True)
    senders = [gevent.spawn(keeper.conn.send, b"x" * BIG * 5) for _ in range(3)]
    wait_until(lambda: keeper.conn.outbox is not None)
    keeper.conn.abort(CloseReason.KILLED)
    gevent.joinall(senders, timeout=60)

    assert all(isinstance(sender.exception, ConnectionClosed) for sender in senders)
    peer.close()


def test_a_reset_wakes_a_greenlet_that_waits_to_send(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets, narrow=True)
    sender = gevent.spawn(keeper.conn.send, b"x" * BIG * 5)
    wait_until(lambda: keeper.conn.outbox is not None)
    peer.reset()
    sender.join(60)

    assert isinstance(sender.exception, ConnectionClosed)
    assert sender.exception.reason is CloseReason.PEER_RESET
    wait_until(lambda: keeper.gone)
    assert keeper.gone == [CloseReason.PEER_RESET]


def test_a_reset_in_the_middle_of_the_replies_is_noticed(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: b"x" * BIG), greenlets=greenlets, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"\n" * 50)
    peer.read()
    peer.reset()

    assert_closed(server, CloseReason.PEER_RESET)


def test_a_reset_while_the_handler_is_busy_is_noticed_when_it_answers(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\nwait\n")
    wait_until(lambda: gate.waiting)
    peer.reset()
    gate.opened.set()

    assert_closed(server, CloseReason.PEER_RESET)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_reset_of_an_idle_connection_is_noticed(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    peer.reset()
    wait_until(lambda: keeper.gone)

    assert keeper.gone == [CloseReason.PEER_RESET]


def test_a_graceful_end_of_the_peer_is_peer_eof(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    assert peer.ask(b"hello") == b"hello"
    peer.close()
    wait_until(lambda: keeper.gone)

    assert keeper.gone == [CloseReason.PEER_EOF]
    assert keeper.conn.is_draining


# Names


def test_a_connection_shows_its_id_its_peer_and_its_state(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    host, port = peer.sock.getsockname()

    assert repr(keeper.conn) == f"<Connection {keeper.conn.id} {host}:{port} open>"
    keeper.conn.close()
    assert repr(keeper.conn) == f"<Connection {keeper.conn.id} {host}:{port} closed>"


def test_ids_have_the_process_id_and_count_the_connections_of_all_servers(serving: Serving, greenlets: str) -> None:
    keeper = Keeper()
    servers = [serving.start(keeper.service(), greenlets=greenlets) for _ in range(2)]
    for number in range(4):
        serving.connect(servers[number % 2])
        wait_until(lambda number=number: len(keeper.conns) > number)

    pids, numbers = zip(*(conn.id.split("-") for conn in keeper.conns), strict=True)
    assert set(pids) == {str(os.getpid())}
    assert [int(number) - int(numbers[0]) for number in numbers] == [0, 1, 2, 3]
    assert int(numbers[0]) > 0


def test_an_id_stays_the_same_and_cannot_be_set(serving: Serving, greenlets: str) -> None:
    keeper, peer = keep(serving, greenlets)
    before = keeper.conn.id
    peer.ask(b"hello")
    with pytest.raises(AttributeError):
        keeper.conn.id = "1-1"  # type: ignore[misc]
    peer.close()
    wait_until(lambda: keeper.gone)

    assert keeper.conn.id == before


PROGRAM = """
import os, socket
from gserver.codecs import Raw
from gserver.connection.connection import Connection

def connection():
    ours, theirs = socket.socketpair()
    return Connection(ours._sock if hasattr(ours, "_sock") else ours, ("127.0.0.1", 1), Raw(), None)

first = [connection() for _ in range(3)]
print(os.getpid(), *(conn.id for conn in first), flush=True)
if os.fork() == 0:
    print(os.getpid(), first[0].id, *(connection().id for _ in range(2)), flush=True)
    os._exit(0)
os.wait()
print(os.getpid(), connection().id)
"""


def test_each_process_counts_from_one_and_a_connection_keeps_its_id_in_a_forked_process() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)

    (parent, *before), (child, *in_child), (again, *after) = (line.split() for line in run.stdout.splitlines())
    assert before == [f"{parent}-1", f"{parent}-2", f"{parent}-3"]
    assert in_child == [f"{parent}-1", f"{child}-1", f"{child}-2"]
    assert (again, after) == (parent, [f"{parent}-4"])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ((4712 << 42) + 1893, "4712-1893"),
        ((1 << 64) - 1, "4194303-4398046511103"),
        ((1 << 42) + 1, "1-1"),
    ],
)
def test_an_id_has_room_for_every_process_id_of_linux(serving: Serving, greenlets: str, number: int, text: str) -> None:
    keeper, _ = keep(serving, greenlets)
    keeper.conn.number = number

    assert keeper.conn.id == text


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/run/app.sock", "unix:/run/app.sock"),
        (b"\0abstract\xff", "unix:\\u0000abstract\\udcff"),
        (b"/run/\xc3\xa9", "unix:/run/\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ('/run/a b","x":"\\', 'unix:/run/a\\u0020b\\",\\"x\\":\\"\\\\'),
        ("/run/\x7f\u2028\U0010ffff", "unix:/run/\\u007f\\u2028\\udbff\\udfff"),
        ("/run/\ud83d\n", "unix:/run/\\ud83d\\n"),
        ("/run/\N{LATIN SMALL LETTER E WITH ACUTE}", "unix:/run/\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("", "unix:"),
    ],
)
def test_addresses_are_formatted(address: Any, text: str) -> None:
    assert format_address(address) == text


def test_an_idle_connection_holds_no_buffer(serving: Serving) -> None:
    """A connection that has become idle keeps no reply, no outbox and no bytes in the codec."""
    keeper, peer = keep(serving, "pooled")
    assert peer.ask(b"x" * 60_000) == b"x" * 60_000
    wait_until(lambda: keeper.conn.outbox is None)
    codec = keeper.conn.codec
    assert isinstance(codec, Lines)

    assert keeper.conn.turn_replies is None
    assert sum(len(getattr(codec, slot)) for slot in ("partial", "_complete")) == 0
