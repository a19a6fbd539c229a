"""Each deadline of a connection, on real sockets: who is closed, why, and who is not."""

from __future__ import annotations

import functools
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver import JsonService, Service, stream
from gserver.connection import Connection
from gserver.deadlines import Deadlines
from gserver.errors import CloseReason, ConnectionClosed, GServerError, HandlerTimeout
from gserver.framing import LengthPrefixed, Lines
from gserver.streams import StreamConnection
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import wait_until

SOON_S = 0.1
OFF: dict[str, float] = dict.fromkeys(
    ("handshake_s", "first_byte_s", "idle_s", "message_s", "handler_s", "write_s"), 0.0
)


def only(**deadlines: float) -> Deadlines:
    return Deadlines(**{**OFF, **deadlines})


def echo_lines() -> Service:
    def tell(fault: Any, conn: Connection) -> bytes:
        return str(fault).encode()

    return Service(lambda line, conn: line, Lines, on_error=tell)


def ended_after(peer: Peer, began: float) -> float:
    """How long after `began` the server ended the connection, without a word."""
    assert peer.read_to_end() == b""
    return time.monotonic() - began


def test_who_never_says_anything_is_closed(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(first_byte_s=SOON_S))
    began = time.monotonic()
    peer = serving.meet(server)

    assert SOON_S <= ended_after(peer, began) < SOON_S * 5
    assert closed_reasons(server) == {CloseReason.FIRST_BYTE_TIMEOUT: 1}


def test_who_has_said_something_is_closed_when_it_is_idle(serving: Serving, greenlets: str) -> None:
    deadlines = only(first_byte_s=SOON_S / 2, idle_s=SOON_S)
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=deadlines)
    peer = serving.meet(server)
    peer.ask(b"hello")
    began = time.monotonic()

    assert SOON_S / 2 <= ended_after(peer, began) < SOON_S * 5
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


def test_who_goes_on_talking_is_not_idle(serving: Serving, greenlets: str) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(idle_s=SOON_S))
    peer = serving.meet(server)
    for _ in range(15):
        peer.ask(b"hello")
        gevent.sleep(SOON_S / 5)

    assert server.ledger.open == 1


def test_who_is_sent_something_now_and_then_is_not_idle(serving: Serving, greenlets: str) -> None:
    opened: list[Connection] = []
    service = Service(lambda line, conn: line, Lines, on_open=opened.append)
    server = serving.start(service, greenlets=greenlets, deadlines=only(first_byte_s=SOON_S, idle_s=SOON_S))
    peer = serving.meet(server)
    wait_until(lambda: bool(opened))
    for _ in range(15):
        opened[0].send(b"tick")
        assert peer.read_line() == b"tick"
        gevent.sleep(SOON_S / 5)

    assert server.ledger.open == 1
    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: 1}


def test_a_handler_that_is_at_work_is_not_idle(serving: Serving, greenlets: str) -> None:
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
def test_who_drips_a_message_is_told_and_closed(serving: Serving, greenlets: str, before: bytes) -> None:
    server = serving.start(echo_lines(), greenlets=greenlets, deadlines=only(message_s=SOON_S, idle_s=9))
    peer = serving.meet(server)
    peer.send(before + b"h")
    for _ in range(100):
        gevent.sleep(SOON_S / 10)
        if server.ledger.errors:
            break
        peer.send(b"h")

    assert peer.read_to_end() == before + b"message not complete after 0.1 s\n"
    assert closed_reasons(server) == {CloseReason.MESSAGE_TIMEOUT: 1}


def test_who_stops_inside_a_message_after_a_whole_one_is_closed_for_that(serving: Serving, greenlets: str) -> None:
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
    assert server.ledger.open == 1


def test_a_handler_that_takes_too_long_is_interrupted_and_answered_for(serving: Serving, greenlets: str) -> None:
    seen: list[BaseException] = []

    def on_message(line: bytes, conn: Connection) -> bytes:
        try:
            gevent.sleep(9)
        except Exception as error:  # as handlers have it; must not catch it
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
    assert server.ledger.errors == 1


def test_messages_of_one_turn_each_have_the_handler_time(serving: Serving, greenlets: str) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes | None:
        gevent.sleep(SOON_S / 2)
        return line if line == b"last" else None

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"1\n2\n3\n4\nlast\n")

    assert peer.read_line() == b"last"


def test_a_handler_that_swallows_its_end_cannot_keep_the_connection(serving: Serving, greenlets: str) -> None:
    let_go = Event()

    def on_message(line: bytes, conn: Connection) -> None:
        while not let_go.is_set():
            try:
                let_go.wait(9)
            except BaseException:  # the worst that a handler can do
                pass

    server = serving.start(Service(on_message, Lines), greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)
    peer.send(b"1\n")

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1}
    let_go.set()


def test_an_on_open_that_takes_too_long_is_interrupted(serving: Serving, greenlets: str) -> None:
    service = Service(lambda line, conn: line, Lines, on_open=lambda conn: gevent.sleep(9))
    server = serving.start(service, greenlets=greenlets, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)

    assert peer.read_to_end() == b""
    assert closed_reasons(server) == {CloseReason.HANDLER_TIMEOUT: 1}


def test_json_is_told_that_its_handler_took_too_long(serving: Serving) -> None:
    api = JsonService()

    @api.on("SLOW")
    def slow(message: Any, conn: Connection) -> None:
        gevent.sleep(9)

    server = serving.start(api, deadlines=only(handler_s=SOON_S))
    peer = serving.meet(server)

    assert peer.ask(b'{"type":"SLOW"}') == b'{"status":"ERROR","message":"no answer within 0.1 s"}'


def test_who_does_not_take_its_reply_is_reset(serving: Serving, greenlets: str) -> None:
    service = Service(lambda line, conn: b"x" * 1_000_000, Lines)
    server = serving.start(service, narrow=True, greenlets=greenlets, deadlines=only(write_s=SOON_S))
    peer = serving.meet(server, narrow=True)
    peer.send(b"give\n")

    wait_until(lambda: server.ledger.open == 0)
    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}
    assert peer.is_reset()


def test_who_takes_its_reply_slowly_is_served(serving: Serving, greenlets: str) -> None:
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


def test_who_sends_without_reading_is_closed_all_the_same(serving: Serving, greenlets: str) -> None:
    """That something comes is no sign that something is taken."""
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
        if server.ledger.open == 0:
            break

    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}


def test_a_connection_that_closes_and_whose_peer_takes_nothing_is_reset(serving: Serving) -> None:
    def on_message(line: bytes, conn: Connection) -> bytes:
        conn.close()
        return b"x" * 1_000_000

    server = serving.start(Service(on_message, Lines), narrow=True, deadlines=only(write_s=SOON_S))
    peer = serving.meet(server, narrow=True)
    peer.send(b"give\n")

    wait_until(lambda: server.ledger.open == 0)
    assert closed_reasons(server) == {CloseReason.WRITE_TIMEOUT: 1}


def test_a_connection_of_age_answers_what_it_has_and_closes(serving: Serving, greenlets: str) -> None:
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


def test_a_handler_that_is_at_work_finishes_before_its_connection_is_too_old(serving: Serving, greenlets: str) -> None:
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
    assert server.ledger.errors == 0


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
def test_a_stream_whose_peer_drips_is_told(serving: Serving, shape: str) -> None:
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
