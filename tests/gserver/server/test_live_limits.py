"""Other deadlines and limits while connections are served: what holds for the connections that are open already."""

from __future__ import annotations

import dataclasses
import gc
import socket as plain
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gserver import Service, stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason
from gserver.limits.access_list import AccessList, parse_networks
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import SEND_LIMIT, Keepalive, TcpServer
from gserver.service import StreamService
from gserver.tls.contexts import Tls, TlsConfig
from tests.helpers.certificates import make_certificates
from tests.helpers.limited import EVERY_PROXY, OFF, assert_turned_away, bare_echo, change, echo_stream, telling_echo
from tests.helpers.proxied import proxied, v1
from tests.helpers.services import Gate, Keeper, make_lines
from tests.helpers.serving import Peer, Serving, assert_closed, closed_reasons
from tests.helpers.waiting import assert_never, wait_until

#: Short, and long enough for a busy host.
SOON_S = 0.1
NEVER_S = 3600.0
KINDS = pytest.mark.parametrize("served", [telling_echo(), echo_stream], ids=["service", "stream"])
WITH_BARE = pytest.mark.parametrize(
    "served", [telling_echo(), echo_stream, bare_echo], ids=["service", "stream", "bare"]
)


def only(**deadlines: float) -> Deadlines:
    return dataclasses.replace(OFF, **deadlines)


# Deadlines


@pytest.mark.parametrize("before_s", [0.0, NEVER_S], ids=["off", "long"])
@KINDS
def test_a_shorter_idle_timeout_closes_connections_that_are_open(
    serving: Serving, greenlets: str, served: Any, before_s: float
) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=only(idle_s=before_s))
    peers = [serving.connect(server) for _ in range(5)]
    assert all(peer.is_served for peer in peers)
    change(server, deadlines=only(idle_s=SOON_S))

    assert_closed(server, CloseReason.IDLE_TIMEOUT, 5)


@KINDS
def test_a_longer_idle_timeout_keeps_connections_that_are_open(serving: Serving, greenlets: str, served: Any) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=only(idle_s=2.0))
    peer = serving.connect(server)
    assert peer.is_served
    change(server, deadlines=only(idle_s=NEVER_S))

    assert_never(lambda: server.counters.open == 0, 2.5)
    assert peer.is_served


@KINDS
def test_the_first_byte_timeout_holds_for_a_peer_that_is_silent_already(
    serving: Serving, greenlets: str, served: Any
) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=OFF)
    serving.meet(server)
    change(server, deadlines=only(first_byte_s=SOON_S))

    assert_closed(server, CloseReason.FIRST_BYTE_TIMEOUT)


@KINDS
def test_the_message_timeout_holds_for_a_message_that_has_begun(serving: Serving, greenlets: str, served: Any) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=OFF)
    peer = serving.meet(server)
    peer.send(b"half a mess")
    wait_until(lambda: server.connections[0].received_bytes)
    change(server, deadlines=only(message_s=SOON_S))

    assert_closed(server, CloseReason.MESSAGE_TIMEOUT)


def test_the_handler_timeout_holds_for_a_handler_that_blocks_already(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, deadlines=OFF)
    serving.meet(server).send(b"wait\n")
    wait_until(lambda: gate.waiting)
    change(server, deadlines=only(handler_s=SOON_S))

    assert_closed(server, CloseReason.HANDLER_TIMEOUT)
    assert gate.waiting == 0


