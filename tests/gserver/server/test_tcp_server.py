"""TcpServer: accepting, the hooks of a service, draining and stopping, and bare handlers."""

from __future__ import annotations

import errno
import socket as plain
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.errors import CloseReason, ConfigError
from gserver.server import tcp_server as server_module
from gserver.server.tcp_server import TcpServer
from gserver.service import Service
from tests.helpers.services import Diary, Gate, Keeper, make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, assert_closed
from tests.helpers.waiting import assert_never, wait_until

# Accepting


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("::1", 0)])
def test_tcp_addresses_are_served(serving: Serving, address: Any) -> None:
    server = serving.start(make_echo_lines(), address)

    assert serving.connect(server).ask(b"hello") == b"hello"


def test_a_unix_socket_is_served(serving: Serving, tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = serving.start(make_echo_lines(), listener)

        assert serving.connect(server).ask(b"hello") == b"hello"
        server.drain(0.1)


@pytest.mark.parametrize("kind", [plain.socket, socket.socket])
def test_a_listening_socket_is_served_wherever_it_comes_from(serving: Serving, kind: Any) -> None:
    """A socket of the standard library is blocking, and must not block the hub."""
    listener = kind()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = serving.start(make_echo_lines(), listener)

    assert serving.connect(server).ask(b"hello") == b"hello"


def test_accepted_sockets_send_at_once(serving: Serving) -> None:
    """TCP_NODELAY is inherited from the listener."""
    delays: list[int] = []
    service = make_echo_lines(
        on_open=lambda conn: delays.append(conn.sock.getsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY))
    )
    serving.meet(serving.start(service))
    wait_until(lambda: delays)

    assert delays[0] != 0


def test_an_unknown_engine_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"^greenlets is 'threads', must be 'pooled' or 'dedicated'$"):
        TcpServer(("127.0.0.1", 0), make_echo_lines(), greenlets="threads")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_the_counters_balance_after_a_codec_could_not_be_made(serving: Serving) -> None:
    def no_codec() -> Lines:
        raise ValueError("no codec")

    server = serving.start(Service(lambda message, conn: message, no_codec))
    peer = serving.connect(server)

    assert peer.is_reset() or peer.read() == b""
    server.counters.check()
    assert server.counters.open == 0


# The hooks of a service


def test_hooks_are_called_once_each_and_in_order(serving: Serving, greenlets: str) -> None:
    diary = Diary()
    server = serving.start(diary.service(), greenlets=greenlets)
    peer = serving.connect(server)
    name = peer.sock.getsockname()
    peer.send(b"1\n2\n")
    peer.finish()
    peer.read_to_end()
    wait_until(lambda: len(diary.of(name)) == 4)

    assert diary.of(name) == ["open", "1", "2", "close peer_eof"]
    assert_never(lambda: len(diary.of(name)) > 4, 0.02)


def test_messages_wait_for_an_on_open_that_blocks(serving: Serving, greenlets: str) -> None:
    diary = Diary(open_s=0.02)
    server = serving.start(diary.service(), greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(5)]
    for peer in peers:
        peer.send(b"1\n")

    assert [peer.read_line() for peer in peers] == [b"1"] * 5
    assert all(diary.of(peer.sock.getsockname()) == ["open", "1"] for peer in peers)


