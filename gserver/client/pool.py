"""Pool: connections to a server, shared by the threads or greenlets of a process.

    pool = Pool(("127.0.0.1", 3000), JsonLines, size=10)
    reply = pool.call({"type": "SUM", "a": 10, "b": 20})

A connection is made when it is first needed. It is idle (in the pool), lent (to one call or one `with`), or being made.
The state of the pool belongs to Pool and is protected by its condition, which is never held during I/O. backoff.py
decides which address is next and when.

In a process that gevent has patched, everything here blocks only its greenlet.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gserver.client.backoff import Addresses
from gserver.client.client import DEFAULT_TIMEOUT_S, Client
from gserver.codecs import Codec, Raw
from gserver.errors import ConnectionClosed, NoReply, NotSent

__all__ = ["Pool"]

Address = tuple[str, int] | str

DEFAULT_SIZE = 10
DEFAULT_MAX_IDLE_S = 30.0
#: The longest pause after the first failure of an address, and after many, in seconds.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


@dataclass
class _Connection:
    client: Client
    number: int  # of its address
    began_at: float  # when it was connected
    is_proven: bool = False  # an exchange has succeeded
    idle_since: float = 0.0


class Pool:
    """Up to `size` connections to one server, or to several that are alike. Any number of threads may use it.

    Args:
        address: (host, port), or the path of a unix socket; or a list of them. Those of a list are used in turn.
        codec: makes the codec of each connection: a class such as JsonLines, or a functools.partial. Default: Raw.
        size: the most connections at a time, lent and idle. Who needs one more waits, at most timeout_s. Default 10.
        max_idle: seconds; a connection that was idle for longer is closed. Less than the server's idle_timeout avoids
            connections that the server is about to close. None: no limit. Default 30.
        health_check: health_check(client) is called before a connection that was idle is used again. If it raises an
            Exception, the connection is closed, and another one is used. Default: none. Whether the peer has closed it
            is looked up in any case.
        timeout_s: seconds; the most time for a call(), including waiting for a connection, connecting, pauses, the
            health check and repeats; for client(), until there is a connection, and then for each operation. None: no
            limit. Default 10.
        ssl_context, server_hostname, on_push: as for Client.

    An address that fails (it refuses, or ends the connection before the first reply) is left alone for a random time,
    at most 0.05 s, doubled with each failure in a row up to 2 s (and timeout_s). Others are used meanwhile.

    A pool may be made before a fork, but must not be used before it: both processes would have the same connections.

    Errors of call() and client():
        NotSent: there was no connection within timeout_s; the last error is its __cause__. Or the pool is closed.
        NoReply: of call(): the message was sent, and the connection ended before the reply.
        TimeoutError: of call(): no reply within timeout_s.
        All others of Client.call().

    The caller closes it: by close(), or at the end of the `with` block.

    Example:
        pool = Pool([("127.0.0.1", 3000), ("10.0.0.2", 3000)], Lines, size=20, timeout_s=2)
        print(pool.call(b"GET a", repeat=True))
        pool.close()
    """

    def __init__(
        self,
        address: Address | Sequence[Address],
        codec: Callable[[], Codec] = Raw,
        *,
        size: int = DEFAULT_SIZE,
        max_idle: float | None = DEFAULT_MAX_IDLE_S,
        health_check: Callable[[Client], object] | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        on_push: Callable[[Any], bool] | None = None,
    ) -> None:
        addresses = [address] if isinstance(address, tuple | str) else list(address)
        if not addresses:
            raise ValueError("the list of addresses is empty: expected at least one")
        if size < 1:
            raise ValueError(f"size is {size}: expected 1 or more")
        if not callable(codec):
            raise TypeError(f"codec is {codec!r}: expected what makes one for each connection, such as JsonLines")
        self._codec = codec
        self._size = size
        self._max_idle_s = max_idle
        self._health_check = health_check
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "server_hostname": server_hostname,
            "on_push": on_push,
        }
        # The lock of both conditions protects all below; it is never held during I/O.
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # a connection has become free, or may be made
        self._idle_changed = threading.Condition(lock)  # for the thread that closes idle ones: the pool was closed
        longest_s = LONGEST_PAUSE_S if timeout_s is None else min(LONGEST_PAUSE_S, timeout_s)
        self._addresses = Addresses(addresses, FIRST_PAUSE_S, longest_s)
        self._idle: deque[_Connection] = deque()  # the one that was used last is at the end, and is used first
        self._open = 0  # idle, lent, and being made
        self._is_closed = False
        self._last_error: Exception | None = None
        self._closer: threading.Thread | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        with self._changed:
            return f"<Pool: {self._open} of {self._size} connections, {len(self._idle)} idle>"

    @property
    def open(self) -> int:
        """The number of connections, idle, lent or being made."""
        with self._changed:
            return self._open

    @property
    def idle(self) -> int:
        """The number of connections that nobody uses now."""
        with self._changed:
            return len(self._idle)

    def call(self, message: Any, repeat: bool = False) -> Any:
        """Send one message and return its reply, over any connection.

        The call is repeated after NotSent, because nothing was executed then. repeat=True: also after NoReply; the
        caller promises that it does no harm if the server executes the message twice. Repeats end with timeout_s.

        Example:
            with Pool(("127.0.0.1", 3000), Lines) as pool:
                pool.call(b"BALANCE 7", repeat=True)  # it only reads
                pool.call(b"TRANSFER 5")  # NoReply: find out whether it was executed
        """
        deadline = _after(self._timeout_s)
        while True:
            connection = self._borrow(deadline)
            try:
                connection.client.timeout_s = _left(deadline)
                reply = connection.client.call(message)
            except (NotSent, NoReply) as error:
                self._discard(connection, error)
                if not (repeat or isinstance(error, NotSent)) or _is_over(deadline):
                    raise
            except BaseException as error:
                self._discard(connection, error)
                raise
            else:
                self._give_back(connection)
                return reply

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Lend one connection for a `with` block: for several messages that belong together.

        Leave the block between two exchanges, not before a reply has come. After an exception in it, the connection is
        closed. Call client.close() in it if the connection must not be used again. Nothing is repeated.

        Example:
            with Pool(("127.0.0.1", 3000), Lines) as pool, pool.client() as client:
                client.call(b"BEGIN")
                client.call(b"COMMIT")
        """
        connection = self._borrow(_after(self._timeout_s))
        connection.client.timeout_s = self._timeout_s
        try:
            yield connection.client
        except BaseException as error:
            self._discard(connection, error)
            raise
        self._give_back(connection)

    def close(self) -> None:
        """Close all idle connections. Those that are lent are closed when they come back: calls in work finish.

        From now on call() and client() raise NotSent, also in threads that wait for a connection. Calling it again does
        nothing.
        """
        with self._changed:
            self._is_closed = True
            idle = list(self._idle)
            self._idle.clear()
            self._open -= len(idle)
            self._changed.notify_all()
            self._idle_changed.notify_all()
            closer = self._closer
        for connection in idle:
            connection.client.close()
        if closer is not None:
            closer.join()

    def _borrow(self, deadline: float | None) -> _Connection:
        """Return an idle connection that works, or a new one."""
        while True:
            connection = self._take(deadline)
            if connection is None:
                return self._connect(deadline)
            if self._is_usable(connection, deadline):
                return connection
            self._discard(connection)

    def _take(self, deadline: float | None) -> _Connection | None:
        """Take an idle connection, or, with None, the right to make one."""
        with self._changed:
            while True:
                if self._is_closed:
                    raise NotSent("nothing was sent: the pool is closed")
                if self._idle:
                    return self._idle.pop()
                if self._open < self._size:
                    self._open += 1
                    return None
                if not self._changed.wait(_left(deadline)) and _is_over(deadline):
                    within = f"none of the {self._size} connections became free within {self._timeout_s:g} s"
                    raise NotSent(f"nothing was sent: {within}")

    def _is_usable(self, connection: _Connection, deadline: float | None) -> bool:
        client = connection.client
        if self._max_idle_s is not None and time.monotonic() - connection.idle_since > self._max_idle_s:
            return False
        try:
            if not _is_clean(client):  # it has ended, or a message came that would be taken for the next reply
                return False
            if self._health_check is not None:
                client.timeout_s = _left(deadline)
                self._health_check(client)
                return _is_clean(client)
        except Exception:
            return False
        except BaseException:
            self._discard(connection)
            raise
        return True

    def _connect(self, deadline: float | None) -> _Connection:
        """Make a connection; if it cannot be made, another thread may try."""
        try:
            while True:
                number, address = self._next_address(deadline)
                began_at = time.monotonic()
                try:
                    client = Client(address, self._codec(), _left(deadline), **self._options)
                except (OSError, ConnectionClosed) as error:
                    self._failed(number, began_at, error)
                else:
                    return _Connection(client, number, began_at)
        except BaseException:
            self._release()
            raise

    def _next_address(self, deadline: float | None) -> tuple[int, Address]:
        """Wait until an address may be used. NotSent, with the last error, if that is after the deadline."""
        with self._changed:
            now = time.monotonic()
            number, pause_s = self._addresses.choose(now)
            last = self._last_error
        if deadline is not None and now + pause_s >= deadline:
            raise NotSent(f"nothing was sent: no connection within {self._timeout_s:g} s: {last}") from last
        if pause_s:
            time.sleep(pause_s)
        if self._is_closed:
            raise NotSent("nothing was sent: the pool is closed")
        return number, self._addresses.address(number)

    def _failed(self, number: int, began_at: float, error: Exception) -> None:
        with self._changed:
            self._last_error = error
            self._addresses.failed(number, began_at, time.monotonic(), random.random())

    def _give_back(self, connection: _Connection) -> None:
        if not _is_clean(connection.client):
            self._discard(connection)
            return
        connection.is_proven = True
        with self._changed:
            self._addresses.succeeded(connection.number)
            if not self._is_closed:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                self._changed.notify()
                self._start_closer()
                return
        self._discard(connection)

    def _discard(self, connection: _Connection, error: BaseException | None = None) -> None:
        """Close a connection. If it ended before its first exchange, its address has failed."""
        connection.client.close()
        if not connection.is_proven and isinstance(error, ConnectionClosed | TimeoutError):
            self._failed(connection.number, connection.began_at, error)
        self._release()

    def _release(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify()

    def _start_closer(self) -> None:
        """Have a thread, as long as there are idle connections, that closes them in time."""
        if self._max_idle_s is not None and (self._closer is None or not self._closer.is_alive()):
            self._closer = threading.Thread(target=self._close_idle, name="gserver pool", daemon=True)
            self._closer.start()

    def _close_idle(self) -> None:
        assert self._max_idle_s is not None
        while True:
            with self._changed:
                if not self._idle:
                    self._closer = None
                    return
                oldest = self._idle[0]
                left_s = oldest.idle_since + self._max_idle_s - time.monotonic()
                if left_s > 0:
                    self._idle_changed.wait(left_s)
                    continue
                self._idle.popleft()
            self._discard(oldest)


def _is_clean(client: Client) -> bool:
    """Whether the next message to arrive will be the reply to the next message sent.

    Not if what has arrived cannot be decoded, or on_push raises: the reply before it was good, and is returned.
    """
    try:
        return client.connected and not client.unread
    except Exception:
        return False


def _after(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _left(deadline: float | None) -> float | None:
    """The seconds until the deadline, for a timeout, which must not be 0."""
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
