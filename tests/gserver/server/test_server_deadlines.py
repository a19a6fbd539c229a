"""Each deadline of a connection on real sockets: which connections are closed, for which reason, and which are not."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver import JsonService, Service, stream
from gserver.codecs import LengthPrefixed, Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConnectionClosed, GServerError, HandlerTimeout
from gserver.limits.access_list import AccessList
from gserver.limits.deadlines import Deadlines
from gserver.server.handshake import EntranceRules
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.paced("SOON_S")

SOON_S = 0.1
OFF: dict[str, float] = dict.fromkeys(
    ("handshake_s", "first_byte_s", "idle_s", "read_idle_s", "message_s", "handler_s", "write_s"), 0.0
)


def only(**deadlines: float) -> Deadlines:
    return Deadlines(**{**OFF, **deadlines})


def echo_lines() -> Service:
    def tell(fault: Any, conn: Connection) -> bytes:
        return str(fault).encode()

    return Service(lambda line, conn: line, Lines, on_error=tell)


def ended_after(peer: Peer, began: float) -> float:
    """How long after `began` the server closed the connection, without sending anything."""
    assert peer.read_to_end() == b""
    return time.monotonic() - began


def test_a_peer_that_never_sends_anything_is_closed(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(first_byte_s=SOON_S))
    began = time.monotonic()
    peer = serving.meet(server)

    assert SOON_S <= ended_after(peer, began) < SOON_S * 5
    assert closed_reasons(server) == {CloseReason.FIRST_BYTE_TIMEOUT: 1}


def test_a_peer_that_has_sent_something_is_closed_when_it_is_idle(serving: Serving, greenlets: str) -> None:
    deadlines = only(first_byte_s=SOON_S / 2, idle_s=SOON_S)
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=deadlines)
    peer = serving.meet(server)
    peer.ask(b"hello")
    began = time.monotonic()

    assert SOON_S / 2 <= ended_after(peer, began) < SOON_S * 5
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


def test_a_peer_that_keeps_sending_is_not_idle(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(idle_s=SOON_S))
    peer = serving.meet(server)
    for _ in range(15):
        peer.ask(b"hello")
        gevent.sleep(SOON_S / 5)

    assert server.counters.open == 1


def test_a_peer_that_is_sent_something_now_and_then_is_not_idle(serving: Serving, greenlets: str) -> None:
    opened: list[Connection] = []
    service = Service(lambda line, conn: line, Lines, on_open=opened.append)
    server = serving.start(service, greenlets=greenlets, deadlines=only(first_byte_s=SOON_S, idle_s=SOON_S))
    peer = serving.meet(server)
    wait_until(lambda: bool(opened))
    for _ in range(15):
        opened[0].send(b"tick")
        assert peer.read_line() == b"tick"
        gevent.sleep(SOON_S / 5)

    assert server.counters.open == 1
    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


def test_a_connection_with_a_running_handler_is_not_idle(serving: Serving, greenlets: str) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(SOON_S * 3)
        return line

    service = Service(on_message, Lines)
    server = serving.start(service, greenlets=greenlets, deadlines=only(idle_s=SOON_S, first_byte_s=SOON_S))
    peer = serving.meet(server)

    assert peer.ask(b"hello") == b"hello"
    began = time.monotonic()
    assert ended_after(peer, began) >= SOON_S / 2
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


@pytest.mark.parametrize("before", [b"", b"whole\n"])
def test_a_peer_that_drips_a_message_is_answered_and_closed(serving: Serving, greenlets: str, before: bytes) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(message_s=SOON_S, idle_s=9))
    peer = serving.meet(server)
    peer.send(before + b"h")
    for _ in range(100):
        gevent.sleep(SOON_S / 10)
        if server.counters.errors:
            break
        peer.send(b"h")

    assert peer.read_to_end() == before + b"message not complete after 0.1 s\n"
    assert closed_reasons(server) == {CloseReason.MESSAGE_TIMEOUT: 1}


def test_a_peer_that_stops_inside_its_second_message_is_closed_for_that(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(message_s=SOON_S, idle_s=9))
    peer = serving.meet(server)
    peer.send(b"whole\nhal")

    assert peer.read_to_end() == b"whole\nmessage not complete after 0.1 s\n"


def test_each_message_has_its_own_time(serving: Serving, greenlets: str) -> None:
    service = Service(lambda message, conn: message, functools.partial(LengthPrefixed, 1))
    server = serving.start(service, greenlets=greenlets, deadlines=only(message_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"\x02a")
    for _ in range(10):  # always inside a message, and never long inside the same
        gevent.sleep(SOON_S / 3)
        peer.send(b"b\x02a")

    assert peer.read_exactly(30) == b"\x02ab" * 10
    assert server.counters.open == 1


def test_a_handler_that_takes_too_long_is_interrupted_and_the_peer_is_answered(
    serving: Serving, greenlets: str
) -> None:
    seen: list[BaseException] = []

    def on_message(line: bytes, conn: Connection) -> bytes:
        try:
            gevent.sleep(9)
        except Exception as error:  # as handlers often do; must not catch it
            seen.append(error)
        except BaseException as error:
            seen.append(error)
            raise
        return line

    service = Service(on_message, Lines, on_error=lambda fault, conn: str(fault).encode())
    server = serving.start(service, greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"1\n2\n")

    assert peer.read_to_end() == b"no answer within 0.1 s\n"
    assert [type(error) for error in seen] == [HandlerTimeout]
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1}
    assert server.counters.errors == 1


def test_messages_of_one_turn_each_have_the_handler_time(serving: Serving, greenlets: str) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes | None:
        gevent.sleep(SOON_S / 2)
        return line if line == b"last" else None

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"1\n2\n3\n4\nlast\n")

    assert peer.read_line() == b"last"


def test_a_handler_that_catches_its_timeout_loses_the_connection(serving: Serving, greenlets: str) -> None:
    let_go, caught = Event(), []

    def on_message(line: bytes, conn: Connection) -> None:
        while not let_go.is_set():
            try:
                let_go.wait(9)
            except BaseException as error:
                caught.append(error)

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"1\n")

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1}
    assert caught
    let_go.set()


def test_an_on_open_that_takes_too_long_is_interrupted(serving: Serving, greenlets: str) -> None:
    service = Service(lambda line, conn: line, Lines, on_open=lambda conn: gevent.sleep(9))
    server = serving.start(service, greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1}


def test_a_json_client_is_answered_when_its_handler_took_too_long(serving: Serving) -> None:
    api = JsonService()

    @api.on("SLOW")
    def slow(message: Any, conn: Connection) -> None:
        gevent.sleep(9)

    server = serving.start(api, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)

    assert peer.ask(b'{"type":"SLOW"}') == b'{"status":"ERROR","message":"no answer within 0.1 s"}'


def test_a_peer_that_does_not_read_its_reply_is_reset(serving: Serving, greenlets: str) -> None:
    service = Service(lambda line, conn: b"x" * 1_000_000, Lines)
    server = serving.start(service, narrow=True, greenlets=greenlets, deadlines=only(write_s=SOON_S))
    peer = serving.meet(server, narrow=True)
    peer.send(b"give\n")

    wait_until(lambda: server.counters.open == 0)
    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}
    assert peer.is_reset()


def test_a_peer_that_reads_its_reply_slowly_is_served(serving: Serving, greenlets: str) -> None:
    size = 400_000
    service = Service(lambda line, conn: b"x" * size, Lines)
    server = serving.start(service, narrow=True, greenlets=greenlets, deadlines=only(write_s=SOON_S, idle_s=SOON_S))
    peer = serving.meet(server, narrow=True)
    peer.send(b"give\n")
    received = 0
    while received < size:
        received += len(peer.sock.recv(20_000))
        gevent.sleep(SOON_S / 10)

    assert received == size + 1 or peer.read() == b"\n"


def test_a_peer_that_sends_without_reading_is_closed_too(serving: Serving, greenlets: str) -> None:
    """Receiving input does not show that the peer reads."""
    server = serving.start(
        Service(lambda line, conn: b"x" * 1000, Lines), narrow=True, greenlets=greenlets, deadlines=only(write_s=SOON_S)
    )
    peer = serving.meet(server, narrow=True)
    for _ in range(1000):
        try:
            peer.send(b"more\n")
        except OSError:
            break
        gevent.sleep(SOON_S / 20)
        if server.counters.open == 0:
            break

    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}


def test_a_closing_connection_is_reset_if_its_peer_reads_nothing(serving: Serving) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes:
        conn.close()
        return b"x" * 1_000_000

    server = serving.start(Service(on_message, Lines), narrow=True, deadlines=only(write_s=SOON_S))
    peer = serving.meet(server, narrow=True)
    peer.send(b"give\n")

    wait_until(lambda: server.counters.open == 0)
    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}


def test_a_connection_at_its_maximum_age_answers_what_was_received_and_closes(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(max_age_s=SOON_S * 2))
    began = time.monotonic()
    peer = serving.meet(server)
    answered = 0
    try:
        while time.monotonic() - began < 5:
            peer.ask(b"hello")
            answered += 1
            gevent.sleep(SOON_S / 10)
    except (AssertionError, OSError):
        pass

    assert answered > 5
    assert SOON_S * 2 <= time.monotonic() - began < SOON_S * 8
    assert closed_reasons(server) == {CloseReason.AGED: 1}


def test_a_running_handler_finishes_before_its_connection_is_closed_for_age(serving: Serving, greenlets: str) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(SOON_S * 3)
        return line

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(max_age_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"hello\n")

    assert peer.read_to_end() == b"hello\n"
    assert closed_reasons(server) == {CloseReason.AGED: 1}


# @stream handlers


def test_a_stream_that_waits_for_a_silent_peer_ends(serving: Serving) -> None:
    seen: list[BaseException] = []

    @stream
    def handle(conn: StreamConnection) -> None:
        try:
            conn.recv()
        except ConnectionClosed as error:
            seen.append(error)
            raise

    server = serving.start(handle, deadlines=only(first_byte_s=SOON_S))
    peer = serving.meet(server)

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.FIRST_BYTE_TIMEOUT: 1}
    assert [error.reason for error in seen if isinstance(error, ConnectionClosed)] == [CloseReason.FIRST_BYTE_TIMEOUT]
    assert server.counters.errors == 0


def test_a_stream_that_does_something_else_is_not_idle(serving: Serving) -> None:
    @stream
    def handle(conn: StreamConnection) -> None:
        gevent.sleep(SOON_S * 4)
        conn.write(b"done")

    server = serving.start(handle, deadlines=only(first_byte_s=SOON_S, idle_s=SOON_S, handler_s=SOON_S))
    peer = serving.meet(server)

    assert peer.read_to_end() == b"done"
    assert closed_reasons(server) == {CloseReason.FINISHED: 1}


def test_a_stream_that_listens_again_has_its_deadline_again(serving: Serving) -> None:
    @stream
    def handle(conn: StreamConnection) -> None:
        conn.recv()
        gevent.sleep(SOON_S * 3)
        conn.recv()

    server = serving.start(handle, deadlines=only(idle_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"x")

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


@pytest.mark.parametrize("shape", ["messages", "bytes"])
def test_a_stream_with_a_peer_that_drips_gets_a_message_timeout(serving: Serving, shape: str) -> None:
    @stream(codec=Lines)
    def handle(conn: StreamConnection) -> None:
        try:
            if shape == "bytes":
                conn.read_exactly(100)
            else:
                for _ in conn:
                    pass
        except GServerError as error:
            conn.write(str(error).encode())
            raise

    server = serving.start(handle, deadlines=only(message_s=SOON_S, idle_s=9))
    peer = serving.meet(server)
    peer.send(b"h")

    assert peer.read_to_end() == b"message not complete after 0.1 s"
    assert closed_reasons(server) == {CloseReason.MESSAGE_TIMEOUT: 1}


def test_many_silent_connections_leave_no_timer_behind(serving: Serving) -> None:
    server = serving.start(echo_lines(), deadlines=only(first_byte_s=SOON_S))
    peers = [serving.connect(server) for _ in range(200)]

    assert [peer.read_to_end() for peer in peers] == [b""] * 200
    assert closed_reasons(server) == {CloseReason.FIRST_BYTE_TIMEOUT: 200}


# Every pair of deadlines


def pushing(conn: Connection) -> None:
    """Send to `conn` now and then, until it is closed."""

    def push() -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                conn.send(b"tick")
                gevent.sleep(SOON_S / 8)

    gevent.spawn(push)


def serve_situations(line: bytes, conn: Connection) -> bytes | None:
    """A service that can be brought into each situation by a line."""
    if line == b"block":
        gevent.sleep(60)
    elif line == b"push":
        pushing(conn)
        return None
    return b"x" * 4_000_000 if line == b"much" else line


#: By deadline: what the peer sends so that it runs, and the close reason.
SITUATIONS = {
    "first_byte_s": (b"", CloseReason.FIRST_BYTE_TIMEOUT),
    "idle_s": (b"hello\n", CloseReason.IDLE_TIMEOUT),
    "read_idle_s": (b"push\n", CloseReason.READ_IDLE_TIMEOUT),
    "message_s": (b"hal", CloseReason.MESSAGE_TIMEOUT),
    "handler_s": (b"block\n", CloseReason.HANDLER_TIMEOUT),
    "write_s": (b"much\n", CloseReason.WRITE_TIMEOUT),
    "max_age_s": (b"block\n", CloseReason.AGED),
    "handshake_s": (b"", CloseReason.HANDSHAKE_TIMEOUT),
}


def test_each_deadline_closes_at_its_own_time_beside_every_other_one(serving: Serving, greenlets: str) -> None:
    service = Service(serve_situations, Lines)
    servers = {}
    for own, other in itertools.permutations(SITUATIONS, 2):
        if own == "max_age_s":  # a blocked handler outlasts the maximum age: it has a test of its own
            continue
        entrance = EntranceRules(proxy="v1", proxies=AccessList((), ())) if own == "handshake_s" else None
        deadlines = only(**{other: SOON_S * 40, own: SOON_S})
        server = serving.start(service, narrow=True, greenlets=greenlets, deadlines=deadlines, entrance=entrance)
        serving.connect(server, narrow=True).send(SITUATIONS[own][0])
        servers[own, other] = server
    wait_until(lambda: all(server.counters.closed for server in servers.values()), SOON_S * 30)

    for (own, other), server in servers.items():
        assert closed_reasons(server) == {SITUATIONS[own][1]: 1}, (own, other)


def test_the_maximum_age_does_not_change_the_deadline_of_a_blocked_handler(serving: Serving, greenlets: str) -> None:
    """Also in the last turn, which begins when the age has come."""
    service = Service(serve_situations, Lines)
    deadlines = only(max_age_s=SOON_S, handler_s=SOON_S * 2)
    server = serving.start(service, greenlets=greenlets, deadlines=deadlines)
    before, behind = serving.meet(server), serving.meet(server)
    before.send(b"block\n")
    conn = next(conn for conn in server.connections if conn.peer == behind.sock.getsockname())
    conn.pause()
    behind.send(b"block\n")

    assert before.read_to_end() == behind.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 2}


def test_the_maximum_age_holds_in_the_handshake(serving: Serving) -> None:
    entrance = EntranceRules(proxy="v1", proxies=AccessList((), ()))
    server = serving.start(echo_lines(), deadlines=only(max_age_s=SOON_S), entrance=entrance)

    assert serving.connect(server).read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.AGED: 1}


def test_idle_holds_from_the_first_message_on_however_long_the_first_byte_may_take(
    serving: Serving, greenlets: str
) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(first_byte_s=60, idle_s=SOON_S))
    peer = serving.meet(server)
    gevent.sleep(SOON_S * 2)
    assert peer.ask(b"hello") == b"hello"

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


def test_a_peer_that_sends_now_and_then_is_not_read_idle(serving: Serving, greenlets: str) -> None:
    server = serving.start(
        Service(serve_situations, Lines), greenlets=greenlets, deadlines=only(read_idle_s=SOON_S * 3)
    )
    peer = serving.meet(server)
    peer.send(b"push\n")
    for _ in range(12):
        gevent.sleep(SOON_S / 2)
        peer.send(b"here\n")

    assert server.counters.open == 1
    peer.read_to_end()
    assert closed_reasons(server) == {CloseReason.READ_IDLE_TIMEOUT: 1}


def test_the_read_idle_deadline_runs_only_while_a_stream_reads(serving: Serving) -> None:
    @stream
    def handle(conn: StreamConnection) -> None:
        conn.recv()
        gevent.sleep(SOON_S * 3)
        conn.write(b"done")
        conn.recv()

    server = serving.start(handle, deadlines=only(read_idle_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"x")
    assert peer.read_exactly(4) == b"done"
    began = time.monotonic()

    assert ended_after(peer, began) >= SOON_S / 2
    assert closed_reasons(server) == {CloseReason.READ_IDLE_TIMEOUT: 1}


# Input that arrived in time while the worker was busy


def compute(seconds: float) -> None:
    """Block the hub, like a handler that computes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("deadline", ["first_byte_s", "idle_s", "read_idle_s", "message_s"])