def test_an_on_open_that_blocks_delays_no_other_connection(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    first: list[Connection] = []

    def on_open(conn: Connection) -> None:
        first.append(conn)
        if len(first) == 1:
            gate.block()

    server = serving.start(make_echo_lines(on_open=on_open), greenlets=greenlets)
    slow = serving.meet(server)
    wait_until(lambda: gate.waiting)
    assert serving.connect(server).ask(b"hello") == b"hello"
    gate.opened.set()

    assert slow.ask(b"hello") == b"hello"


def test_on_open_may_greet(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(on_open=lambda conn: conn.send(b"welcome")), greenlets=greenlets)
    peer = serving.connect(server)

    assert peer.ask(b"hello") == b"welcome"
    assert peer.read_line() == b"hello"


def test_on_open_may_refuse(serving: Serving, greenlets: str) -> None:
    def refuse(conn: Connection) -> None:
        conn.send(b"full")
        conn.close()

    server = serving.start(make_echo_lines(on_open=refuse), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")

    assert peer.read_to_end() == b"full\n"
    assert_closed(server, CloseReason.FINISHED)


@pytest.mark.parametrize("error", [RuntimeError("no room"), gevent.Timeout(1)])
def test_an_on_open_that_fails_closes_and_is_logged(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(conn: Connection) -> None:
        raise error

    gone: list[CloseReason] = []
    service = make_echo_lines(on_open=fail, on_close=lambda conn, reason: gone.append(reason))
    server = serving.start(service, greenlets=greenlets)

    assert serving.connect(server).read_to_end() == b""
    assert_closed(server, CloseReason.HANDLER_ERROR)
    wait_until(lambda: gone)
    assert gone == [CloseReason.HANDLER_ERROR]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_an_on_close_that_fails_is_logged_and_harms_no_connection(
    serving: Serving, greenlets: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(conn: Connection, reason: CloseReason) -> None:
        raise RuntimeError("cannot say goodbye")

    server = serving.start(make_echo_lines(on_close=fail), greenlets=greenlets)
    peer = serving.connect(server)
    assert peer.ask(b"hello") == b"hello"
    peer.close()
    assert_closed(server, CloseReason.PEER_EOF)
    wait_until(lambda: [record for record in caplog.records if record.levelname == "ERROR"])

    assert serving.connect(server).ask(b"hello") == b"hello"


# Draining


def test_a_drain_closes_idle_connections(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(10)]
    for peer in peers:
        assert peer.ask(b"hello") == b"hello"
    drain = gevent.spawn(server.drain, 2)
    for peer in peers:
        assert peer.read_to_end() == b""
        peer.close()

    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED, 10)


def test_no_connection_is_accepted_after_a_drain_has_begun(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    address = server.address
    drain = gevent.spawn(server.drain, 2)
    wait_until(lambda: server.closed)

    with pytest.raises(ConnectionRefusedError):
        Peer(address)
    gate.opened.set()
    assert peer.read_to_end() == b"did wait\n"
    peer.close()
    assert drain.get() == 0


def test_everything_received_before_a_drain_is_answered(serving: Serving, greenlets: str) -> None:
    """In the handler, in the codec, in the kernel's buffer of a busy connection, and of an idle one."""
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    busy, idle = serving.meet(server), serving.meet(server)
    busy.send(b"wait\n1\n")
    wait_until(lambda: gate.waiting)
    busy.send(b"2\n3\n")
    idle.send(b"4\n5\nhal")
    drain = gevent.spawn(server.drain, 2)
    wait_until(lambda: server.closed)
    gate.opened.set()

    assert busy.read_to_end() == b"did wait\ndid 1\ndid 2\ndid 3\n"
    assert idle.read_to_end() == b"did 4\ndid 5\n"
    for peer in (busy, idle):
        peer.close()
    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED, 2)


def test_a_drain_answers_more_than_one_turn_receives(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    server.socket.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 1 << 20)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    peer.send(b"hello\n" * 30_000)
    wait_until(lambda: next(iter(server._connections)).unread_bytes() == 180_000)
    drain = gevent.spawn(server.drain, 5)
    wait_until(lambda: server.closed)
    gate.opened.set()

    assert peer.read_to_end() == b"did wait\n" + b"did hello\n" * 30_000
    peer.close()
    assert drain.get() == 0


def test_a_peer_that_never_stops_sending_does_not_hold_up_a_drain(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: gevent.sleep(0.001)), greenlets=greenlets, linger_s=0.05)
    peer = serving.meet(server)

    def flood() -> None:
        try:
            while True:
                peer.sock.send(b"\n" * 10)
                gevent.sleep(0.001)
        except OSError:
            pass

    flooding = gevent.spawn(flood)
    gevent.sleep(0.02)

    assert server.drain(60) == 0
    assert_closed(server, CloseReason.DRAINED)
    flooding.kill()


def test_connections_in_the_queue_are_accepted_by_a_drain(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    server.stop_accepting()
    peers = [serving.connect(server) for _ in range(10)]
    for peer in peers:
        peer.send(b"hello\n")
    drain = gevent.spawn(server.drain, 2)
    for peer in peers:
        assert peer.read_to_end() == b"hello\n"
        peer.close()

    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED, 10)


def test_a_drain_that_cannot_accept_still_drains(
    serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)

    def no_descriptors() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(server, "do_read", no_descriptors)
    drain = gevent.spawn(server.drain, 2)
    wait_until(lambda: server.closed)
    gate.opened.set()

    assert peer.read_to_end() == b"did wait\n"
    peer.close()
    assert drain.get() == 0


def test_a_drain_waits_for_an_on_open_that_blocks_and_answers(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(make_echo_lines(on_open=lambda conn: gate.block()), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    wait_until(lambda: gate.waiting)
    drain = gevent.spawn(server.drain, 2)
    wait_until(lambda: server.closed)
    gate.opened.set()

    assert peer.read_to_end() == b"hello\n"
    peer.close()
    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED)


def test_replies_that_are_unsent_when_a_drain_begins_are_sent(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: b"x" * 3_000_000), greenlets=greenlets, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"1\n2\n")
    peer.read_exactly(1)
    drain = gevent.spawn(server.drain, 5)
    wait_until(lambda: server.closed)

    assert peer.read_to_end() == b"x" * 2_999_999 + b"\n" + b"x" * 3_000_000 + b"\n"
    peer.close()
    assert drain.get() == 0
    assert_closed(server, CloseReason.DRAINED)


def test_handlers_that_take_too_long_are_killed_and_counted(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(5)]
    for peer in peers[:3]:
        peer.send(b"wait\n")
    wait_until(lambda: gate.waiting == 3)
    for peer in peers[3:]:
        assert peer.ask(b"hello") == b"did hello"
        peer.close()
    wait_until(lambda: server.counters.open == 3)

    assert server.drain(0.05) == 3
    assert gate.waiting == 0
    assert server.counters.closed[CloseReason.KILLED] == 3


def test_a_handler_that_does_not_end_when_killed_loses_its_connection(serving: Serving, greenlets: str) -> None:
    done = Event()

    def stubborn(line: bytes, conn: Connection) -> None:
        while not done.is_set():
            try:
                done.wait()
            except gevent.GreenletExit:
                continue

    server = serving.start(make_lines(stubborn), greenlets=greenlets)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    wait_until(lambda: server.counters.open == 1)
    gevent.sleep(0.01)
    started = time.monotonic()

    assert server.drain(0.05) == 1
    assert time.monotonic() - started < 60
    assert_closed(server, CloseReason.KILLED)
    done.set()


def test_a_peer_that_does_not_read_is_killed_in_time(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_lines(lambda line, conn: b"x" * 3_000_000), greenlets=greenlets, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"1\n")
    wait_until(lambda: any(conn.outbox is not None for conn in server._connections))

    assert server.drain(0.05) == 1
    assert_closed(server, CloseReason.KILLED)


def test_a_connection_that_breaks_while_it_drains_is_no_error(
    serving: Serving, greenlets: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last turn is requested and has not begun."""
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    serving.meet(server)
    conn = next(iter(server._connections))
    server._drain_one(conn)
    conn.abort(CloseReason.PEER_RESET)

    assert server.drain(1) == 0
    assert_closed(server, CloseReason.PEER_RESET)
    assert "Traceback" not in capfd.readouterr().err


def test_on_close_may_block_and_a_drain_waits_for_it(serving: Serving, greenlets: str) -> None:
    said: list[CloseReason] = []

    def say_goodbye(conn: Connection, reason: CloseReason) -> None:
        gevent.sleep(0.02)
        said.append(reason)

    server = serving.start(make_echo_lines(on_close=say_goodbye), greenlets=greenlets)
    serving.meet(server).close()
    server.drain(2)

    assert len(said) == 1


def test_a_second_drain_finds_nothing_to_do(serving: Serving, greenlets: str) -> None:
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    assert serving.connect(server).ask(b"hello") == b"hello"

    assert [server.drain(0.1), server.drain(0.1)] == [0, 0]
    server.stop()


# Strings of addresses


def test_connections_of_a_host_share_one_string_that_is_freed(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPython 3.12 an interned string has no reference count, and is never freed."""
    monkeypatch.setattr(server_module, "KNOWN_HOSTS", 3)
    keeper = Keeper()
    server = serving.start(keeper.service())
    for number in (1, 1, 2, 3, 4, 5, 5):
        serving.connect(server, host=f"127.0.0.{number}")
        wait_until(lambda: len(keeper.conns) == server.counters.accepted)
    wait_until(lambda: len(keeper.conns) == 7)
    texts = [conn.peer[0] for conn in keeper.conns]

    assert texts[0] is texts[1]
    assert texts[5] is texts[6]
    assert sorted(set(texts)) == [f"127.0.0.{number}" for number in range(1, 6)]
    assert len(server._hosts) <= 3
    assert all(sys.getrefcount(text) < 1000 for text in texts)
