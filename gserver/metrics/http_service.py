"""HTTP behind a TcpServer: our server frames, limits and times the requests, gevent's pywsgi parses and answers them.

pywsgi's own server has no limits and no timeouts. So a request is a message of our own server: the bytes up to the
first empty line, of a limited size, complete within a limited time. Only a complete request is passed to pywsgi's
handler, which reads from memory and writes into memory. There is one request per connection; a body is not read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gevent.pywsgi import WSGIHandler, WSGIServer

from gserver.codecs import Delimited
from gserver.connection.connection import Address
from gserver.connection.log_throttling import Notices
from gserver.errors import FrameTooLarge, LimitExceeded, MessageTimeout
from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.service import Fault, Service

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["DEADLINES", "LIMITS", "OwnNotices", "WsgiApplication", "http_service"]

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: The largest request: its line and headers. Those of scrapers and browsers have less than 2 KiB.
MAX_REQUEST_BYTES = 8192
#: Times for a client to send a request and to take the answer.
DEADLINES = Deadlines(first_byte_s=5.0, idle_s=5.0, message_s=5.0, handler_s=10.0, write_s=5.0, max_age_s=20.0)
#: A client that is silent gives way to a new one. No address can hold all places.
LIMITS = Limits(worker_connections=64, full_action="shed", max_connections_per_ip=16, ip_action="close")


class OwnNotices(Notices):
    """Log lines about clients that reach a limit here; without a prefix they would seem to be clients of the service.

    log_due() is not called, so that the process sleeps while it is not used: a count is logged with the next event.
    """

    def note(self, level: int, line: str, peer: Connection | Address, why: str, setting: str = "") -> None:
        super().note(level, f"Metrics: {line}", peer, why)


def http_service(application: WsgiApplication) -> Service:
    """A service that answers HTTP requests with a WSGI application."""
    server = WSGIServer(("", 0), application, log=None, error_log=None)  # only its settings are used: it never starts
    server.environ.update(SERVER_NAME="gserver", SERVER_PORT="0")

    def answer(head: bytes, conn: Connection) -> bytes:
        channel: Any = _InMemory(head + b"\r\n\r\n")
        _Handler(channel, "", server).handle()
        conn.close()  # takes effect when the reply is sent
        sent: bytes = channel.sent()
        return sent

    return Service(answer, _RequestHeads, on_error=_refuse)


class _RequestHeads(Delimited):
    """Requests up to their first empty line; answers are sent as they are."""

    def __init__(self) -> None:
        super().__init__(b"\r\n\r\n", b"\n\n", max_bytes=MAX_REQUEST_BYTES)

    def encode(self, message: bytes) -> bytes:
        return message


class _InMemory:
    """What pywsgi takes for a socket: a request that is complete, and the bytes of the answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = bytearray()

    def makefile(self, *args: Any) -> io.BytesIO:
        return io.BytesIO(self._request)

    def sendall(self, data: bytes) -> None:
        self._answer += data

    def close(self) -> None:
        """There is nothing to close."""

    def sent(self) -> bytes:
        return bytes(self._answer)


class _Handler(WSGIHandler):
    """pywsgi's handler, for one request, without its prints about requests that cannot be parsed."""

    def _handle_client_error(self, ex: BaseException) -> tuple[str, bytes]:
        return "400", _error("400 Bad Request")

    def handle_one_request(self) -> Any:
        result = super().handle_one_request()
        return None if result is True else result

    def log_request(self) -> None:
        """Requests are not logged: there is one every few seconds."""


def _refuse(fault: Fault, conn: Connection) -> bytes:
    if isinstance(fault, FrameTooLarge):
        return _error("431 Request Header Fields Too Large")
    if isinstance(fault, MessageTimeout):
        return _error("408 Request Timeout")
    return _error("503 Service Unavailable" if isinstance(fault, LimitExceeded) else "400 Bad Request")


def _error(status: str) -> bytes:
    text = f"{status}\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    return (head + text).encode()
