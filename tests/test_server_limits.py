"""Limits on real sockets: who comes in, what who does not is told, who has to go, and that the books balance."""

from __future__ import annotations

import errno
import json
import socket as plain
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from gserver import JsonService, Service, stream
from gserver.admission import parse_networks
from gserver.connection import Connection
from gserver.deadlines import Deadlines
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded
from gserver.framing import Lines
from gserver.limits import Limits
from gserver.server import TcpServer
from gserver.spare import SpareDescriptor
from gserver.streams import StreamConnection
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving, closed_reasons
from tests.helpers.waiting import PATIENCE_S, assert_never, wait_until

FULL, SHED = CloseReason.FULL, CloseReason.SHED


def telling_echo(**hooks: Any) -> Service:
    return make_echo_lines(on_error=lambda fault, conn: str(fault).encode(), **hooks)


@stream(codec=Lines)
def echo_stream(conn: StreamConnection) -> None:
    for line in conn:
        conn.send(line)


def bare_echo(sock: Any, address: Any) -> None:
    while data := sock.recv(1000):
        sock.sendall(data)


SERVED = pytest.mark.parametrize("served", [telling_echo(), echo_stream, bare_echo], ids=["service", "stream", "bare"])


def connect_from(serving: Serving, server: TcpServer, host: str) -> Peer:
    """A peer whose address is `host`, one of 127.0.0.0/8."""
    peer = Peer.__new__(Peer)
    peer.unread = b""
    peer.sock = socket.socket()
    peer.sock.settimeout(PATIENCE_S)
    peer.sock.bind((host, 0))
    peer.sock.connect(server.address)
    serving._peers.append(peer)
    return peer


def admitted(serving: Serving, server: TcpServer, count: int, host: str = "127.0.0.1") -> list[Peer]:
    """So many peers, each of which has been answered."""
    peers = [connect_from(serving, server, host) for _ in range(count)]
    for peer in peers:
        assert peer.ask(b"hello") == b"hello"
    return peers


def assert_turned_away(peer: Peer) -> None:
    assert peer.read_to_end() == b""


# How many


@SERVED
@pytest.mark.parametrize("limit", ["worker_connections", "max_connections"])
def test_a_full_server_takes_nobody_until_somebody_leaves(serving: Serving, served: Any, limit: str) -> None:
    server = serving.start(served, limits=Limits(**{limit: 3, "full_action": "close"}))  # type: ignore[arg-type]
    peers = admitted(serving, server, 3)
    for _ in range(4):
        assert_turned_away(serving.connect(server))
    peers.pop().close()
    wait_until(lambda: server.ledger.open == 2)
    peers += admitted(serving, server, 1)

    assert_turned_away(serving.connect(server))
    assert server.ledger.closed[FULL] == 5
    assert [peer.ask(b"still") for peer in peers] == [b"still"] * 3


@SERVED
def test_of_a_burst_exactly_as_many_are_served_as_fit(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_connections=10, full_action="close"))
    peers = [serving.connect(server) for _ in range(30)]
    wait_until(lambda: server.ledger.accepted == 30)
    served_now = 0
    for peer in peers:
        try:
            served_now += peer.ask(b"hello") == b"hello"
        except (AssertionError, OSError):
            pass

    assert served_now == server.ledger.open == 10
    assert closed_reasons(server) == {FULL: 20}


@SERVED
def test_an_address_has_so_many_connections(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_connections_per_ip=2, ip_action="close"))
    peers = admitted(serving, server, 2)
    assert_turned_away(serving.connect(server))
    admitted(serving, server, 2, host="127.0.0.2")
    peers.pop().close()
    wait_until(lambda: server.ledger.open == 3)
    admitted(serving, server, 1)

    assert_turned_away(serving.connect(server))
    assert server.ledger.closed[CloseReason.ADDRESS_LIMIT] == 2


def test_a_network_has_so_many_connections(serving: Serving) -> None:
    server = serving.start(telling_echo(), limits=Limits(max_connections_per_network=2))
    admitted(serving, server, 1, host="127.0.0.1")
    admitted(serving, server, 1, host="127.0.0.2")

    refused = connect_from(serving, server, "127.0.0.3")
    assert refused.read_to_end() == b"more than 2 connections from one network\n"
    admitted(serving, server, 2, host="127.0.1.1")
    assert closed_reasons(server) == {CloseReason.ADDRESS_LIMIT: 1}


