"""TcpServer: gevent's StreamServer, with services, an orderly end and a ledger.

    accept -> Connection -> engine (a service), or a greenlet of gevent's own (a bare handle(socket, address))

It is a StreamServer in every respect, and in the bare shape it is nothing more but counted. What a service adds: raw
non-blocking sockets instead of gevent's wrapped ones, which cost a page each, and drain().
"""

from __future__ import annotations

import _socket
import functools
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

import gevent
from gevent.event import Event
from gevent.pool import Group
from gevent.server import StreamServer
from greenlet import GreenletExit, getcurrent

from gserver.connection import Address, Connection
from gserver.engine import DedicatedEngine, Engine, PooledEngine
from gserver.errors import CloseReason, ConfigError
from gserver.ledger import Ledger
from gserver.linger import Linger
from gserver.service import Service, StreamService
from gserver.streams import StreamConnection, StreamEngine
from gserver.turn import Turn

__all__ = ["Handle", "TcpServer"]

log = logging.getLogger("gserver.server")

#: What a server serves: a service, or gevent's classic handler.
Handle = Service | StreamService | Callable[[Any, Any], Any]

LINGER_S = 2.0
# How long a handler that was killed may take to notice.
KILL_GRACE_S = 0.5
# A drain that is spread out sleeps at least so long, and closes what is due meanwhile.
SPREAD_STEP_S = 0.005
# Ends after which the peer may still be sending, so that its last reply is only safe with a lingering close.
_LINGERING = {
    CloseReason.PROTOCOL_ERROR,
    CloseReason.HANDLER_ERROR,
    CloseReason.FINISHED,
    CloseReason.DRAINED,
}


