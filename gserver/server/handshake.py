"""The handshake of a new connection: first the PROXY header, then TLS.

Both run in the hub, step by step as bytes arrive, and hold no greenlet. The header is peeked at, and taken to its last
byte and no further, so that the first byte after it stays in the socket for TLS or the service.
"""

from __future__ import annotations

import logging
from _socket import MSG_PEEK
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from gserver.connection.connection import Connection
from gserver.connection.log_throttling import HANDSHAKE, TURNED_AWAY, Notices
from gserver.errors import CloseReason, LimitExceeded, ProxyError, TlsError
from gserver.fault_isolation import shielded
from gserver.limits.access_list import AccessList
from gserver.log_records import log_about
from gserver.server.proxy_protocol import ProxyReader, peer_of
from gserver.tls.contexts import Tls
from gserver.tls.session import TlsStream
from gserver.tls.tls_connection import TlsConnection, TlsStreamConnection

__all__ = ["EntranceRules", "Handshake"]

log = logging.getLogger("gserver.entrance")

HANDSHAKE_BYTES = 16 * 1024

EVERY_PEER = AccessList((), ())


@dataclass(frozen=True)
class EntranceRules:
    """Which handshakes a connection begins with.

    Attributes:
        proxy: the version of the PROXY header that comes first; None: there is no header.
        proxies: with `proxy`, connections from other addresses than these are refused; default: every address.
        tls: the certificates for the TLS handshake; None: no TLS.
    """

    proxy: Literal["v1", "v2", "auto"] | None = None
    proxies: AccessList = EVERY_PEER
    tls: Tls | None = None


class Handshake:
    """Runs the handshakes of the connections of one server.

    Args:
        rules: which handshakes there are.
        on_identified: called in the hub as on_identified(conn) when the PROXY header has given the address of the peer,
            before TLS. It returns whether the connection is accepted; if not, it has closed it.
        on_completed: called in the hub as on_completed(conn) when all handshakes are complete.
        notices: logs the handshakes that fail.
    """

    def __init__(
        self,
        rules: EntranceRules,
        on_identified: Callable[[Connection], bool],
        on_completed: Callable[[Connection], None],
        notices: Notices,
    ) -> None:
        self._rules = rules
        self._on_identified = on_identified
        self._on_completed = on_completed
        self._notices = notices

    def change_proxies(self, proxies: AccessList) -> None:
        """Trust other proxies from the next connection on."""
        self._rules = replace(self._rules, proxies=proxies)

    def begin(self, conn: Connection) -> None:
        """Begin the handshake of `conn`; a connection that does not come from a trusted proxy is closed."""
        if self._rules.proxy is not None:
            if self._rules.proxies.permits(conn.peer):
                self._watch(conn, self._read_header, ProxyReader(self._rules.proxy))
            else:
                refusal = LimitExceeded(
                    "connections come from trusted proxies only", CloseReason.DENIED, "proxy_allow_ips"
                )
                self._notices.limit(TURNED_AWAY, conn, refusal)
                conn.close(CloseReason.DENIED)
        else:
            self._begin_tls(conn)

    def _watch(self, conn: Connection, step: Callable[..., None], *arguments: Any) -> None:
        conn.watch(self._run_step, step, conn, *arguments)

    def _run_step(self, step: Callable[..., None], conn: Connection, *arguments: Any) -> None:
        if not shielded("the handshake", step, conn, *arguments, conn=conn):
            conn.abort(CloseReason.HANDSHAKE_FAILED)

    def _completed(self, conn: Connection) -> None:
        conn.handshake_completed()
        self._on_completed(conn)

    def _failed(self, conn: Connection, error: ProxyError | TlsError) -> None:
        log_about(conn, log, logging.DEBUG, "%(conn)s: %(error)s", error=error)
        if error.close_reason is CloseReason.HANDSHAKE_FAILED:
            self._notices.note(logging.INFO, HANDSHAKE, conn, str(error))
        conn.close(error.close_reason)

    def _peer_closed(self, conn: Connection, within: str) -> None:
        if conn.received_bytes:
            self._failed(conn, TlsError(f"the peer ended within {within}"))
        else:
            conn.close(CloseReason.PEER_EOF)

    # The PROXY header

    def _read_header(self, conn: Connection, reader: ProxyReader) -> None:
        try:
            peeked = conn.sock.recv(reader.max_bytes, MSG_PEEK)
            if not peeked:
                self._peer_closed(conn, "its PROXY header")
                return
            taken = conn.sock.recv(reader.feed(peeked))
        except BlockingIOError:
            return
        except ProxyError as error:
            self._failed(conn, error)
            return
        except OSError:
            conn.abort(CloseReason.PEER_RESET)
            return
        conn.handshake_received(len(taken))
        if reader.header is not None:
            conn.identified(replace(reader.header, sender=conn.peer), peer_of(reader.header, conn.peer))
            if self._on_identified(conn):
                self._begin_tls(conn)

    # The TLS handshake

    def _begin_tls(self, conn: Connection) -> None:
        if self._rules.tls is None:
            self._completed(conn)
            return
        assert isinstance(conn, TlsConnection | TlsStreamConnection)
        conn.begin_tls(TlsStream(self._rules.tls.context))
        self._watch(conn, self._shake_hands)

    def _shake_hands(self, conn: TlsConnection | TlsStreamConnection) -> None:
        try:
            data = conn.receive_sealed(HANDSHAKE_BYTES)
            if data is None:
                return
            if not data:
                self._peer_closed(conn, "the TLS handshake")
                return
            conn.handshake_received(len(data))
            is_over = conn.shake_hands(data)
        except TlsError as error:
            self._failed(conn, error)
            return
        except OSError:
            conn.abort(CloseReason.PEER_RESET)
            return
        if is_over and conn.close_reason is None:
            self._completed(conn)
