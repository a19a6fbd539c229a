"""A TcpServer as workers run it: it takes its turn among other workers, and tells the hooks and the access log."""

from __future__ import annotations

import logging
import time
from dataclasses import fields
from typing import Any

import gevent

from gserver.arbiter.scoreboard import Scoreboard
from gserver.config.settings import Settings
from gserver.connection.connection import Connection
from gserver.connection.log_throttling import Notices
from gserver.counters import Counters
from gserver.errors import HandlerTimeout
from gserver.limits.access_list import AccessList
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.process.logs import access_line
from gserver.server.admission import Door
from gserver.server.handshake import EntranceRules
from gserver.server.tcp_server import Handle, Keepalive, TcpServer
from gserver.tls.contexts import Tls
from gserver.worker.accept_balance import LONGEST_PAUSE_S, pause_before_accept

__all__ = ["WorkerServer", "limits_of"]

access_log = logging.getLogger("gserver.access")

# A connection that is accepted so soon after a pause was there all the time: the others did not come for it.
STILL_THERE_S = 0.005


class WorkerServer(TcpServer):
    """Serve one of the arbiter's listeners.

    Args:
        worker: what the hooks are told is the worker.
        scoreboard: where to look how many connections the others hold; None: there are no others at this listener.
        door: of all the worker's listeners; default: one of its own, whose limits are shared with nobody.
        tls: the certificates, where the settings name some.
        notices: of all the worker's listeners; default: its own.
    """

    logs_bare_failures = True

    def __init__(
        self,
        listener: Any,
        served: Handle,
        settings: Settings,
        counters: Counters,
        scoreboard: Scoreboard | None,
        worker: Any,
        *,
        door: Door | None = None,
        tls: Tls | None = None,
        notices: Notices | None = None,
    ) -> None:
        super().__init__(
            listener,
            served,
            greenlets=settings.greenlets,
            counters=counters,
            deadlines=deadlines_of(settings),
            limits=limits_of(settings),
            door=door,
            entrance=entrance_of(settings, tls),
            send_limit=settings.send_buffer_limit,
            keepalive=Keepalive(
                settings.tcp_keepalive_idle, settings.tcp_keepalive_interval, settings.tcp_keepalive_count
            ),
            notices=notices,
        )
        self._scoreboard = scoreboard
        self._most = settings.worker_connections
        self._came_back_at = 0.0  # from the last pause
        self._hooks = settings.hooks
        self._worker = worker
        self._access_format = settings.access_log_format if settings.accesslog else None
        # Only what somebody wants to hear costs something.
        self._tells_opening = "connection_open" in self._hooks
        self._tells_closing = "connection_close" in self._hooks
        self._hears_closing = self._tells_closing or self._access_format is not None

    def do_read(self) -> tuple[Any, Any] | None:  # type: ignore[override]  # None: not now
        pause = self._pause()
        if pause:
            self.pause_accepting(pause)
            return None
        return super().do_read()

    def _pause(self) -> float:
        if self._drained is not None:  # what is queued now is nobody else's
            return 0.0
        if self._scoreboard is None or time.monotonic() - self._came_back_at < STILL_THERE_S:
            self._came_back_at = 0.0
            return 0.0
        own, fewest = self.counters.open, self._scoreboard.fewest_open()
        if own >= self._most:  # a full worker leaves it to one that is not, and refuses it if nobody comes
            return LONGEST_PAUSE_S if fewest is not None and fewest < self._most else 0.0
        return pause_before_accept(own, fewest)

    def _come_back(self) -> None:
        self._came_back_at = time.monotonic()
        super()._come_back()

    def leave_to_parent(self) -> list[int]:
        """In a forked child: this server is its parent's. Return its descriptors, which the caller is to get rid of."""
        self._keeper.close()
        listener = [] if self.closed else [self.socket]
        sockets = [*listener, *(conn.sock for conn in self._connections), *self._linger.sockets, *self._bare.sockets]
        return [sock.fileno() for sock in sockets]

    def connection_opened(self, conn: Connection) -> None:
        if self._tells_opening:
            self._hooks.call("connection_open", self._worker, conn)

    def connection_closed(self, conn: Connection) -> None:
        if not self._hears_closing:
            super().connection_closed(conn)
            return
        was_opened = conn not in self._outside
        super().connection_closed(conn)
        reason = conn.close_reason
        assert reason is not None
        if self._access_format is not None:
            access_log.info("%s", access_line(self._access_format, conn, reason))
        if self._tells_closing and was_opened:
            try:
                self._hooks.call("connection_close", self._worker, conn, reason, passes=_is_thrown)
            except BaseException:
                if not conn.is_busy:  # whoever closed it does not come to this
                    self.connection_left(conn)
                raise


def _is_thrown(error: BaseException) -> bool:
    """Whether an exception came into a hook that waited, from outside: it is that of whoever closed the connection.

    The hook may run in a handler's greenlet, which was killed or took too long, or inside of a Timeout of the handler.
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


def limits_of(settings: Settings) -> Limits:
    """The limits have the names of their settings."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def entrance_of(settings: Settings, tls: Tls | None) -> EntranceRules | None:
    proxy = None if settings.proxy_protocol == "off" else settings.proxy_protocol
    if proxy is None and tls is None:
        return None
    return EntranceRules(proxy, AccessList(settings.proxy_allow_ips, ()), tls)