class TcpServer(StreamServer):
    """Serve `handle` on `listener`.

    Args:
        listener: an address, as gevent takes it, or a socket that listens; the server closes it.
        handle: a Service, a @stream function, or a bare handle(socket, address).
        backlog, spawn, ssl arguments: gevent's; spawn and ssl apply to a bare handle only.
        greenlets: "pooled" (default) or "dedicated": how a Service's connections are served; see gserver.engine.
        linger_s: how long a socket may stay, in seconds, after the last reply was sent; default 2.
        ledger: where to count; default: one of its own.

    start(), serve_forever(), stop() and `with` are gevent's; stop(timeout) drains, for a second by default.
    """

    backlog = 2048

    def __init__(
        self,
        listener: Any,
        handle: Handle | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        *,
        greenlets: Literal["pooled", "dedicated"] = "pooled",
        linger_s: float = LINGER_S,
        ledger: Ledger | None = None,
        **ssl_args: Any,
    ) -> None:
        self.ledger = ledger or Ledger()
        self._connections: set[Connection] = set()
        self._bare: dict[Any, Any] = {}  # the sockets of bare handlers, and their greenlets once they run
        self._callbacks = Group()  # on_open and on_close while they run
        self._quiet = Event()
        self._drained: Event | None = None  # there once a drain has begun, set when it is over
        self._handle: Any = None  # gevent's: what it calls for an accepted socket
        self._linger = Linger(linger_s, self._check_quiet)
        self._service = handle if isinstance(handle, Service | StreamService) else None
        if self._service is not None and ssl_args:
            raise ConfigError(f"TLS is not available for services yet, only for bare handlers: {', '.join(ssl_args)}")
        self._engine = None if self._service is None else _make_engine(self._service, greenlets, self.ledger)
        bare: Any = handle  # a service is never called: gevent only keeps it
        super().__init__(listener, bare, backlog, spawn, **ssl_args)

    # Accepting

    def init_socket(self) -> None:
        super().init_socket()
        self.socket.setblocking(False)  # one from the standard library may block, and the whole hub with it
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            # Inherited by every accepted socket, where it would cost a system call each.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._service is None:
            self._handle = functools.partial(self._run_bare, self._handle)

    def do_read(self) -> tuple[Any, Any] | None:  # type: ignore[override]  # None: nobody there, as in gevent's own
        if self._service is None:
            return super().do_read()
        listener: Any = self.socket  # the C socket: gevent has unwrapped it
        try:
            fd, address = listener._accept()
        except BlockingIOError:
            return None
        sock = _socket.socket(listener.family, listener.type, listener.proto, fd)
        sock.setblocking(False)
        return sock, address

    def do_handle(self, sock: Any, address: Address) -> None:
        if self._service is not None:
            self.adopt(sock, address)
            return
        self.ledger.opened()
        self._bare[sock] = None
        super().do_handle(sock, address)

    def do_close(self, sock: Any, *args: Any) -> None:
        """gevent's end of a bare handler, whether it ran or could not be started."""
        super().do_close(sock, *args)
        self._bare_ended(sock, CloseReason.HANDLER_ERROR)

    def adopt(self, sock: _socket.socket, address: Address) -> Connection:
        """Serve a connected, non-blocking socket as one that was accepted from `address`. Takes over the socket."""
        service = self._service
        assert service is not None
        kind = StreamConnection if isinstance(service, StreamService) else Connection
        try:
            conn = kind(sock, address, service.codec(), self)
        except BaseException:
            sock.close()
            raise
        self.ledger.opened()
        self._connections.add(conn)
        log.debug("accepted %s", conn)
        on_open = service.on_open if isinstance(service, Service) else None
        if on_open is None:
            self._begin(conn)
        else:
            conn.runner = self._callbacks.spawn(self._open, conn, on_open)
        return conn

    def _open(self, conn: Connection, on_open: Callable[[Connection], None]) -> None:
        conn.turn_replies = []  # what close() does meanwhile waits for the end of on_open
        try:
            on_open(conn)
        except GreenletExit:
            conn.abort(CloseReason.KILLED)
        except (Exception, gevent.Timeout):
            log.exception("on_open failed for %s", conn)
            conn.close(CloseReason.HANDLER_ERROR)
        conn.runner = conn.turn_replies = None
        if conn.close_reason is None:
            self._begin(conn)
        else:
            conn.turn_over()

    def _begin(self, conn: Connection) -> None:
        assert self._engine is not None
        self._engine.add(conn)
        if conn.is_draining:  # the drain began while on_open ran
            self._engine.drain(conn)

    # Ending

    def connection_closed(self, conn: Connection) -> None:
        """The connection says that nothing more goes over it: close its socket, keep the books."""
        reason = conn.close_reason
        assert reason is not None
        assert self._engine is not None
        self._engine.forget(conn)
        if reason in _LINGERING:
            self._linger.take(conn.sock)
        else:
            conn.sock.close()
        self.ledger.ended(reason, conn.received_bytes, conn.sent_bytes)

    def connection_left(self, conn: Connection) -> None:
        """Nor does any handler hold on to it: tell the service."""
        self._connections.discard(conn)
        on_close = self._service.on_close if isinstance(self._service, Service) else None
        if on_close is not None:
            assert conn.close_reason is not None
            self._callbacks.spawn(self._tell_closed, conn, conn.close_reason, on_close)
        self._check_quiet()

    def _tell_closed(
        self, conn: Connection, reason: CloseReason, on_close: Callable[[Connection, CloseReason], None]
    ) -> None:
        try:
            on_close(conn, reason)
        except (Exception, gevent.Timeout):
            log.exception("on_close failed for %s", conn)

    def _run_bare(self, handle: Callable[[Any, Any], Any], sock: Any, address: Address) -> None:
        """gevent's handler, counted; its exceptions go where gevent sends them."""
        if sock in self._bare:
            self._bare[sock] = getcurrent()
        reason = CloseReason.HANDLER_ERROR
        try:
            handle(sock, address)
            reason = CloseReason.FINISHED
        except GreenletExit:
            reason = CloseReason.KILLED
            raise
        finally:
            self._bare_ended(sock, reason)

    def _bare_ended(self, sock: Any, reason: CloseReason) -> None:
        if sock in self._bare:
            del self._bare[sock]
            self.ledger.ended(reason)
            self._check_quiet()

    def _check_quiet(self) -> None:
        if not self._connections and not self._bare and not self._linger:
            self._quiet.set()

    @property
    def connections(self) -> frozenset[Connection]:
        """Those of its service that are open, or that a handler still holds on to."""
        return frozenset(self._connections)

    def drain(self, timeout: float | None = None, *, spread_s: float = 0.0, accept_queued: bool = True) -> int:
        """Stop accepting, answer what was received by now, close everything; return how many had to be killed.

        Connections that the kernel has queued are accepted first, so that none is reset; not so without accept_queued,
        for somebody else will. Each connection is served until its moment, at random within `spread_s` seconds, so that
        not all peers come back at once. A handler in the middle of a message finishes it. What is not done `timeout`
        seconds after that (default: wait for ever) is killed.
        """
        deadline = None if timeout is None else time.monotonic() + spread_s + timeout
        self._drained = Event()
        try:
            if not self.closed:
                if accept_queued:
                    self._accept_queued()
                self.close()
            self._drain_all(spread_s)
            self._wait_quiet(deadline)
            killed = self._kill_rest()
            self._callbacks.join(_remaining(deadline))
            self._callbacks.kill(timeout=KILL_GRACE_S)
            if self._engine is not None:
                self._engine.close()
        finally:
            self._drained.set()
        log.debug("connections: %s", self.ledger)
        return killed

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, then drain() for `timeout` seconds (default: stop_timeout, 1); a drain that runs is awaited.

        A bare handler without a pool goes on until it is done, as gevent has it.
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
            except Exception:
                log.exception("cannot serve a connection that was queued")

    def _drain_all(self, spread_s: float) -> None:
        """Each of n connections at a random moment of its n-th part of the time."""
        began = time.monotonic()
        connections = list(self._connections)
        random.shuffle(connections)
        for number, conn in enumerate(connections):
            pause = began + spread_s * (number + random.random()) / len(connections) - time.monotonic()
            if pause > SPREAD_STEP_S:
                gevent.sleep(pause)
            if conn in self._connections:
                self._drain_one(conn)

    def _drain_one(self, conn: Connection) -> None:
        assert self._engine is not None
        if conn.watcher is None:  # on_open still runs: it drains the connection when it is done
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
        bare = list(self._bare.items())
        for _, greenlet in bare:
            if greenlet is not None:
                gevent.kill(greenlet)
        if rest or bare:
            self._wait_quiet(time.monotonic() + KILL_GRACE_S)
        for conn in list(self._connections):  # their handlers swallowed the exception
            conn.abort(CloseReason.KILLED)
        for sock in list(self._bare):
            sock.close()
            self._bare_ended(sock, CloseReason.KILLED)
        self._linger.close()
        return len(rest) + len(bare)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _make_engine(service: Service | StreamService, greenlets: str, ledger: Ledger) -> Engine[Any]:
    if isinstance(service, StreamService):
        return StreamEngine(service, ledger)
    if greenlets == "pooled":
        return PooledEngine(Turn(service, ledger))
    if greenlets == "dedicated":
        return DedicatedEngine(Turn(service, ledger))
    raise ConfigError(f"greenlets is {greenlets!r}, must be 'pooled' or 'dedicated'")
