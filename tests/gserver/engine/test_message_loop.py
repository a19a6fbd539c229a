"""The message loop: messages, malformed messages, and handlers that fail."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Any

import gevent
import pytest

from gserver.codecs import JsonLines, LengthPrefixed, Lines, Malformed
from gserver.connection.connection import Connection
from gserver.counters import SAMPLED_ONE_OF, handler_seconds, handler_times
from gserver.engine import message_loop
from gserver.errors import CloseReason, FrameTooLarge, IncompleteMessage, ProtocolError
from gserver.json_service import JsonService
from gserver.service import Fault, Service
from tests.helpers.services import make_lines
from tests.helpers.serving import Peer, Serving, assert_closed
from tests.helpers.waiting import wait_until


def make_faulty(**hooks: Any) -> Service:
    """Answers lines; `fail` raises, `late` runs into a Timeout, `object` returns a value that no codec can encode."""

    def on_message(line: bytes, conn: Connection) -> Any:
        if line == b"fail":
            raise RuntimeError("the handler failed")
        if line == b"late":
            with gevent.Timeout(0.005):
                gevent.sleep(10)
        return object() if line == b"object" else line

    return make_lines(on_message, **hooks)


def make_faulty_json() -> JsonService:
    api = JsonService()

    @api.on("FAIL")
    def fail(message: dict[str, Any], conn: Connection) -> None:
        raise RuntimeError("the handler failed")

    @api.on("LATE")
    def late(message: dict[str, Any], conn: Connection) -> None:
        with gevent.Timeout(0.005):
            gevent.sleep(10)

    @api.on("SURPRISE")
    def surprise(message: dict[str, Any], conn: Connection) -> object:
        return object()

    @api.on("PING")
    def ping(message: dict[str, Any], conn: Connection) -> dict[str, str]:
        return {"status": "OK"}

    return api


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("type_", [b"FAIL", b"LATE", b"SURPRISE"])
def test_a_failure_is_logged_once_and_answered_and_the_connection_stays_open(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, type_: bytes
) -> None:
    server = serving.start(make_faulty_json(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b'{"type":"PING"}\n{"type":"%s"}\n{"type":"PING"}\n' % type_)

    assert peer.read_line() == b'{"status":"OK"}'
    assert peer.read_line() == b'{"status":"ERROR","message":"Internal error"}'
    assert peer.read_line() == b'{"status":"OK"}'
    assert len(errors_in(caplog)) == 1
    assert errors_in(caplog)[0].exc_info
    assert server.counters.open == 1


@pytest.mark.parametrize("line", [b"fail", b"late", b"object"])
def test_a_failure_that_cannot_be_answered_closes(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    server = serving.start(make_faulty(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"before\n" + line + b"\nafter\n")

    assert peer.read_to_end() == b"before\n"
    assert_closed(server, CloseReason.HANDLER_ERROR)
    assert len(errors_in(caplog)) == 1


def test_what_on_error_returns_is_the_answer(serving: Serving, greenlets: str) -> None:
    faults: list[Fault] = []

    def explain(fault: Fault, conn: Connection) -> bytes:
        faults.append(fault)
        return b"sorry: " + str(fault).encode()

    server = serving.start(make_faulty(on_error=explain), greenlets=greenlets)
    peer = serving.connect(server)

    assert peer.ask(b"fail") == b"sorry: the handler failed"
    assert peer.ask(b"hello") == b"hello"
    assert [type(fault) for fault in faults] == [RuntimeError]


def test_an_on_error_that_fails_closes_and_is_logged(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    def explain(fault: Fault, conn: Connection) -> bytes:
        raise ValueError("no words")

    server = serving.start(make_faulty(on_error=explain), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"fail\n")

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)
    assert len(errors_in(caplog)) == 2


def test_a_malformed_message_is_answered_in_order(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_faulty_json(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b'{"type":"PING"}\nnonsense\n{"type":"PING"}\n')

    assert [peer.read_line() for _ in range(3)] == [
        b'{"status":"OK"}',
        b'{"status":"ERROR","message":"Invalid JSON"}',
        b'{"status":"OK"}',
    ]


def test_a_malformed_message_that_cannot_be_answered_closes(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda message, conn: message, JsonLines), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\nnonsense\n2\n")

    assert peer.read_to_end() == b"1\n"
    assert_closed(server, CloseReason.PROTOCOL_ERROR)


def test_handlers_never_see_a_malformed_message(serving: Serving, greenlets: str) -> None:
    seen: list[Any] = []
    service = Service(lambda message, conn: seen.append(message), JsonLines, on_error=lambda fault, conn: "bad")
    peer = serving.connect(serving.start(service, greenlets=greenlets))
    peer.send(b"nonsense\n1\n")

    assert peer.read_line() == b'"bad"'
    wait_until(lambda: seen)
    assert seen == [1]


def test_broken_framing_is_answered_after_the_good_messages_and_closes(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_faulty_json(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b'{"type":"PING"}\n' + b"x" * 70_000 + b"\n")

    assert peer.read_line() == b'{"status":"OK"}'
    assert peer.read_line().startswith(b'{"status":"ERROR","message":"line of ')
    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.PROTOCOL_ERROR)


def test_eof_inside_a_message_is_answered_if_the_protocol_has_an_answer(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_faulty_json(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b'{"type":"PING"}\n{"type":')
    peer.finish()

    assert peer.read_line() == b'{"status":"OK"}'
    assert peer.read_line() == b'{"status":"ERROR","message":"the peer stopped 8 bytes into a line"}'
    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.EOF_IN_MESSAGE)


def test_eof_inside_a_message_is_not_answered_if_the_protocol_has_no_answer(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda message, conn: message, LengthPrefixed), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"\0\0\0\3abc\0\0")
    peer.finish()

    assert peer.read_to_end() == b"\0\0\0\3abc"
    assert_closed(server, CloseReason.EOF_IN_MESSAGE)


def test_on_error_is_called_for_each_kind_of_fault(serving: Serving, greenlets: str) -> None:
    faults: list[Fault] = []

    def note(fault: Fault, conn: Connection) -> int:
        faults.append(fault)
        return len(faults)

    service = Service(lambda message, conn: message, lambda: JsonLines(20), on_error=note)
    server = serving.start(service, greenlets=greenlets)
    for number, wire in enumerate((b"nonsense\n", b"1" * 22, b"half"), 1):
        peer = serving.connect(server)
        peer.send(wire)
        peer.finish()
        assert peer.read_to_end() == b"%d\n" % number

    assert [type(fault) for fault in faults] == [Malformed, FrameTooLarge, IncompleteMessage]


def test_a_protocol_error_that_a_handler_raises_is_a_failure_of_the_handler(serving: Serving, greenlets: str) -> None:
    def confused(line: bytes, conn: Connection) -> bytes:
        raise ProtocolError("not yours to raise")

    server = serving.start(make_lines(confused), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")

    assert peer.read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)


def test_after_a_half_close_the_replies_are_sent_and_then_the_end(serving: Serving, greenlets: str) -> None:
    def slow(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(0.005)
        return line

    server = serving.start(make_lines(slow), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"1\n2\n3\n")
    peer.finish()

    assert peer.read_to_end() == b"1\n2\n3\n"
    assert_closed(server, CloseReason.PEER_EOF)


def test_after_a_half_close_replies_in_the_outbox_are_sent(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: b"x" * 9_999), greenlets=greenlets, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"\n" * 5)
    peer.finish()
    wait_until(lambda: any(conn.close_reason for conn in server._connections))

    assert peer.read_to_end() == (b"x" * 9_999 + b"\n") * 5
    assert_closed(server, CloseReason.PEER_EOF)


def test_without_a_reply_no_bytes_are_sent(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: line if line == b"speak" else None), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"quiet\nquiet\nspeak\nquiet\n")
    peer.finish()

    assert peer.read_to_end() == b"speak\n"


def test_an_empty_reply_is_a_message(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: b""), greenlets=greenlets)

    assert serving.connect(server).ask(b"hello") == b""


def test_all_replies_of_a_batch_are_sent_in_one_segment(
    serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one send for each turn, unless the turn yields."""
    monkeypatch.setattr(message_loop, "SLICE_S", 3600.0)
    server = serving.start(make_lines(lambda line, conn: line), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n" * 100)

    assert peer.read_exactly(600) == b"hello\n" * 100
    assert data_segments_received(peer) == 1


def data_segments_received(peer: Peer) -> int:
    """tcpi_data_segs_in: segments with data, as the peer's kernel counted them."""
    (count,) = struct.unpack_from("I", peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 152)
    return int(count)


def test_a_handler_that_exits_its_greenlet_ends_only_its_connection(serving: Serving, greenlets: str) -> None:
    def leave(line: bytes, conn: Connection) -> bytes:
        if line == b"leave":
            raise gevent.GreenletExit
        return line

    server = serving.start(make_lines(leave), greenlets=greenlets)
    other, peer = serving.connect(server), serving.connect(server)
    assert other.ask(b"hello") == b"hello"
    peer.send(b"leave\n")

    assert peer.is_reset() or peer.read() == b""
    assert other.ask(b"hello") == b"hello"
    assert_closed(server, CloseReason.HANDLER_ERROR)


@pytest.mark.parametrize("codec", [Lines, JsonLines, LengthPrefixed])
def test_random_bytes_never_reach_the_log_as_an_error(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, codec: Any
) -> None:
    server = serving.start(Service(lambda message, conn: message, codec), greenlets=greenlets)
    peers = []
    for seed in range(20):
        peer = serving.connect(server)
        peer.send(bytes((seed * 37 + index * index) % 256 for index in range(500)))
        peer.finish()
        peers.append(peer)
    for peer in peers:
        peer.read_to_end()
    wait_until(lambda: server.counters.open == 0)

    assert errors_in(caplog) == []


# The time of handlers

WAIT_S = 0.05


def sampled(server: Any) -> int:
    return sum(handler_times(server.counters.cells).values())


def test_one_of_many_messages_is_timed(serving: Serving, greenlets: str) -> None:
    """Whichever connections they come on, and however many arrive together."""
    server = serving.start(make_lines(lambda line, conn: line), greenlets=greenlets)
    one, other = serving.meet(server), serving.meet(server)
    for _ in range(SAMPLED_ONE_OF - 1):
        one.ask(b"x")
    assert sampled(server) == 0
    other.ask(b"x")
    assert sampled(server) == 1
    one.send(b"x\n" * SAMPLED_ONE_OF * 3)
    for _ in range(SAMPLED_ONE_OF * 3):
        one.read_line()

    assert sampled(server) == 4
    assert 0 < handler_seconds(server.counters.cells) < 4 * 60


def ask_until_timed(peer: Peer, line: bytes) -> bytes:
    """Send `line` as the message that is timed, and return its reply."""
    for _ in range(SAMPLED_ONE_OF - 1):
        peer.ask(b"x")
    return peer.ask(line)


def test_the_time_of_a_handler_has_its_waiting(serving: Serving, greenlets: str) -> None:
    """Other messages that come meanwhile are counted on, and are not in its time."""

    def answer(line: bytes, conn: Connection) -> bytes:
        if line == b"wait":
            gevent.sleep(WAIT_S)
        return line

    server = serving.start(make_lines(answer), greenlets=greenlets)
    one, other = serving.meet(server), serving.meet(server)
    waiting = gevent.spawn(ask_until_timed, one, b"wait")
    wait_until(lambda: any(conn.runner for conn in server.connections))
    for _ in range(SAMPLED_ONE_OF - 1):
        other.ask(b"x")
    waiting.get()

    counted = [(bound, count) for bound, count in handler_times(server.counters.cells).items() if count]
    assert counted[-1][0] > WAIT_S
    assert sampled(server) == 1
    other.ask(b"x")
    assert sampled(server) == 2
    assert WAIT_S <= handler_seconds(server.counters.cells) < WAIT_S * 600


def test_a_handler_that_fails_is_timed_too(serving: Serving, greenlets: str) -> None:
    service = make_faulty(on_error=lambda fault, conn: b"failed")
    server = serving.start(service, greenlets=greenlets)

    assert ask_until_timed(serving.meet(server), b"fail") == b"failed"
    assert sampled(server) == 1


def test_malformed_messages_are_not_timed(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_faulty_json(), greenlets=greenlets)
    peer = serving.meet(server)
    for _ in range(SAMPLED_ONE_OF * 2):
        peer.ask(b"no JSON")

    assert sampled(server) == 0