def test_a_longer_handler_timeout_keeps_a_handler_that_blocks_already(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, deadlines=only(handler_s=2.0))
    peer = serving.meet(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    change(server, deadlines=only(handler_s=NEVER_S))

    assert_never(lambda: not gate.waiting, 2.5)
    gate.opened.set()
    assert peer.read_line() == b"did wait"


def test_an_idle_timeout_holds_after_a_handler_that_blocked_without_any_deadline(
    serving: Serving, greenlets: str
) -> None:
    """No deadline runs while the handler blocks, and the one that begins when it ends begins without an event."""
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, deadlines=OFF)
    peer = serving.meet(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    change(server, deadlines=only(idle_s=SOON_S))
    gate.opened.set()
    assert peer.read_line() == b"did wait"

    assert_closed(server, CloseReason.IDLE_TIMEOUT)


def test_an_idle_timeout_holds_for_a_stream_handler_that_reads_later(serving: Serving) -> None:
    may_read = Event()

    def waits(conn: StreamConnection) -> None:
        may_read.wait()
        conn.recv()

    server = serving.start(stream(waits), deadlines=OFF)
    serving.meet(server)
    change(server, deadlines=only(idle_s=SOON_S))
    may_read.set()

    assert_closed(server, CloseReason.IDLE_TIMEOUT)


def test_the_write_timeout_holds_for_a_peer_that_does_not_read_already(serving: Serving, greenlets: str) -> None:
    server = serving.start(
        make_lines(lambda line, conn: b"x" * 1_000_000), greenlets=greenlets, deadlines=OFF, narrow=True
    )
    peer = serving.meet(server, narrow=True)
    peer.send(b"?\n")
    wait_until(lambda: server.connections[0].outbox is not None)
    change(server, deadlines=only(write_s=SOON_S))

    assert_closed(server, CloseReason.WRITE_TIMEOUT)


@KINDS
def test_the_maximum_age_holds_for_connections_that_are_older(serving: Serving, greenlets: str, served: Any) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=OFF)
    peers = [serving.connect(server) for _ in range(3)]
    assert all(peer.is_served for peer in peers)
    change(server, deadlines=only(max_age_s=SOON_S))

    assert_closed(server, CloseReason.AGED, 3)


@KINDS
def test_connections_no_longer_age(serving: Serving, greenlets: str, served: Any) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=only(max_age_s=2.0))
    peer = serving.connect(server)
    assert peer.is_served
    change(server)

    assert_never(lambda: server.counters.open == 0, 2.5)
    assert peer.is_served


def test_another_change_does_not_draw_the_age_again(serving: Serving, greenlets: str) -> None:
    aging = only(max_age_s=NEVER_S, max_age_jitter_s=NEVER_S)
    server = serving.start(telling_echo(), greenlets=greenlets, deadlines=aging)
    assert serving.connect(server).is_served
    (conn,) = server.connections
    retires_at = conn.retires_at
    change(server, deadlines=dataclasses.replace(aging, idle_s=NEVER_S))
    assert conn.retires_at == retires_at
    change(server, deadlines=dataclasses.replace(aging, max_age_jitter_s=1.0))

    assert NEVER_S <= conn.retires_at - conn.opened_at <= NEVER_S + 1.0


class TlsFiles:
    """Makes the rules of a server with TLS, and connects clients."""

    def __init__(self, folder: Any) -> None:
        self._files = make_certificates(folder)
        self.entrance = EntranceRules(tls=Tls(TlsConfig(self._files.combined)))


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles(tmp_path_factory.mktemp("certificates"))


@KINDS
def test_the_handshake_timeout_holds_for_a_handshake_that_has_begun(
    serving: Serving, greenlets: str, served: Any, tls_files: TlsFiles
) -> None:
    server = serving.start(served, greenlets=greenlets, deadlines=OFF, entrance=tls_files.entrance)
    serving.meet(server)
    change(server, deadlines=only(handshake_s=SOON_S))

    assert_closed(server, CloseReason.HANDSHAKE_TIMEOUT)


def test_no_deadline_is_left_of_a_connection_whose_codec_fails(serving: Serving, greenlets: str) -> None:
    """`partial` of a user's codec may raise: the other connections get the change."""

    class Fragile(Lines):
        is_broken, kept = False, b""

        @property
        def partial(self) -> Any:
            if self.is_broken:
                raise RuntimeError("no")
            return self.kept

        @partial.setter
        def partial(self, value: Any) -> None:
            self.kept = value

    server = serving.start(Service(lambda line, conn: line, Fragile), greenlets=greenlets, deadlines=OFF)
    peers = [serving.connect(server) for _ in range(6)]
    assert all(peer.is_served for peer in peers)
    server.connections[2]._message_began = (1, 0.0)
    server.connections[2].codec.is_broken = True  # type: ignore[attr-defined]
    change(server, deadlines=only(idle_s=SOON_S))

    wait_until(lambda: closed_reasons(server).get(CloseReason.IDLE_TIMEOUT) == 5)