@SERVED
def test_so_many_come_in_a_second(serving: Serving, served: Any) -> None:
    server = serving.start(served, limits=Limits(max_accept_rate=4, accept_rate_action="close"))
    peers = [serving.connect(server) for _ in range(12)]
    wait_until(lambda: server.ledger.accepted == 12)

    assert server.ledger.open in (4, 5)  # a moment passes, and a quarter of a second is one more
    assert set(closed_reasons(server)) == {CloseReason.ACCEPT_RATE}
    assert sum(is_served(peer) for peer in peers) == server.ledger.open
    wait_until(lambda: is_served(serving.connect(server)))


def is_served(peer: Peer) -> bool:
    try:
        return peer.ask(b"hello") == b"hello"
    except (AssertionError, OSError):
        return False


# Who


@SERVED
def test_only_the_allowed_and_never_the_denied_come_in(serving: Serving, served: Any) -> None:
    limits = Limits(allow=parse_networks(["127.0.0.0/30"]), deny=parse_networks(["127.0.0.2"]))
    server = serving.start(served, limits=limits)
    admitted(serving, server, 1, host="127.0.0.1")
    admitted(serving, server, 1, host="127.0.0.3")

    assert_turned_away(connect_from(serving, server, "127.0.0.2"))
    assert_turned_away(connect_from(serving, server, "127.0.0.4"))
    assert closed_reasons(server) == {CloseReason.DENIED: 2}


def test_ipv4_on_a_socket_of_ipv6_is_judged_as_ipv4(serving: Serving) -> None:
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(plain.IPPROTO_IPV6, plain.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    limits = Limits(deny=parse_networks(["127.0.0.2"]), max_connections_per_ip=1)
    server = serving.start(telling_echo(), listener, limits=limits)
    target = ("127.0.0.1", listener.getsockname()[1])
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.1")
    peers = [socket.create_connection(target, PATIENCE_S, (host, 0)) for host in hosts]
    peers[0].sendall(b"hello\n")

    assert peers[0].recv(100) == b"hello\n"
    assert peers[1].recv(100) == b""
    assert peers[2].recv(100) == b"more than 1 connections from one address\n"
    for sock in peers:
        sock.close()
    wait_until(lambda: server.ledger.open == 0)


def test_peers_of_a_unix_socket_have_no_address_that_could_be_too_many(serving: Serving, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    limits = Limits(max_connections_per_ip=1, allow=parse_networks(["10.0.0.0/8"]), max_connections=3)
    serving.start(telling_echo(), listener, limits=limits)
    peers = [Peer(str(tmp_path / "socket")) for _ in range(4)]

    assert [peer.ask(b"hello") for peer in peers[:3]] == [b"hello"] * 3
    assert peers[3].read_to_end() == b"the server is full: it holds 3 connections\n"
    for peer in peers:
        peer.close()


# What is said


def test_a_refused_client_is_told_in_the_services_own_words(serving: Serving, greenlets: str) -> None:
    server = serving.start(JsonService(), greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)
    said = serving.connect(server).read_to_end()

    assert json.loads(said) == {"status": "ERROR", "message": "the server is full: it holds 1 connections"}
    assert said.endswith(b"\n")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"worker_connections": 1}, b"the server is full: it holds 1 connections\n"),
        ({"max_connections_per_ip": 1}, b"more than 1 connections from one address\n"),
        ({"max_accept_rate": 1.0}, b"more than 1 connections a second\n"),
        ({"worker_connections": 1, "full_action": "close"}, b""),
        ({"max_connections_per_ip": 1, "ip_action": "close"}, b""),
        ({"max_accept_rate": 1.0, "accept_rate_action": "close"}, b""),
    ],
)
def test_each_limit_says_what_its_action_allows(
    serving: Serving, greenlets: str, limits: dict[str, Any], said: bytes
) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(**limits))
    serving.meet(server)

    assert serving.connect(server).read_to_end() == said


def test_what_is_said_arrives_although_the_client_is_sending(serving: Serving, greenlets: str) -> None:
    """A socket that is closed with unread input makes the kernel send a reset, which would lose the reply."""
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), linger_s=1.0)
    serving.meet(server)
    for _ in range(20):
        peer = serving.connect(server)
        peer.send(b"x" * 100_000 + b"\n")
        assert peer.read_to_end() == b"the server is full: it holds 1 connections\n"


@pytest.mark.parametrize("on_error", [None, lambda fault, conn: None])
def test_who_has_nothing_to_say_closes(serving: Serving, greenlets: str, on_error: Any) -> None:
    hooks = {} if on_error is None else {"on_error": on_error}
    server = serving.start(make_echo_lines(**hooks), greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)

    assert_turned_away(serving.connect(server))
    assert closed_reasons(server) == {FULL: 1}


