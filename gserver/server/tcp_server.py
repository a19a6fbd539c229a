"""TcpServer: gevent's StreamServer with services, deadlines, limits, counters and a graceful drain.

    accept -> admission -> handshakes (PROXY, TLS) -> engine (a service), or a greenlet of gevent's own (a bare handler)

With a bare handler it is gevent's StreamServer that also counts and limits connections. With a service it also has raw
non-blocking sockets (gevent's wrapped ones take a memory page each), deadlines, and drain().
"""

from __future__ import annotations

import _socket
import functools
import logging
import math
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import gevent
from gevent.event import Event
from gevent.pool import Group
from gevent.server import StreamServer

from gserver.codecs import Codec, Raw
from gserver.connection.connection import Address, Connection, State, format_address, swap_context
from gserver.connection.lingering_close import LingeringClose
from gserver.connection.log_throttling import CLOSED, NO_DESCRIPTOR, NO_SPARE, SHED, TURNED_AWAY, Notices
from gserver.connection.stream_connection import StreamConnection
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.counters import Counters
from gserver.engine.deadline_timer import DeadlineTimer
from gserver.engine.factory import change_rates, make_engine
from gserver.engine.task_runner import TaskRunner, kill_tasks
from gserver.errors import CloseReason, HandlerTimeout, LimitExceeded
from gserver.fault_isolation import Killed, interrupt_program, shielded
from gserver.limits.access_list import AccessList
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.log_records import log_about
from gserver.server.admission import Door, OwnOccupancy
from gserver.server.handshake import EntranceRules, Handshake
from gserver.server.idle_eviction import IdleEviction
from gserver.server.reserve_descriptor import EXHAUSTED, ReserveDescriptor, close_now
from gserver.server.socket_handlers import BareHandlers
from gserver.service import Service, StreamService
from gserver.tls.contexts import Tls
from gserver.tls.tls_connection import TlsConnection, TlsStreamConnection
from gserver.user_errors import check_bare

__all__ = ["Handle", "Keepalive", "TcpServer"]

log = logging.getLogger("gserver.server")

#: What a server serves: a service, or a bare handler as gevent's StreamServer takes it.
Handle = Service | StreamService | Callable[[Any, Any], Any]

LINGER_S = 2.0
SEND_LIMIT = 1024 * 1024
# How long a handler that was killed may take to end.
KILL_GRACE_S = 0.5
# The shortest sleep of a drain that is spread out; it drains the connections that are due meanwhile without a sleep.
SPREAD_STEP_S = 0.005
# How long after it was accepted a draining server still serves a connection that has had no reply yet: the time that a
# distant peer needs for a handshake and a first message. nginx also answers the first request.
FIRST_ANSWER_S = 5.0
FIRST_ANSWER_STEP_S = 0.02
# How long a server without descriptors waits before it accepts again.
EXHAUSTED_PAUSE_S = 0.05
# Hosts of which one string is shared by all their connections; with one more the table is cleared.
KNOWN_HOSTS = 1024
# Close reasons after which the peer may still be sending. Without a lingering close it could lose its last reply.
_LINGERING = {
    CloseReason.PROTOCOL_ERROR,
    CloseReason.HANDLER_ERROR,
    CloseReason.FINISHED,
    CloseReason.DRAINED,
    CloseReason.HANDSHAKE_FAILED,
    CloseReason.MESSAGE_TIMEOUT,
    CloseReason.HANDLER_TIMEOUT,
    CloseReason.AGED,
    CloseReason.RATE_LIMIT,
    CloseReason.ADMINISTRATIVE,
}
# The same, but only if something was sent: a flood of refused clients must cost as little as possible.
_LINGERING_IF_ANSWERED = {CloseReason.FULL, CloseReason.ADDRESS_LIMIT, CloseReason.ACCEPT_RATE}
_KEEPALIVE_OPTIONS = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
_ENDED_BY_PEER = {CloseReason.PEER_EOF, CloseReason.PEER_RESET}
_KINDS: dict[tuple[bool, bool], type[Connection]] = {  # by: has a stream handler, uses TLS
    (False, False): Connection,
    (True, False): StreamConnection,
    (False, True): TlsConnection,
    (True, True): TlsStreamConnection,
}