# Rates


def asks(peer: Peer, count: int) -> float:
    """How long so many exchanges take."""
    began = time.monotonic()
    for _ in range(count):
        assert peer.ask(b"x") == b"x"
    return time.monotonic() - began


@KINDS
def test_rates_that_are_turned_on_hold_for_open_connections(serving: Serving, greenlets: str, served: Any) -> None:
    server = serving.start(served, greenlets=greenlets)
    peer = serving.meet(server)
    asks(peer, 50)
    change(server, limits=Limits(max_message_rate=10.0))

    assert asks(peer, 15) > 0.3  # ten at once, and ten a second


@pytest.mark.parametrize("after", [Limits(), Limits(max_byte_rate=1e9)], ids=["off", "higher"])
@KINDS
def test_a_throttled_connection_is_read_again_when_the_rates_are_changed(
    serving: Serving, greenlets: str, served: Any, after: Limits
) -> None:
    server = serving.start(served, greenlets=greenlets, limits=Limits(max_byte_rate=1.0))
    peer = serving.meet(server)
    peer.send(b"x" * 4000 + b"\n")
    wait_until(lambda: server.connections[0].buckets)
    peer.send(b"hello\n")
    change(server, limits=after)

    assert (peer.read_line(), peer.read_line()) == (b"x" * 4000, b"hello")  # and not after an hour
    assert asks(peer, 20) < 5.0


def test_rates_that_are_turned_off_do_not_throttle_a_turn_that_runs(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets, limits=Limits(max_message_rate=0.001))
    peer, other = serving.meet(server), serving.meet(server)
    peer.send(b"wait\nand\nmore\n")
    wait_until(lambda: gate.waiting)
    change(server)
    assert other.ask(b"hello") == b"did hello"
    gate.opened.set()

    assert [peer.read_line() for _ in range(3)] == [b"did wait", b"did and", b"did more"]
    assert peer.ask(b"hello") == b"did hello"