def test_an_on_error_that_fails_refuses_all_the_same(serving: Serving, greenlets: str) -> None:
    def on_error(fault: Any, conn: Connection) -> bytes:
        raise RuntimeError("on purpose")

    server = serving.start(make_echo_lines(on_error=on_error), greenlets=greenlets, limits=Limits(max_connections=1))
    peer = serving.meet(server)

    assert_turned_away(serving.connect(server))
    assert peer.ask(b"hello") == b"hello"
    assert closed_reasons(server) == {FULL: 1}


def test_on_error_is_given_the_limit_and_the_connection(serving: Serving, greenlets: str) -> None:
    told: list[Any] = []
    service = make_echo_lines(on_error=lambda fault, conn: told.append((type(fault), fault.close_reason, conn.peer)))
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_connections=1))
    serving.meet(server)
    refused = serving.connect(server)
    address = refused.sock.getsockname()
    refused.read_to_end()

    assert told == [(LimitExceeded, FULL, address)]


@pytest.mark.parametrize("full_action", ["refuse", "close"])
def test_a_refused_connection_never_reaches_the_service(serving: Serving, greenlets: str, full_action: Any) -> None:
    told: list[Any] = []
    service = telling_echo(on_open=told.append, on_close=lambda conn, reason: told.append(reason))
    server = serving.start(service, greenlets=greenlets, limits=Limits(max_connections=1, full_action=full_action))
    serving.meet(server)
    wait_until(lambda: len(told) == 1)
    for _ in range(3):
        refused = serving.connect(server)
        refused.send(b"hello\n")
        refused.is_reset()

    assert len(told) == 1
    assert closed_reasons(server) == {FULL: 3}
    assert len(server.connections) == 1


def test_a_flood_of_clients_that_never_read_leaves_nothing_behind(serving: Serving, greenlets: str) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), linger_s=0.1)
    first = serving.meet(server)
    for _ in range(100):
        serving.connect(server)
    wait_until(lambda: server.ledger.accepted == 101 and server.ledger.open == 1)

    assert closed_reasons(server) == {FULL: 100}
    assert first.ask(b"hello") == b"hello"


# Making room


def shedding(served: Any, serving: Serving, count: int, **options: Any) -> TcpServer:
    return serving.start(served, limits=Limits(max_connections=count, full_action="shed"), **options)


@pytest.mark.parametrize("served", [telling_echo(), echo_stream], ids=["service", "stream"])
def test_the_longest_idle_one_makes_room(serving: Serving, greenlets: str, served: Any) -> None:
    server = shedding(served, serving, 3, greenlets=greenlets)
    first, second, third = admitted(serving, server, 3)
    first.ask(b"again")
    newcomers = admitted(serving, server, 1)
    assert_turned_away(second)
    newcomers += admitted(serving, server, 1)
    assert_turned_away(third)

    assert closed_reasons(server) == {SHED: 2}
    assert [peer.ask(b"still") for peer in (first, *newcomers)] == [b"still"] * 3


def test_on_close_is_told_who_was_shed(serving: Serving, greenlets: str) -> None:
    told: list[CloseReason] = []
    service = make_echo_lines(on_close=lambda conn, reason: told.append(reason))
    server = shedding(service, serving, 1, greenlets=greenlets)
    admitted(serving, server, 1)
    admitted(serving, server, 1)

    assert told == [SHED]


