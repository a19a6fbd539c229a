"""The TcpServer of a worker: balances accepts with other workers, calls the hooks, and writes the access log."""

from __future__ import annotations

import logging
import time
from dataclasses import fields
from typing import Any

import gevent

from gserver.arbiter.scoreboard import Scoreboard
from gserver.config.listener_settings import Listener
from gserver.config.settings import Settings
from gserver.connection.connection import Connection, format_address
from gserver.connection.log_throttling import Notices
from gserver.counters import Counters
from gserver.errors import HandlerTimeout
from gserver.limits.access_list import AccessList
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.process.access_records import access_record
from gserver.server.admission import Door
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import Handle, Keepalive, TcpServer
from gserver.tls.contexts import Tls
from gserver.worker.accept_balance import LONGEST_PAUSE_S, pause_before_accept

__all__ = ["WorkerServer", "limits_of"]

access_log = logging.getLogger("gserver.access")

# A connection that is accepted so soon after a pause was in the queue before: no other worker has accepted it.
STILL_THERE_S = 0.005


class WorkerServer(TcpServer):
    """Serve one of the arbiter's listeners.

    Args:
        sock: the listening socket, or an address, as TcpServer takes it.
        settings: those of this listener.
        worker: passed to the hooks.
        scoreboard: the connection counts of the other workers; None: no other worker has this listener.
        listener: what is served here; default: a listener that is named by its address.
        door: the admission limits of all listeners of the worker; default: limits of this listener only.
        tls: the certificates, if the settings name some.
        notices: the throttled log lines of all listeners of the worker; default: of this listener only.
    """

    logs_bare_failures = True

    def __init__(
        self,
        sock: Any,
        served: Handle,
        settings: Settings,
        counters: Counters,
        scoreboard: Scoreboard | None,
        worker: Any,
        *,
        listener: Listener | None = None,
        door: Door | None = None,
        tls: Tls | None = None,
        notices: Notices | None = None,
    ) -> None:
        super().__init__(
            sock,
            served,
            greenlets=settings.greenlets,
            counters=counters,
            deadlines=deadlines_of(settings),
            limits=limits_of(settings),
            door=door,
            entrance=entrance_of(settings, tls),
            send_limit=settings.send_buffer_limit,
            keepalive=keepalive_of(settings),
            notices=notices,
            name="" if listener is None else listener.name,
        )
        self._is_named = listener is not None and listener.is_declared
        self._scoreboard = scoreboard
        self._resumed_at = 0.0  # the end of the last pause
        self._hooks = settings.hooks
        self._worker = worker
        self._logged_name = ""  # of the listener, in the access log
        # A hook that is not defined must cost nothing per connection.
        self._has_open_hook = "connection_open" in self._hooks
        self._has_close_hook = "connection_close" in self._hooks
        self._use_own(settings)

    def apply(self, settings: Settings) -> None:
        """Use the live settings of `settings` from now on. The caller changes the door, which all servers share."""
        self._use_own(settings)
        self.change(
            deadlines=deadlines_of(settings),
            limits=limits_of(settings),
            send_limit=settings.send_buffer_limit,
            keepalive=keepalive_of(settings),
            proxies=AccessList(settings.proxy_allow_ips, ()),
        )

    def _use_own(self, settings: Settings) -> None:
        self._max_connections = settings.worker_connections
        self._access_format = settings.access_log_format if settings.accesslog else None
        self._handles_close = self._has_close_hook or self._access_format is not None

    def init_socket(self) -> None:
        super().init_socket()
        self._logged_name = self.listener_name if self._is_named else format_address(self.address)

    def do_read(self) -> tuple[Any, Any] | None:  # type: ignore[override]  # None: no accept now
        pause = self._pause()
        if pause:
            self.pause_accepting(pause)
            return None
        return super().do_read()

    def _pause(self) -> float:
        if self._drained is not None:  # no other worker accepts from this queue
            return 0.0
        if self._scoreboard is None or time.monotonic() - self._resumed_at < STILL_THERE_S:
            self._resumed_at = 0.0
            return 0.0
        own, fewest = self.counters.open, self._scoreboard.fewest_open()
        if own >= self._max_connections:  # full: pause while another worker has room, else accept in order to refuse
            return LONGEST_PAUSE_S if fewest is not None and fewest < self._max_connections else 0.0
        return pause_before_accept(own, fewest)

    def _come_back(self) -> None:
        self._resumed_at = time.monotonic()
        super()._come_back()

    def leave_to_parent(self) -> list[int]:
        """In a process forked from the worker: return the descriptors of this server, for the caller to replace."""
        self._keeper.close()
        listener = [] if self.closed else [self.socket]
        sockets = [*listener, *(conn.sock for conn in self._connections), *self._linger.sockets, *self._bare.sockets]
        return [sock.fileno() for sock in sockets]

    def connection_opened(self, conn: Connection) -> None:
        if self._has_open_hook:
            self._hooks.call("connection_open", self._worker, conn)

    def connection_closed(self, conn: Connection) -> None:
        if not self._handles_close:
            super().connection_closed(conn)
            return
        was_opened = conn not in self._outside
        super().connection_closed(conn)
        reason = conn.close_reason
        assert reason is not None
        if self._access_format is not None and not self._is_health_check(conn):
            access_log.handle(access_record(access_log, self._access_format, conn, reason, self._logged_name))
        if self._has_close_hook and was_opened:
            try:
                self._hooks.call("connection_close", self._worker, conn, reason, passes=_was_thrown_in)
            except BaseException:
                if not conn.is_busy:  # otherwise its greenlet calls this
                    self.connection_left(conn)
                raise


def _was_thrown_in(error: BaseException) -> bool:
    """Whether an exception was thrown into a waiting hook from outside, so that it is not an error of the hook.

    The hook may run in a handler's greenlet that was killed or exceeded its time limit, or inside a gevent.Timeout of
    the handler.
    """
    if not isinstance(error, gevent.GreenletExit | gevent.Timeout | HandlerTimeout):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith("gevent.")


def deadlines_of(settings: Settings) -> Deadlines:
    return Deadlines(
        settings.handshake_timeout,
        settings.first_byte_timeout,
        settings.idle_timeout,
        settings.message_timeout,
        settings.handler_timeout,
        settings.write_timeout,
        settings.max_connection_age,
        settings.max_connection_age_jitter,
        settings.read_idle_timeout,
    )


def keepalive_of(settings: Settings) -> Keepalive:
    return Keepalive(settings.tcp_keepalive_idle, settings.tcp_keepalive_interval, settings.tcp_keepalive_count)


def limits_of(settings: Settings) -> Limits:
    """The limits from the settings of the same names."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def entrance_of(settings: Settings, tls: Tls | None) -> EntranceRules | None:
    proxy = None if settings.proxy_protocol == "off" else settings.proxy_protocol
    if proxy is None and tls is None:
        return None
    return EntranceRules(proxy, AccessList(settings.proxy_allow_ips, ()), tls)