def test_rates_hold_after_a_handler_that_blocked_while_they_were_turned_on(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    change(server, limits=Limits(max_message_rate=2.0, rate_action="close"))
    gate.opened.set()
    assert peer.read_line() == b"did wait"
    peer.send(b"1\n2\n3\n4\n")

    assert_closed(server, CloseReason.RATE_LIMIT)


@KINDS
def test_another_action_holds_for_open_connections(serving: Serving, greenlets: str, served: Any) -> None:
    limits = Limits(max_message_rate=2.0)
    server = serving.start(served, greenlets=greenlets, limits=limits)
    peer = serving.meet(server)
    asks(peer, 2)
    change(server, limits=dataclasses.replace(limits, rate_action="close"))
    for _ in range(2):  # those of a stream are counted when it receives again
        peer.send(b"1\n2\n3\n4\n")
        wait_until(lambda: server.counters.open == 0 or server.counters.messages == 6)

    assert_closed(server, CloseReason.RATE_LIMIT)


@KINDS
def test_a_change_of_something_else_gives_no_new_burst(serving: Serving, greenlets: str, served: Any) -> None:
    limits = Limits(max_message_rate=5.0)
    server = serving.start(served, greenlets=greenlets, limits=limits)
    peer = serving.meet(server)
    asks(peer, 5)
    change(server, limits=limits, deadlines=only(idle_s=NEVER_S))

    assert asks(peer, 5) > 0.5


def test_rates_are_changed_again_and_again_under_load(serving: Serving, greenlets: str) -> None:
    """Every message is answered once and in order, whatever loop its turn began in; no runner is left."""

    def sometimes_slow(line: bytes, conn: Connection) -> bytes:
        if line.endswith(b"3"):
            gevent.sleep(0.002)
        return line

    server = serving.start(make_lines(sometimes_slow), greenlets=greenlets)
    peers = [serving.meet(server) for _ in range(20)]

    def talk(peer: Peer) -> None:
        for number in range(100):
            peer.send(b"%d\n%d\n" % (number, number + 1))
            assert (peer.read_line(), peer.read_line()) == (b"%d" % number, b"%d" % (number + 1))

    talkers = [gevent.spawn(talk, peer) for peer in peers]
    rates = [Limits(), Limits(max_message_rate=1e6), Limits(max_byte_rate=1e9, rate_action="close")]
    changes = 0
    while not all(talker.dead for talker in talkers):
        change(server, limits=rates[changes % 3])
        changes += 1
        gevent.sleep(0.001)

    for talker in talkers:
        talker.get()
    assert changes > 5
    assert server.counters.messages == 20 * 200


def test_a_handler_may_change_the_rates_of_its_own_server(serving: Serving, greenlets: str) -> None:
    """Then another message loop takes over in the middle of a turn of the one before."""

    def changes(line: bytes, conn: Connection) -> bytes:
        limits = Limits(max_message_rate=1e6) if line == b"on" else Limits()
        server.change(deadlines=OFF, limits=limits, send_limit=SEND_LIMIT, keepalive=Keepalive(), proxies=EVERY_PROXY)
        return line

    server = serving.start(make_lines(changes), greenlets=greenlets)
    peers = [serving.meet(server) for _ in range(5)]
    for _ in range(10):
        for peer in peers:
            peer.send(b"on\noff\non\n")
        for peer in peers:
            assert [peer.read_line() for _ in range(3)] == [b"on", b"off", b"on"]


# Admission


@WITH_BARE
def test_connections_that_are_open_count_for_a_new_limit_of_an_address(
    serving: Serving, greenlets: str, served: Any
) -> None:
    server = serving.start(served, greenlets=greenlets)
    peers = [serving.connect(server) for _ in range(3)]
    assert all(peer.is_served for peer in peers)
    change(server, limits=Limits(max_connections_per_ip=3, max_connections_per_network=4, ip_action="close"))

    assert_turned_away(serving.connect(server))
    other = serving.connect(server, host="127.0.0.2")
    assert other.is_served
    assert_turned_away(serving.connect(server, host="127.0.0.3"))  # the network
    assert all(peer.is_served for peer in peers)  # none that was admitted is closed
    peers.pop().close()
    wait_until(lambda: server.counters.open == 3)
    assert serving.connect(server).is_served
    change(server)
    assert serving.connect(server).is_served


@WITH_BARE
def test_connections_above_a_new_limit_are_counted_in_full(serving: Serving, served: Any) -> None:
    """Counting stops at the first limit that a new connection exceeds; those that are open exceed it and stay."""
    server = serving.start(served)
    peers = [serving.connect(server) for _ in range(6)]
    assert all(peer.is_served for peer in peers)
    change(server, limits=Limits(max_connections_per_ip=1, max_connections_per_network=6, ip_action="close"))

    assert_turned_away(serving.connect(server, host="127.0.0.2"))
    peers.pop().close()
    wait_until(lambda: server.counters.open == 5)
    assert serving.connect(server, host="127.0.0.2").is_served


def test_networks_of_another_size_are_counted_anew(serving: Serving) -> None:
    limits = Limits(max_connections_per_network=2, ip_action="close")
    server = serving.start(telling_echo(), limits=limits)
    assert all(serving.connect(server, host=host).is_served for host in ("127.0.0.1", "127.0.1.1"))
    change(server, limits=dataclasses.replace(limits, ipv4_network_bits=16))

    assert_turned_away(serving.connect(server, host="127.0.2.1"))


@pytest.mark.parametrize("is_behind_tls", [False, True])
def test_behind_a_proxy_clients_are_counted_by_their_own_address(
    serving: Serving, tls_files: TlsFiles, is_behind_tls: bool
) -> None:
    """Also one in its TLS handshake, whose PROXY header has arrived, but not one without a header yet."""
    tls = tls_files.entrance.tls if is_behind_tls else None
    server = serving.start(telling_echo(), entrance=proxied(tls=tls))
    early, silent = serving.meet(server), serving.meet(server)
    early.send(v1("192.0.2.7"))
    wait_until(lambda: any(conn.proxy is not None for conn in server.connections))
    change(server, limits=Limits(max_connections_per_ip=1, ip_action="close"), proxies=proxied().proxies)
    late = serving.connect(server)
    late.send(v1("192.0.2.7"))
    assert late.read_to_end() == b""
    silent.send(v1("192.0.2.8"))

    wait_until(lambda: sum(conn.proxy is not None for conn in server.connections) == 2)
    assert closed_reasons(server) == {CloseReason.ADDRESS_LIMIT: 1}


def test_other_proxies_are_trusted_from_the_next_connection_on(serving: Serving) -> None:
    server = serving.start(telling_echo(), entrance=proxied())
    peer = serving.connect(server)
    peer.send(v1())
    assert peer.is_served
    change(server, proxies=AccessList(parse_networks(["127.0.0.2"]), ()))

    assert serving.connect(server).read_to_end() == b""
    trusted = serving.connect(server, host="127.0.0.2")
    trusted.send(v1())
    assert trusted.is_served
    assert peer.is_served


@WITH_BARE
def test_access_lists_hold_for_new_connections_only(serving: Serving, served: Any) -> None:
    server = serving.start(served)
    peer = serving.connect(server)
    assert peer.is_served
    change(server, limits=Limits(deny=parse_networks(["127.0.0.1"])))
    assert_turned_away(serving.connect(server))
    assert peer.is_served
    change(server, limits=Limits(allow=parse_networks(["127.0.0.1"])))

    assert serving.connect(server).is_served
    assert_turned_away(serving.connect(server, host="127.0.0.2"))


@WITH_BARE
def test_a_lower_number_of_connections_closes_none(serving: Serving, served: Any) -> None:
    server = serving.start(served)
    peers = [serving.connect(server) for _ in range(4)]
    assert all(peer.is_served for peer in peers)
    change(server, limits=Limits(worker_connections=2, full_action="close"))
    assert_turned_away(serving.connect(server))
    assert all(peer.is_served for peer in peers)
    for peer in peers[:3]:
        peer.close()
    wait_until(lambda: server.counters.open == 1)

    assert serving.connect(server).is_served


def test_a_lower_limit_of_unsent_bytes_holds_for_the_next_message(serving: Serving, greenlets: str) -> None:
    keeper = Keeper()
    server = serving.start(keeper.service(), greenlets=greenlets, narrow=True)
    serving.connect(server, narrow=True)
    wait_until(lambda: keeper.conns)
    for _ in range(10):
        keeper.conn.send_nowait(b"x" * 50_000)
    change(server, send_limit=1000)
    with pytest.raises(Exception, match="closed"):
        keeper.conn.send_nowait(b"one more")

    assert_closed(server, CloseReason.BUFFER_LIMIT)


# Keepalive


def keepalive_of(sock: Any) -> tuple[int, int, int]:
    options = (plain.TCP_KEEPIDLE, plain.TCP_KEEPINTVL, plain.TCP_KEEPCNT)
    return tuple(sock.getsockopt(plain.IPPROTO_TCP, option) for option in options)


def test_keepalive_holds_for_new_connections_and_can_be_the_kernels_again(serving: Serving) -> None:
    with plain.socket() as fresh:
        kernels = keepalive_of(fresh)
    server = serving.start(telling_echo())
    for keepalive, expected in (
        (Keepalive(60, 7, 3), (60, 7, 3)),
        (Keepalive(50), (50, *kernels[1:])),
        (Keepalive(), kernels),
    ):
        change(server, keepalive=keepalive)
        before = set(server.connections)
        assert serving.connect(server).is_served
        (conn,) = set(server.connections) - before
        assert keepalive_of(conn.sock) == expected
        assert conn.sock.getsockopt(plain.SOL_SOCKET, plain.SO_KEEPALIVE) == 1


def test_a_listener_that_was_used_before_gets_the_kernels_values(serving: Serving) -> None:
    with plain.socket() as fresh:
        kernels = keepalive_of(fresh)
    with plain.create_server(("127.0.0.1", 0)) as listener:
        Keepalive(60, 7, 3).set_on(listener)
        server = serving.start(telling_echo(), listener.dup())
        assert keepalive_of(server.socket) == kernels
        server.drain(1.0)


# Drains


def test_a_change_in_a_drain_and_after_it_disturbs_nothing(serving: Serving, greenlets: str) -> None:
    gate = Gate()
    server = serving.start(gate.service(), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    drain = gevent.spawn(server.drain, 20.0)
    wait_until(lambda: server.closed)
    change(server, limits=Limits(max_message_rate=9.0, max_connections_per_ip=1), deadlines=only(idle_s=NEVER_S))
    gate.opened.set()
    assert peer.read_to_end() == b"did wait\n"
    assert drain.get() == 0
    change(server, limits=Limits(), deadlines=OFF)


# Thousands of connections


class Quiet:
    """Stands in for a socket: nothing arrives, and what is sent is taken."""

    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...

    def shutdown(self, how: int) -> None: ...


COUNT = 15_000
SLICE_LIMIT_S = 0.002


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """CPU time between two yields of the greenlet that applies a change, in seconds."""
    found: list[float] = []
    original = TcpServer._apply_to_all

    def measured(server: TcpServer, *arguments: Any) -> None:
        began = time.thread_time()
        yield_to_others = server._fairness.yield_to_others

        def yielding() -> None:
            nonlocal began
            found.append(time.thread_time() - began)
            yield_to_others()
            began = time.thread_time()

        server._fairness.yield_to_others = yielding  # type: ignore[method-assign]
        original(server, *arguments)
        found.append(time.thread_time() - began)

    monkeypatch.setattr(TcpServer, "_apply_to_all", measured)
    return found


def assert_short(times_s: list[float]) -> None:
    """Four of five are short. A busy machine makes some longer; in one piece it would be one of 94 ms."""
    assert sorted(times_s)[len(times_s) * 4 // 5] < SLICE_LIMIT_S, sorted(times_s)[-10:]
    assert max(times_s) < 10 * SLICE_LIMIT_S


@pytest.mark.parametrize("is_stream", [False, True])
def test_with_thousands_of_connections_a_change_blocks_nobody(
    serving: Serving, greenlets: str, is_stream: bool, slices: list[float]
) -> None:
    served: Service | StreamService = echo_stream if is_stream else telling_echo()
    server = serving.start(served, greenlets=greenlets, deadlines=only(idle_s=NEVER_S))
    kind: type[Connection] = StreamConnection if is_stream else Connection
    conns = [kind(Quiet(), (f"10.{i >> 8}.{i & 255}.1", 1), Lines(), server) for i in range(COUNT)]  # type: ignore[arg-type]
    server._connections.update(conns)
    gc.collect()
    peer = serving.meet(server)
    limits = Limits(max_connections_per_ip=5, max_connections_per_network=50, max_message_rate=1000.0)
    try:
        server._door.change(limits)
        server.change(
            deadlines=only(idle_s=100.0, max_age_s=NEVER_S),
            limits=limits,
            send_limit=SEND_LIMIT,
            keepalive=Keepalive(),
            proxies=EVERY_PROXY,
        )
        asked = 0
        while server._callbacks.greenlets:
            assert peer.ask(b"hello") == b"hello"
            asked += 1
    finally:
        server._connections.difference_update(conns)
        for conn in conns:
            server._keeper.forget(conn)
            server._door.left(conn)

    assert asked > 5
    assert len(slices) > 20
    assert_short(slices)
    assert all(conn.retires_at < time.monotonic() + NEVER_S for conn in conns)


def test_thousands_of_connections_that_are_idle_for_too_long_are_closed_in_slices(
    serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving.start(telling_echo(), greenlets=greenlets, deadlines=only(idle_s=NEVER_S))
    conns = [Connection(Quiet(), ("10.0.0.1", 1), Lines(), server) for _ in range(COUNT)]  # type: ignore[arg-type]
    for conn in conns:
        server.counters.opened()
        server._connections.add(conn)
        conn.active_at = conn.received_at = conn.active_at - 60.0
    checks_s: list[float] = []
    original = server._keeper._check_due

    def measured() -> None:
        began = time.thread_time()
        original()
        checks_s.append(time.thread_time() - began)

    monkeypatch.setattr(server._keeper, "_check_due", measured)
    peer = serving.meet(server)
    assert peer.is_served
    gc.collect()
    change(server, deadlines=only(idle_s=30.0))
    while len(server.connections) > 1:
        assert peer.ask(b"hello") == b"hello"

    assert closed_reasons(server) == {CloseReason.IDLE_TIMEOUT: COUNT}
    assert len(checks_s) > 20
    assert_short(checks_s)
