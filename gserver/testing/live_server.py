"""serve(): a service on a real socket, for the time of a `with` block.

The server runs in a thread of the test's process, in an event loop (a gevent hub) of its own. So nothing must be
patched, the handlers share objects with the test, and the test's own socket calls block only the test.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.event import Event

from gserver.client.client import DEFAULT_TIMEOUT_S, Client
from gserver.codecs import Codec
from gserver.config.settings import Settings
from gserver.connection.connection import format_address
from gserver.errors import CloseReason
from gserver.fault_isolation import log_hub_errors
from gserver.server.tcp_server import KILL_GRACE_S
from gserver.testing.tested_service import TestedService
from gserver.testing.user_failures import UserFailures, check_log_is_on
from gserver.worker.readiness_check import check_ready
from gserver.worker.worker_server import WorkerServer

if TYPE_CHECKING:
    import ssl

__all__ = ["LiveServer", "serve"]

# How much longer than its timeouts the server's thread may take to start or to end, in seconds.
LATE_S = 5.0
POLL_S = 0.0005


def serve(app: Any, *, raise_errors: bool = True, listener: str | None = None, **settings: Any) -> LiveServer:
    """Serve `app` on 127.0.0.1, on a free port, for the time of a `with` block.

        with serve(app) as server:
            with server.connect() as client:
                assert client.call(b"ping") == b"pong"

    At the beginning, ready() is called and the probe is sent, as in a worker; a failure raises ConfigError. At the end,
    the clients of connect() are closed, the server drains, and stop() is called.

    Args:
        app: a Service, a JsonService, a @stream function, a function handle(socket, address), or the text of one as on
            the command line: "MODULE:NAME".
        raise_errors: raise AssertionError at the end of the block if code of the service has raised an exception
            (LiveServer.errors), or if a handler had to be killed. If the block itself has failed, they are notes of its
            exception instead. Default: True.
        listener: conn.listener of the connections, for a service that looks at it; default: the server's address.
        settings: settings of gserver by their names, as in a config file: timeouts and limits, TLS (certfile, keyfile,
            ca_certs and so on), the PROXY protocol, the hooks connection_open and connection_close. Times are in
            seconds. Defaults: gserver's own, except graceful_timeout (5) and drain_spread (0).

    The process is not patched by gevent, as a worker's is: a handler that blocks without gevent (time.sleep(), a
    database driver) delays the other connections.

    Raises ConfigError if a setting or the application is wrong, or if a setting has no effect in a test.
    """
    return LiveServer(TestedService(app, settings, listener), raise_errors)


class LiveServer:
    """A running server: see serve(), which makes it.

    Attributes:
        address: (host, port), from the beginning of the block on.
        settings: the settings in use.
        errors: the exceptions of the service's code so far, in order. A test that expects one removes it:
            `error = server.errors.pop()`.

    Example:
        with serve(Service(lambda line, conn: line.upper(), Lines)) as server:
            assert server.connect().call(b"hello") == b"HELLO"
            assert server.open == 1
        assert server.closed == {CloseReason.PEER_EOF: 1}
    """

    address: tuple[str, int]

    def __init__(self, tested: TestedService, raise_errors: bool) -> None:
        self.settings: Settings = tested.settings
        self._tested = tested
        self._raise_errors = raise_errors
        self._failures = UserFailures()
        self._clients: list[Client] = []
        self._closed_ports: set[int | None] = set()  # of the clients, at the end of the block
        self._others: list[str] = []  # failures that are no exceptions of user code
        self._started = threading.Event()
        self._start_failure: BaseException | None = None
        self._loop: Any = None  # of the thread
        self._drain_requested: Event  # these two belong to the loop
        self._end_requested: Event
        self._thread = threading.Thread(target=self._run, name="gserver.testing.serve", daemon=True)

    @property
    def errors(self) -> list[BaseException]:
        return self._failures.errors

    @property
    def closed(self) -> dict[CloseReason, int]:
        """How many connections were closed so far, by reason. A client may see its end before it is counted; after the
        block all are.
        """
        return dict(self._tested.counters.closed)

    @property
    def open(self) -> int:
        """How many connections are open now. One that a client has just opened or closed may not be counted yet."""
        return self._tested.counters.open

    def connect(
        self, codec: Codec | None = None, *, ssl_context: ssl.SSLContext | None = None, timeout_s: float | None = None
    ) -> Client:
        """Connect a client. It is closed at the end of the block, if not before.

        Args:
            codec: the client's codec; default: one of the service's codec, Raw for handle(socket, address).
            ssl_context: for TLS; default, if the setting certfile is set: one that accepts exactly that certificate.
            timeout_s: as for Client, in seconds; default 10.

        Raises what Client raises.
        """
        used = self._tested.make_codec() if codec is None else codec
        timeout = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        if ssl_context is None and self.settings.certfile is not None:
            ssl_context = context_that_trusts(self.settings.certfile)
        name = None if ssl_context is None else "localhost"
        client = Client(self.address, used, timeout, ssl_context=ssl_context, server_hostname=name)
        self._clients.append(client)
        return client

    def drain(self) -> None:
        """Begin to drain, as a worker does for a reload or a stop; returns at once.

        New connections are refused from now on. Each client gets its replies, what on_drain sends, and the end. A
        handler that runs longer than graceful_timeout is killed, which is not reported as an error then.
        """
        self._in_loop(self._drain_requested.set)

    # The life of the block

    def __enter__(self) -> LiveServer:
        __tracebackhide__ = True
        if self._raise_errors:
            check_log_is_on()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=self.settings.backlog)
        self.address = self._listener.getsockname()
        self._thread.start()
        limit_s = self.settings.ready_timeout + LATE_S if self.settings.ready_timeout else None
        if not self._started.wait(limit_s):
            raise AssertionError(f"the service is not ready after {limit_s:g} s{self._place()}")
        if self._start_failure is not None:
            raise self._start_failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._closed_ports = {_port(client.local_address) for client in self._clients}
        for client in self._clients:
            client.close()
        self._in_loop(self._end_requested.set)
        limit_s = self.settings.longest_drain_s + self.settings.graceful_timeout + LATE_S
        self._thread.join(limit_s)
        if self._thread.is_alive():
            self._others.append(
                f"the server has not ended after {limit_s:g} s: its event loop is blocked{self._place()}"
            )
        self._failures.close()
        if self._raise_errors:
            self._failures.finish(error, self._others)

    def _in_loop(self, callback: Callable[[], object]) -> None:
        """Call it in the loop of the server's thread, which may have ended already."""
        loop = self._loop
        if loop is not None:
            loop.run_callback_threadsafe(callback)

    def _place(self) -> str:
        """The line that the server's thread executes, as text for a message."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "" if frame is None else "\n" + "".join(traceback.format_stack(frame))

    # In the thread

    def _run(self) -> None:
        hub: Any = gevent.get_hub()
        self._drain_requested, self._end_requested = Event(), Event()
        is_own_hub = not monkey.is_module_patched("threading")  # else it is a greenlet in the hub of the test
        if is_own_hub:
            log_hub_errors()
        self._failures.watch()
        try:
            self._serve(hub)
        except BaseException as error:
            self._start_failure = error
        finally:
            self._loop = None
            self._listener.close()
            self._started.set()
            if is_own_hub:
                hub.destroy(destroy_loop=True)

    def _serve(self, hub: Any) -> None:
        ready_s, name = self.settings.ready_timeout or None, self._tested.listener or format_address(self.address)
        check_ready(self._tested.served, ready_s, listener_name=name)
        server = self._tested.make_server(self._listener)
        server.start()
        self._loop = hub.loop
        self._started.set()
        gevent.wait([self._drain_requested, self._end_requested], count=1)
        is_drained_by_test = self._drain_requested.is_set()
        deadline = time.monotonic() + self.settings.graceful_timeout
        self._wait_for_ends(server, deadline)
        killed = server.drain(max(0.0, deadline - time.monotonic()), first_answer_s=0.0)
        self._end_requested.wait()
        if killed and not is_drained_by_test:
            after = f"graceful_timeout ({self.settings.graceful_timeout:g} s)"
            self._others.append(f"connections that were still busy after {after}, and were killed: {killed}")
        stopping = gevent.spawn(self._tested.stop)
        stopping.join(self.settings.graceful_timeout)
        if not stopping.dead:
            self._others.append(f"stop() of the service has not returned after {self.settings.graceful_timeout:g} s")
            stopping.kill(timeout=KILL_GRACE_S)

    def _wait_for_ends(self, server: WorkerServer, deadline: float) -> None:
        """Let the server receive the ends of the clients that are closed: otherwise it may drain them first."""
        while time.monotonic() < deadline and any(
            _port(conn.peer) in self._closed_ports for conn in server.connections
        ):
            gevent.sleep(POLL_S)


def _port(peer: Any) -> int | None:
    return int(peer[1]) if isinstance(peer, tuple) else None


def context_that_trusts(certfile: str) -> ssl.SSLContext:
    """Return a client's context that accepts the certificate in this file, for any name, and no other."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be signed by itself
    context.load_verify_locations(certfile)
    return context