def test_a_handler_at_work_is_never_shed(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    service = gate.service(on_error=lambda fault, conn: str(fault).encode())
    server = shedding(service, serving, 2, greenlets=greenlets)
    busy, idle = serving.meet(server), serving.meet(server)
    busy.send(b"wait\n")
    wait_until(lambda: gate.waiting == 1)
    idle.ask(b"x")  # the busy one was heard of longer ago
    newcomer = serving.connect(server)
    assert_turned_away(idle)
    newcomer.send(b"wait\n")
    wait_until(lambda: gate.waiting == 2)

    assert serving.connect(server).read_to_end() == b"the server is full: it holds 2 connections\n"
    gate.opened.set()
    assert busy.read_line() == newcomer.read_line() == b"did wait"
    assert closed_reasons(server) == {SHED: 1, FULL: 1}


def test_a_stream_that_works_is_never_shed(serving: Serving) -> None:
    opened, working = Event(), Event()

    @stream(codec=Lines)
    def served(conn: StreamConnection) -> None:
        for line in conn:
            working.set()
            opened.wait()
            conn.send(line)

    server = shedding(served, serving, 1)
    busy = serving.meet(server)
    busy.send(b"work\n")
    working.wait()

    assert_turned_away(serving.connect(server))
    opened.set()
    assert busy.read_line() == b"work"
    wait_until(lambda: next(iter(server.connections)).is_listening)
    gevent.sleep(0.06)  # with nobody idle, it is not looked again at once
    admitted(serving, server, 1)
    assert closed_reasons(server) == {FULL: 1, SHED: 1}


def test_who_is_owed_a_reply_is_not_idle(serving: Serving, greenlets: str) -> None:
    service = make_lines(lambda line, conn: line * 1_000_000, on_error=lambda fault, conn: str(fault).encode())
    server = shedding(service, serving, 1, greenlets=greenlets, narrow=True)
    slow = serving.connect(server, narrow=True)
    slow.send(b"x\n")
    wait_until(lambda: any(conn.outbox is not None for conn in server.connections))

    assert serving.connect(server).read_to_end() == b"the server is full: it holds 1 connections\n"
    assert len(slow.read_exactly(1_000_001)) == 1_000_001


def test_on_open_that_is_not_over_is_not_idle(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    service = telling_echo(on_open=lambda conn: gate.block())
    server = shedding(service, serving, 1, greenlets=greenlets)
    first = serving.connect(server)
    wait_until(lambda: gate.waiting == 1)

    assert serving.connect(server).read_to_end() == b"the server is full: it holds 1 connections\n"
    gate.opened.set()
    assert first.ask(b"hello") == b"hello"


@pytest.mark.parametrize(
    ("limits", "host"),
    [
        ({"deny": parse_networks(["127.0.0.2"])}, "127.0.0.2"),
        ({"max_connections_per_ip": 2}, "127.0.0.1"),
        ({"max_accept_rate": 2.0}, "127.0.0.1"),
    ],
    ids=["denied", "too many", "too fast"],
)
def test_nobody_makes_room_for_who_may_not_come_in_anyway(
    serving: Serving, greenlets: str, limits: dict[str, Any], host: str
) -> None:
    limited = Limits(max_connections=2, full_action="shed", **limits)
    server = serving.start(telling_echo(), greenlets=greenlets, limits=limited)
    peers = admitted(serving, server, 2)
    connect_from(serving, server, host).read_to_end()

    assert [peer.ask(b"still") for peer in peers] == [b"still"] * 2
    assert SHED not in closed_reasons(server)


def test_a_bare_handler_is_never_shed(serving: Serving) -> None:
    server = shedding(bare_echo, serving, 1)
    peer = serving.connect(server)
    peer.send(b"hello\n")
    assert peer.read_line() == b"hello"

    assert_turned_away(serving.connect(server))
    assert peer.ask(b"still") == b"still"


def test_everybody_of_a_storm_that_sheds_is_accounted_for(serving: Serving, greenlets: str) -> None:
    told: list[CloseReason] = []
    service = telling_echo(on_close=lambda conn, reason: told.append(reason))
    server = shedding(service, serving, 10, greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(200)]
    wait_until(lambda: server.ledger.accepted == 200 and server.ledger.open <= 10)

    assert sum(is_served(peer) for peer in peers) == server.ledger.open == 10
    reasons = closed_reasons(server)
    assert sum(reasons.values()) == 190
    assert set(reasons) <= {SHED, FULL}
    assert told == [SHED] * reasons.get(SHED, 0)


def test_without_a_descriptor_the_longest_idle_one_makes_room(
    serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, limits=Limits(full_action="shed"))
    (first,) = admitted(serving, server, 1)
    accept, failures = server._accept, [OSError(errno.EMFILE, "Too many open files")]

    def failing_once() -> Any:
        if failures:
            raise failures.pop()
        return accept()

    monkeypatch.setattr(server, "_accept", failing_once)
    assert isinstance(server._spare, SpareDescriptor)
    admitted(serving, server, 1)

    assert_turned_away(first)
    assert closed_reasons(server) == {SHED: 1}


# Deadlines of those who are refused


def test_a_refused_client_does_not_come_under_the_deadlines(serving: Serving, greenlets: str) -> None:
    """Its socket is gone from the books at once; that it lingers is nobody's affair."""
    deadlines = Deadlines(first_byte_s=0.05, idle_s=0.05)
    server = serving.start(
        telling_echo(), greenlets=greenlets, limits=Limits(max_connections=1), deadlines=deadlines, linger_s=0.3
    )
    first = serving.meet(server)
    serving.connect(server)
    assert first.read_to_end() == b""
    wait_until(lambda: server.ledger.open == 0)

    assert closed_reasons(server) == {FULL: 1, CloseReason.FIRST_BYTE_TIMEOUT: 1}


# What waits to be sent


class Room:
    """A service whose connections the test can send to."""

    def __init__(self) -> None:
        self.members: list[Connection] = []
        self.reasons: dict[Connection, CloseReason] = {}
        self.service = make_echo_lines(on_open=self.members.append, on_close=self.reasons.__setitem__)

    def enter(self, serving: Serving, server: TcpServer, narrow: bool = False) -> tuple[Peer, Connection]:
        count = len(self.members)
        peer = serving.connect(server, narrow)
        wait_until(lambda: len(self.members) > count)
        return peer, self.members[-1]


def test_send_nowait_gives_up_who_does_not_take_what_it_is_sent(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=100_000, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    while conn.outbox is None or conn.outbox.size <= 100_000:
        conn.send_nowait(b"x" * 10_000)
    with pytest.raises(ConnectionClosed) as caught:
        conn.send_nowait(b"x")

    assert caught.value.reason is conn.close_reason is CloseReason.BUFFER_LIMIT
    wait_until(lambda: room.reasons == {conn: CloseReason.BUFFER_LIMIT})
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}
    assert peer.is_reset()
    with pytest.raises(ConnectionClosed):
        conn.send_nowait(b"more")


def test_send_nowait_of_who_reads_never_fails_and_keeps_the_order(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=1_000_000, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    lines = [b"%06d" % number * 100 for number in range(1000)]
    for line in lines:
        conn.send_nowait(line)

    assert [peer.read_line() for _ in lines] == lines
    assert closed_reasons(server) == {}


def test_a_limit_of_nothing_still_allows_one_message_to_wait(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=0, narrow=True)
    peer, conn = room.enter(serving, server, narrow=True)
    conn.send_nowait(b"x" * 1_000_000)

    assert len(peer.read_exactly(1_000_001)) == 1_000_001


def test_a_broadcast_waits_for_nobody_and_gives_up_the_slow(serving: Serving, greenlets: str) -> None:
    room = Room()
    server = serving.start(room.service, greenlets=greenlets, send_limit=200_000, narrow=True)
    slow, slow_conn = room.enter(serving, server, narrow=True)
    fast = [room.enter(serving, server)[0] for _ in range(10)]
    given_up: list[Connection] = []
    for number in range(400):
        for conn in [each for each in room.members if each not in given_up]:
            try:
                conn.send_nowait(b"%d " % number + b"x" * 1000)
            except ConnectionClosed:
                given_up.append(conn)
        for peer in fast:
            assert peer.read_line().startswith(b"%d " % number)

    assert given_up == [slow_conn]
    assert slow.is_reset()
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}


def test_a_handler_that_goes_on_after_a_broadcast_gave_it_up_finds_out(serving: Serving, greenlets: str) -> None:
    """It blocks in send() when somebody else's broadcast finds that its peer takes nothing."""
    outcomes: list[Any] = []

    def on_message(line: bytes, conn: Connection) -> None:
        try:
            conn.send(b"y" * 3_000_000)
        except ConnectionClosed as error:
            outcomes.append(error.reason)
            raise

    members: list[Connection] = []
    service = make_lines(on_message, on_open=members.append)
    server = serving.start(service, greenlets=greenlets, send_limit=1000, narrow=True)
    peer = serving.connect(server, narrow=True)
    peer.send(b"go\n")
    wait_until(lambda: bool(members) and members[0].outbox is not None)
    with pytest.raises(ConnectionClosed):
        members[0].send_nowait(b"news")
    wait_until(lambda: bool(outcomes))

    assert outcomes == [CloseReason.BUFFER_LIMIT]
    wait_until(lambda: server.ledger.open == 0)
    assert closed_reasons(server) == {CloseReason.BUFFER_LIMIT: 1}


def test_a_limit_that_was_not_reached_is_not_noticed(serving: Serving, greenlets: str) -> None:
    limits = Limits(
        worker_connections=10,
        max_connections=10,
        max_connections_per_ip=10,
        max_connections_per_network=10,
        max_accept_rate=1000,
        allow=parse_networks(["127.0.0.0/8"]),
    )
    server = serving.start(telling_echo(), greenlets=greenlets, limits=limits)
    for _ in range(5):
        for peer in admitted(serving, server, 10):
            peer.close()
        wait_until(lambda: server.ledger.open == 0)

    assert closed_reasons(server) == {CloseReason.PEER_EOF: 50}
    assert_never(lambda: server.ledger.open, 0.02)