@dataclass(frozen=True)
class Keepalive:
    """TCP keepalive: when the kernel probes a silent peer, and when it gives up (tcp(7)). 0: the kernel's default."""

    idle_s: int = 0  # silence before the first probe
    interval_s: int = 0
    count: int = 0  # unanswered probes that end the connection

    def set_on(self, listener: Any) -> None:
        """Set it on a listener. Accepted sockets inherit it, so it costs no system call for each of them."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        defaults = _keepalive_defaults(listener.family)  # the listener may have other values from before a reload
        for option, value in zip(_KEEPALIVE_OPTIONS, (self.idle_s, self.interval_s, self.count), strict=True):
            listener.setsockopt(socket.IPPROTO_TCP, option, value or defaults[option])


@functools.cache  # a change of limits must not need a descriptor
def _keepalive_defaults(family: int) -> dict[int, int]:
    """The kernel's values, by option."""
    fresh = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        return {option: fresh.getsockopt(socket.IPPROTO_TCP, option) for option in _KEEPALIVE_OPTIONS}
    finally:
        fresh.close()


class TcpServer(StreamServer):
    """Serve `handle` on `listener`.

    Args:
        listener: an address, as gevent takes it, or a listening socket; the server closes it.
        handle: a Service, a @stream function, or a bare handle(socket, address).
        backlog: length of the kernel's accept queue; default 2048.
        spawn: gevent's; for a bare handler only.
        ssl arguments: gevent's; with a service, its connections use TLS by gserver.tls.
        greenlets: "pooled" (default) or "dedicated": how connections are served; see gserver.engine.schedulers.
        linger_s: how long a socket may linger, in seconds, after the last reply was sent; default 2.
        counters: where to count; default: counters of its own.
        deadlines: timeouts of a service's connections; default: Deadlines().
        limits: limits on connections and rates; default: Limits().
        door: admits connections, perhaps for several servers; default: one of its own, with `limits`.
        entrance: the PROXY header and the TLS that a service's connections begin with; default: neither.
        send_limit: send_nowait() closes a connection with more bytes unsent than this; default 1 MiB.
        keepalive: when the kernel gives up a silent TCP peer; default: the kernel's settings.
        notices: logs the limits that clients reach; default: its own, logged to the end by drain().
        name: of the listener, for conn.listener; default: its address.

    start(), serve_forever(), stop() and `with` are gevent's; stop(timeout) drains, for one second by default.

    Example:
        from gevent import socket

        server = TcpServer(("127.0.0.1", 0), Service(lambda line, conn: line.upper(), Lines))
        server.start()
        with socket.create_connection(("127.0.0.1", server.server_port)) as sock:
            sock.sendall(b"hello\\n")
            assert sock.recv(6) == b"HELLO\\n"
        server.stop()
    """

    backlog = 2048
    #: Called for each connection before the service gets it, while there is a recording; else None.
    on_opened: Callable[[Connection], None] | None = None
    #: Whether exceptions of a bare handler are logged here, and not passed on to gevent.
    logs_bare_failures = False

    def __init__(
        self,
        listener: Any,
        handle: Handle | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        *,
        greenlets: Literal["pooled", "dedicated"] = "pooled",
        linger_s: float = LINGER_S,
        counters: Counters | None = None,
        deadlines: Deadlines | None = None,
        limits: Limits | None = None,
        door: Door | None = None,
        entrance: EntranceRules | None = None,
        send_limit: int = SEND_LIMIT,
        keepalive: Keepalive | None = None,
        notices: Notices | None = None,
        name: str = "",
        **ssl_args: Any,
    ) -> None:
        self.counters = counters or Counters()
        self.listener_name, self.send_limit = name, send_limit
        self._keepalive, self._deadlines = keepalive or Keepalive(), deadlines or Deadlines()
        self._limits = limits or Limits()
        self._access = _access_of(self._limits)
        self._door = door or Door(self._limits, OwnOccupancy(self.counters))
        self._spare: ReserveDescriptor | None = None
        self._notices = notices or Notices()
        self._hosts: dict[str, str] = {}
        self._connections: set[Connection] = set()
        self._outside: set[Connection] = set()  # connections that the service does not have yet: on_open was not called
        self._bare = BareHandlers(self._bare_ended, self.logs_bare_failures)
        self._idle_eviction = IdleEviction(lambda: self._connections)
        self._callbacks = Group()  # greenlets of on_open and on_close
        self._quiet = Event()
        self._drained: Event | None = None  # exists once a drain has begun; set when it is over
        self._handle: Any = None  # gevent's: called for each accepted socket
        self._linger = LingeringClose(linger_s, self._check_quiet)
        self._service = handle if isinstance(handle, Service | StreamService) else None
        if self._service is None and handle is not None:
            check_bare("handle", handle)
        service = handle if isinstance(handle, Service) else None
        self._on_open, self._on_close = (service.on_open, service.on_close) if service else (None, None)
        if self._service is not None and ssl_args:
            entrance, ssl_args = EntranceRules(tls=Tls.of_arguments(ssl_args)), {}
        self._handshake: Handshake | None = None
        if entrance is not None:
            self._handshake = Handshake(entrance, self._admit_peer, self._let_in, self._notices)
        self._rules = entrance or EntranceRules()
        self._kind = _KINDS[isinstance(handle, StreamService), self._rules.tls is not None]
        self._fairness = Fairness()
        self._engine = (
            None
            if self._service is None
            else make_engine(self._service, greenlets, self.counters, self._fairness, self._limits, self._notices)
        )
        self._keeper = DeadlineTimer(self._deadlines, self._engine)
        self._task_runner = TaskRunner(self._failed, lambda: self._deadlines.handler_s)
        # The cast: gevent keeps a service, but does not call it.
        super().__init__(listener, cast(Any, handle), backlog, spawn, **ssl_args)

    # Accepting

    def init_socket(self) -> None:
        super().init_socket()
        self.listener_name = self.listener_name or format_address(self.address)
        self.socket.setblocking(False)  # one from the standard library may be blocking, and would block the whole hub
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            # Inherited by every accepted socket, where it would cost a system call each time.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._keepalive.set_on(self.socket)
        if self._spare is None:
            self._spare = ReserveDescriptor()
        if self._service is None:
            self._handle = functools.partial(self._bare.run, self._handle)

    def do_read(self) -> tuple[Any, Any] | None:  # type: ignore[override]  # None: no client waits, as in gevent's own
        try:
            return self._accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            return self._accept_without_descriptors(error)

    def _accept(self) -> tuple[Any, Any] | None:
        if self._service is None:
            return super().do_read()
        listener: Any = self.socket  # the C socket: gevent has unwrapped it
        try:
            fd, address = listener._accept()
        except BlockingIOError:
            return None
        sock = _socket.socket(listener.family, listener.type, listener.proto, fd)
        sock.setblocking(False)
        if listener.family != socket.AF_UNIX:
            # The same few hosts connect again and again (proxies, gateways): one string for all connections of a host
            # saves 60 bytes each. Not by sys.intern(): CPython 3.12 keeps such strings for ever.
            if len(self._hosts) >= KNOWN_HOSTS:
                self._hosts.clear()
            address = (self._hosts.setdefault(address[0], address[0]), *address[1:])
        return sock, address

    def pause_accepting(self, seconds: float) -> None:
        """Stop accepting for `seconds`; new connections wait in the accept queue meanwhile."""
        self.stop_accepting()
        # gevent's own attribute, for pauses after errors: gevent stops it with the server.
        self._timer: Any = self.loop.timer(seconds)
        self._timer.start(self._pause_is_over, update=True)  # from now, not from the start of a long loop iteration

    def _pause_is_over(self) -> None:
        if not shielded("accepting again", self._come_back):
            self.pause_accepting(EXHAUSTED_PAUSE_S)

    def _come_back(self) -> None:
        if self._spare is not None:
            self._spare.take()  # first: the next client may use the only descriptor that is free now
        if self.started:
            self.start_accepting()

    def _accept_without_descriptors(self, error: OSError) -> tuple[Any, Any] | None:
        """No descriptor is free: close the client that waits, or evict the longest idle connection for it."""
        assert self._spare is not None
        try:
            if not self._spare.is_there:
                raise error
            accepted = self._spare.lend(self._accept)
        except OSError:
            self._spare.take()
            self._notices.note(logging.ERROR, NO_SPARE, "", error.strerror or str(error))
            self.pause_accepting(EXHAUSTED_PAUSE_S)
            return None
        if accepted is not None and not self._make_room(LimitExceeded(str(error), CloseReason.FULL)):
            close_now(accepted[0])
            self.counters.opened()
            self.counters.ended(CloseReason.FULL)
            self._notices.note(logging.ERROR, NO_DESCRIPTOR, "", error.strerror or str(error))
            accepted = None
        self._spare.take()
        return accepted

    def do_handle(self, sock: Any, address: Address) -> None:
        if self._service is not None:
            self.adopt(sock, address)
            return
        self.counters.opened()
        refusal = self._door.check_address(sock, address, self._access) or self._door.check_accept()
        if refusal is not None:
            self._door.left(sock)
            self._notices.limit(TURNED_AWAY, address, refusal)
            self.counters.ended(refusal.close_reason)
            sock.close()
            return
        self._bare.began(sock, address)
        super().do_handle(sock, address)

    def do_close(self, sock: Any, *args: Any) -> None:
        """Called by gevent at the end of a bare handler, and if it could not be started."""
        super().do_close(sock, *args)
        self._bare.end(sock, CloseReason.HANDLER_ERROR)

    def adopt(self, sock: _socket.socket, address: Address) -> Connection:
        """Serve a connected, non-blocking socket like one that was accepted from `address`.

        The server closes the socket, also if this raises.
        """
        assert self._service is not None
        codec, failure = self._make_codec()
        try:
            conn = self._kind(sock, address, codec, self)
        except BaseException:
            sock.close()
            raise
        self.counters.opened()
        self._connections.add(conn)
        self._outside.add(conn)
        if self._deadlines.max_age_s:
            conn.accepted(self._deadlines.retirement(conn.opened_at, random.random()))
        else:
            conn.accepted()
        log_about(conn, log, logging.DEBUG, "accepted %(conn)s")
        if failure is not None:  # without a codec there is no answer
            self.counters.failed()
            log_about(conn, log, logging.ERROR, "codec failed for %(conn)s", exc_info=failure)
            conn.close(CloseReason.HANDLER_ERROR)
            return conn
        # The address first, if it is known: no connection is evicted for a client that is refused anyway.
        refusal = self._door.check_address(conn, address, self._access) if self._rules.proxy is None else None
        refusal = refusal or self._door.check_accept()
        if refusal is not None and not self._make_room(refusal):
            self._refuse(conn, refusal)
        elif self._handshake is not None:
            self._keeper.watch(conn)
            self._handshake.begin(conn)
        else:
            self._let_in(conn)
        return conn

    def _make_codec(self) -> tuple[Codec, BaseException | None]:
        """Make a codec; if the user's class raises, return Raw(), with which to close, and the exception."""
        assert self._service is not None
        try:
            return self._service.codec(), None
        except BaseException as error:
            return Raw(), error

    def _admit_peer(self, conn: Connection) -> bool:
        """The PROXY header has given the peer's address: return whether it is admitted; if not, close `conn`."""
        refusal = self._door.check_address(conn, conn.peer, self._access)
        if refusal is not None:
            self._refuse(conn, refusal)
        return refusal is None

    def _refuse(self, conn: Connection, refusal: LimitExceeded) -> None:
        log_about(conn, log, logging.DEBUG, "refused %(conn)s: %(refusal)s", refusal=refusal)
        self._notices.limit(TURNED_AWAY, conn, refusal)
        conn.stop_watching()  # input behind the PROXY header may arrive before the greenlet that sends the refusal runs
        if self._door.action_for(refusal) != "close" and self._rules.tls is None:
            assert self._engine is not None
            self._engine.dismiss(conn, refusal)
        else:  # no answer can be sent before a TLS handshake
            conn.close(refusal.close_reason)

    def _make_room(self, refusal: LimitExceeded) -> bool:
        """Evict the longest idle connection, if the action for `refusal` is "shed"; return whether one was evicted."""
        longest = self._idle_eviction.take() if self._door.action_for(refusal) == "shed" else None
        if longest is not None:
            self._notices.limit(SHED, longest, refusal)
            longest.close(CloseReason.SHED)
        return longest is not None

    def _let_in(self, conn: Connection) -> None:
        """The connection is admitted and its handshakes are complete: pass it to the service."""
        assert self._service is not None
        conn.opened()
        self._keeper.begin(conn)
        self._outside.discard(conn)
        if self.on_opened is not None:
            self.on_opened(conn)
        self.connection_opened(conn)
        if self._on_open is None:
            self._begin(conn)
        else:
            conn.occupied_by(self._callbacks.spawn(self._open, conn, self._on_open))

    def connection_opened(self, conn: Connection) -> None:
        """For subclasses: called for each connection that the service gets. connection_closed() is called for all."""

    def _open(self, conn: Connection, on_open: Callable[[Connection], None]) -> None:
        conn.begin_turn()  # a close() meanwhile takes effect at the end of on_open
        conn.handler_blocks(time.monotonic())
        try:
            self._call_on_open(conn, on_open)
            conn.flush_replies()
        except Killed:
            conn.abort(CloseReason.KILLED)
        finally:
            conn.released()
            conn.restart_idle_clocks()
            conn.end_turn()
        if conn.close_reason is None:
            self._begin(conn)

    def _call_on_open(self, conn: Connection, on_open: Callable[[Connection], None]) -> None:
        assert self._engine is not None
        try:
            on_open(conn)
        except Killed:
            raise
        except BaseException as error:
            self._engine.failed("on_open", conn, error)
            conn.close(error.close_reason if isinstance(error, HandlerTimeout) else CloseReason.HANDLER_ERROR)

    def _begin(self, conn: Connection) -> None:
        assert self._engine is not None
        self._engine.add(conn)
        if conn.state is not State.OPEN:  # the drain began while on_open ran
            self._engine.drain(conn, conn.drain_reason)
        elif conn.is_sealed and conn.has_buffered:
            self._engine.wake(conn)

    def connection_waits(self, conn: Connection) -> None:
        """See Owner: a deadline of `conn` begins."""
        self._keeper.watch(conn)

    def spawn_task(
        self, conn: Connection, function: Callable[..., object], arguments: tuple[Any, ...]
    ) -> gevent.Greenlet[..., Any]:
        """See Owner."""
        return self._task_runner.spawn(conn, function, arguments)

    def _failed(self, what: str, conn: Connection, error: BaseException) -> object:
        assert self._engine is not None
        return self._engine.failed(what, conn, error)

    # Changing limits while connections are served

    def change(
        self,
        *,
        deadlines: Deadlines,
        limits: Limits,
        send_limit: int,
        keepalive: Keepalive,
        proxies: AccessList,
    ) -> None:
        """Use other deadlines and limits from now on, also for the connections that there are.

        The arguments are those of the constructor; proxies is that of EntranceRules. Connections are looked at in time
        slices, so with many of them it takes some time. None is closed for a limit that it was admitted under. The
        caller changes a door that several servers share; call this afterwards.
        """
        if self._drained is not None and self._drained.is_set():  # all is closed
            return
        has_other_age = (self._deadlines.max_age_s, self._deadlines.max_age_jitter_s) != (
            deadlines.max_age_s,
            deadlines.max_age_jitter_s,
        )
        has_other_rates = limits.rates != self._limits.rates
        self._deadlines, self._limits, self.send_limit = deadlines, limits, send_limit
        self._access = _access_of(limits)
        self._keepalive = keepalive
        if not self.closed and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            keepalive.set_on(self.socket)
        if self._handshake is not None:
            self._handshake.change_proxies(proxies)
        self._keeper.change(deadlines)
        if self._engine is not None and self._service is not None and has_other_rates:
            change_rates(self._engine, self._service, self.counters, self._fairness, limits, self._notices)
        self._callbacks.spawn(self._apply_to_all, has_other_age, has_other_rates)

    def _apply_to_all(self, has_other_age: bool, has_other_rates: bool) -> None:
        slice_ends = time.monotonic() + SLICE_S
        for each in [*self._connections, *self._bare.sockets]:
            if time.monotonic() > slice_ends:
                self._fairness.yield_to_others()
                slice_ends = time.monotonic() + SLICE_S
            if not isinstance(each, Connection):
                shielded("changing limits", self._recount_bare, each)
            elif each.state is not State.CLOSED and each in self._connections:
                shielded("changing limits", self._apply_to, each, has_other_age, has_other_rates, conn=each)

    def _recount_bare(self, sock: Any) -> None:
        peer = self._bare.address_of(sock)
        if peer is not None:
            self._door.recount(sock, peer)

    def _apply_to(self, conn: Connection, has_other_age: bool, has_other_rates: bool) -> None:
        assert self._engine is not None
        if self._rules.proxy is None or conn.proxy is not None:  # else the client's address is not known yet
            self._door.recount(conn, conn.peer)
        if has_other_rates:
            self._engine.rates_changed(conn)
        if has_other_age:
            conn.retire_at(self._deadlines.retirement(conn.opened_at, random.random()))
        self._keeper.watch_anew(conn)

    # Ending

    def connection_closed(self, conn: Connection) -> None:
        """See Owner: nothing more is sent or received. Close the socket, and count the end of the connection."""
        reason = conn.close_reason
        assert reason is not None
        assert self._engine is not None
        self._engine.forget(conn)
        self._keeper.forget(conn)
        self._door.left(conn)
        if reason is CloseReason.BUFFER_LIMIT:
            text = f"more than {self.send_limit} bytes wait to be sent"
            self._notices.limit(CLOSED, conn, LimitExceeded(text, reason, "send_buffer_limit"))
        if reason in _LINGERING or (reason in _LINGERING_IF_ANSWERED and conn.sent_bytes):
            self._linger.take(conn.sock)
        else:
            conn.sock.close()
        counted = CloseReason.HEALTH_CHECK if self._is_health_check(conn) else reason
        self.counters.ended(counted, conn.received_bytes, conn.sent_bytes)

    def _is_health_check(self, conn: Connection) -> bool:
        """Whether a closed connection was one of the proxy itself, and not of a client.

        A PROXY header with LOCAL shows it; and so does the end before the first byte, because for a client a proxy
        sends the header as soon as it has connected.
        """
        if self._rules.proxy is None:
            return False
        if conn.proxy is None:
            return not conn.received_bytes and conn.close_reason in _ENDED_BY_PEER
        return conn.is_health_check

    def connection_left(self, conn: Connection) -> None:
        """See Owner: no handler uses `conn` any more. Call on_close, unless the service never had it."""
        self._connections.discard(conn)
        if conn in self._outside:
            self._outside.discard(conn)
        elif self._on_close is not None:
            assert conn.close_reason is not None
            self._callbacks.spawn(self._call_on_close, conn, conn.close_reason, self._on_close)
        self._check_quiet()

    def _call_on_close(
        self, conn: Connection, reason: CloseReason, on_close: Callable[[Connection, CloseReason], None]
    ) -> None:
        swap_context(conn)
        try:
            on_close(conn, reason)
        except Killed:
            raise
        except BaseException as error:
            self.counters.failed()
            log_about(conn, log, logging.ERROR, "on_close failed for %(conn)s", exc_info=True)
            interrupt_program(error)

    def _bare_ended(self, sock: Any, reason: CloseReason) -> None:
        if reason is CloseReason.HANDLER_ERROR:
            self.counters.failed()
        self._door.left(sock)
        self.counters.ended(reason)
        self._check_quiet()

    def _check_quiet(self) -> None:
        if not self._connections and not self._bare and not self._linger:
            self._quiet.set()

    def close_connection(self, conn: Connection, *, at_once: bool = False) -> None:
        """Close one of the connections for an operator: after the reply that is due.

        Args:
            at_once: discard what is unsent, and kill the handler that runs.
        """
        if not at_once:
            conn.close(CloseReason.ADMINISTRATIVE)
            return
        conn.abort(CloseReason.ADMINISTRATIVE)
        kill_tasks(conn)
        if conn.runner is not None:
            assert self._engine is not None
            self._engine.kill(conn)

    @property
    def connections(self) -> list[Connection]:
        """The connections of the service that are open, or that a handler still uses: a list for the caller."""
        return list(self._connections)

    def drain(
        self,
        timeout: float | None = None,
        *,
        spread_s: float = 0.0,
        accept_queued: bool = True,
        first_answer_s: float = FIRST_ANSWER_S,
    ) -> int:
        """Stop accepting, answer what was received by now, and close everything. Blocks the calling greenlet.

        Each connection is served until a random moment within `spread_s`, so that not all peers connect again at once.
        A connection that has had no reply yet, such as one in its handshake, is served until its first message is
        answered. A handler in the middle of a message finishes it.

        Args:
            timeout: seconds after `spread_s` at which everything that is left is killed; default: None, never.
            spread_s: seconds over which the connections are closed; default 0.
            accept_queued: accept the connections in the accept queue first, so that none is reset (the default).
                False if another process accepts them.
            first_answer_s: how long, in seconds after it was accepted, a connection may wait for its first answer;
                default 5; never longer than until half of `timeout` has passed after `spread_s`.

        Return how many connections and bare handlers had to be killed.
        """
        deadline = None if timeout is None else time.monotonic() + spread_s + timeout
        self._drained = Event()
        try:
            if not self.closed:
                if accept_queued:
                    self._accept_queued()
                self.close()
            first_answers_until = time.monotonic() + spread_s + (math.inf if timeout is None else timeout / 2)
            self._drain_unanswered(self._drain_answered(spread_s, first_answer_s), first_answer_s, first_answers_until)
            self._wait_quiet(deadline)
            killed = self._kill_rest()
            self._callbacks.join(_remaining(deadline))
            self._callbacks.kill(Killed, timeout=KILL_GRACE_S)
            self._keeper.close()
            if self._engine is not None:
                self._engine.close()
            self._fairness.close()
        finally:
            self._notices.log_all()
            self._drained.set()
        log.debug("connections: %s", self.counters)
        return killed

    def close(self) -> None:
        super().close()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, then drain() for `timeout` seconds (default: stop_timeout, 1), or wait for a drain that runs.

        A bare handler without a pool runs until it ends, as in gevent.
        """
        if self._drained is not None:
            self._drained.wait()
        elif self._service is None:
            super().stop(timeout)
        else:
            self.close()
            self.drain(self.stop_timeout if timeout is None else timeout)

    def _accept_queued(self) -> None:
        for _ in range(self.backlog):
            if self.full():
                return
            try:
                accepted = self.do_read()
            except OSError as error:
                log.error("cannot accept what is queued: %s", error)
                return
            if accepted is None:
                return
            try:
                self.do_handle(*accepted)
            except BaseException:
                log.exception("cannot serve a connection that was queued")

    def _drain_answered(self, spread_s: float, first_answer_s: float) -> list[Connection]:
        """Drain the connections, each at a random moment of its share of `spread_s`.

        Return those that are left out because they await their first answer.
        """
        began = time.monotonic()
        connections = list(self._connections)
        random.shuffle(connections)
        unanswered: list[Connection] = []
        for number, conn in enumerate(connections):
            pause = began + spread_s * (number + random.random()) / len(connections) - time.monotonic()
            if pause > SPREAD_STEP_S:
                gevent.sleep(pause)
            if conn.awaits_first_answer and time.monotonic() < conn.opened_at + first_answer_s:
                unanswered.append(conn)
            elif conn in self._connections:
                self._drain_one(conn)
        return unanswered

    def _drain_unanswered(self, unanswered: list[Connection], first_answer_s: float, until: float) -> None:
        """Drain each connection as soon as its first message is answered, or its time for that is over."""
        while unanswered := [conn for conn in unanswered if conn in self._connections]:
            now = time.monotonic()
            waiting = [
                conn
                for conn in unanswered
                if conn.awaits_first_answer and now < min(conn.opened_at + first_answer_s, until)
            ]
            for conn in set(unanswered).difference(waiting):
                self._drain_one(conn)
            unanswered = waiting
            if waiting:
                gevent.sleep(FIRST_ANSWER_STEP_S)

    def _drain_one(self, conn: Connection) -> None:
        assert self._engine is not None
        if conn in self._outside:
            conn.close(CloseReason.DRAINED)
        elif conn.watcher is None:  # on_open still runs: _begin() drains the connection afterwards
            conn.start_draining()
        else:
            self._engine.drain(conn)

    def _wait_quiet(self, deadline: float | None) -> None:
        self._quiet.clear()
        self._check_quiet()
        self._quiet.wait(_remaining(deadline))

    def _kill_rest(self) -> int:
        rest = list(self._connections)
        for conn in rest:
            assert self._engine is not None
            self._engine.kill(conn)
        bare = self._bare.interrupt_all()
        if rest or bare:
            self._wait_quiet(time.monotonic() + KILL_GRACE_S)
        for conn in list(self._connections):  # their handlers caught Killed
            conn.abort(CloseReason.KILLED)
        self._bare.close_all()
        self._linger.close()
        return len(rest) + bare


def _access_of(limits: Limits) -> AccessList | None:
    return AccessList(limits.allow, limits.deny) if limits.allow or limits.deny else None


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