def test_a_peer_that_has_sent_in_time_is_served_although_the_worker_was_busy(
    serving: Serving, greenlets: str, deadline: str
) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(**{deadline: SOON_S}))
    peer = serving.meet(server)
    if deadline != "first_byte_s":
        assert peer.ask(b"hello") == b"hello"
    if deadline == "message_s":
        peer.send(b"hel")
        wait_until(lambda: next(iter(server.connections)).message_since is not None)
    peer.sock.send(b"lo\n")
    compute(SOON_S * 3)

    assert peer.read_line() == (b"hello" if deadline == "message_s" else b"lo")


def test_a_handshake_completed_in_time_is_served_although_the_worker_was_busy(serving: Serving) -> None:
    entrance = EntranceRules(proxy="v1", proxies=AccessList((), ()))
    server = serving.start(echo_lines(), deadlines=only(handshake_s=SOON_S), entrance=entrance)
    peer = serving.connect(server)
    wait_until(lambda: server.counters.accepted)
    peer.sock.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello\n")
    compute(SOON_S * 3)

    assert peer.read_line() == b"hello"


def test_a_handler_that_was_woken_in_time_answers_although_the_worker_was_busy(
    serving: Serving, greenlets: str
) -> None:
    came = Event()

    def on_message(line: bytes, conn: Connection) -> bytes:
        came.wait()
        return line

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S * 2))
    peer = serving.meet(server)
    peer.send(b"hello\n")
    wait_until(lambda: next(iter(server.connections)).runner is not None)
    came.set()
    compute(SOON_S * 4)

    assert peer.read_line() == b"hello"


