"""Connections of redis-py that block only their greenlet, also in a worker that gevent has not patched.

redis-py uses the standard library's sockets. In a patched worker these are gevent's. In an unpatched one, name lookup,
connect and TLS handshake run in a thread of gevent's pool, and the socket that they return is used without blocking.
"""

from __future__ import annotations

import importlib
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from gevent import get_hub, monkey
from gevent.socket import wait_read, wait_write

from gserver.errors import ConfigError

__all__ = ["Connections", "WaitingSocket", "shown"]

#: How long a connect, a handshake, a write or a reply of Redis may take, in seconds.
TIMEOUT_S = 5.0
# RESP 2: Redis 5 has it too. A URL cannot replace these.
_PROTOCOL = 2
_OPTIONS = {
    "socket_timeout": TIMEOUT_S,
    "decode_responses": False,
    "encoding_errors": "surrogateescape",
    "health_check_interval": 0,
}


def shown(url: str) -> str:
    """Return a URL for the log, without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Connections:
    """Makes connections to one Redis. ConfigError if redis-py is not installed, or does not understand the URL."""

    def __init__(self, url: str) -> None:
        try:
            redis: Any = importlib.import_module("redis")
        except ImportError as error:
            install = "pip install 'gserver-tcp[redis]'"
            raise ConfigError(f"setting bus is {shown(url)!r}, which needs redis-py: {install} ({error})") from None
        self.errors = (redis.RedisError, OSError)
        self.refusal = redis.ResponseError
        try:
            pool = redis.ConnectionPool.from_url(url, protocol=_PROTOCOL, socket_connect_timeout=TIMEOUT_S)
            self._options = {**pool.connection_kwargs, **_OPTIONS}
            if self._options["protocol"] != _PROTOCOL:
                raise ValueError(f"its option protocol must be {_PROTOCOL}")
            self._class = pool.connection_class
            if not monkey.is_module_patched("socket"):
                self._class = _waiting(self._class)
            self._class(**self._options)  # connects later; shows whether all options of the URL are known
        except (ValueError, TypeError, redis.RedisError) as error:
            raise ConfigError(f"setting bus is {shown(url)!r}, which redis-py does not accept: {error}") from None

    def connect(self) -> Any:
        """Return a new connection, with AUTH and SELECT done. One of `errors` if that fails."""
        connection = self._class(**self._options)
        connection.connect()
        return connection


def _waiting(connection_class: Any) -> Any:
    """A subclass of a connection of redis-py: see the docstring of this module."""

    class Waiting(connection_class):  # type: ignore[misc]
        def _connect(self) -> WaitingSocket:
            return WaitingSocket(get_hub().threadpool.apply(super()._connect))

    return Waiting


class WaitingSocket:
    """What redis-py needs of a socket: waits in the event loop. Closes: close() closes the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout_s = sock.gettimeout()
        sock.setblocking(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float | None) -> None:
        self._timeout_s = seconds

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def recv(self, size: int, flags: int = 0) -> bytes:
        return bytes(self._call(self._sock.recv, size, *(() if not flags else (flags,))))

    def recv_into(self, buffer: Any, size: int = 0) -> int:
        return int(self._call(self._sock.recv_into, buffer, size))

    def send(self, data: Any) -> int:
        return int(self._call(self._sock.send, data, is_write=True))

    def sendall(self, data: Any) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest) :]

    def _call(self, function: Any, *arguments: Any, is_write: bool = False) -> Any:
        until = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                self._wait(wait_read, until)
            except ssl.SSLWantWriteError:
                self._wait(wait_write, until)
            except BlockingIOError:
                self._wait(wait_write if is_write else wait_read, until)

    def _wait(self, wait: Any, until: float | None) -> None:
        """TimeoutError if `until` has come; BlockingIOError for a timeout of 0, as of a socket that does not block."""
        if self._timeout_s == 0:
            raise BlockingIOError(11, "there is nothing to read, or no room to write")
        left_s = None if until is None else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError("timed out")
        wait(self._sock.fileno(), left_s, TimeoutError("timed out"))