def test_a_dripping_peer_gets_more_time_only_once(serving: Serving, greenlets: str) -> None:
    """There is always unread input when the deadline comes."""
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(message_s=SOON_S))
    peer = serving.meet(server)
    for _ in range(200):
        with contextlib.suppress(OSError):
            peer.sock.send(b"h")
        compute(SOON_S / 10)
        gevent.sleep(0)
        if server.counters.errors:
            break

    assert closed_reasons(server) == {CloseReason.MESSAGE_TIMEOUT: 1}


def test_a_peer_that_reads_all_the_time_is_served_however_late_the_socket_is_writable(
    serving: Serving, greenlets: str
) -> None:
    """A large send buffer becomes writable only when a third of it is free, which may take long."""
    size = 3_000_000
    server = serving.start(
        Service(lambda line, conn: b"x" * size, Lines), greenlets=greenlets, deadlines=only(write_s=SOON_S * 2)
    )
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    peer = serving.connect(server, narrow=True)
    peer.send(b"give\n")
    began, received = time.monotonic(), 0
    while time.monotonic() - began < SOON_S * 8:
        received += len(peer.sock.recv(4096))
        gevent.sleep(0.002)

    assert server.counters.open == 1
    wait_until(lambda: server.counters.open == 0)  # it stops reading
    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}
    assert received < size


def test_a_handler_is_not_interrupted_while_its_connection_waits_for_its_turn(serving: Serving, greenlets: str) -> None:
    """A handler that computes for long yields after each message, and no handler runs meanwhile."""

    def on_message(line: bytes, conn: Connection) -> bytes:
        compute(0.004)
        return line

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peers = [serving.connect(server) for _ in range(20)]
    for peer in peers:
        peer.send(b"hello\n" * 5)

    for peer in peers:
        assert peer.read_exactly(30) == b"hello\n" * 5
    assert server.counters.errors == 0
