"""A Locust user for raw TCP, on gserver's codecs.

    class Sensor(TcpUser):
        codec = Lines
        wait_time = paced(10)

        @task
        def report(self) -> None:
            self.exchange("report", b"42", expected=b"OK")

A TcpUser holds one connection. Its phases are recorded as series of their own: connect and TLS handshake, which are
retried, first byte, and close in good order. An exchange sends a message, waits for the reply and compares it with the
expected one. If a task makes several exchanges, each response time starts when the exchange would have been sent if the
task had begun in time. Locust's own `events.request.measure()` is not used: it hides exceptions, and counts a request
that the end of the test cuts off as a success.

Tasks run in a loop of this class, because Locust's loop needs an iteration of the event loop between two tasks, and
sleeps in whole milliseconds. Locust's loop still runs the tasks of a user with TaskSets, or with a wait time that is
not from wait_times.py.
"""

from __future__ import annotations

import _socket
import errno
import functools
import random
import ssl
import time
from collections.abc import Callable
from typing import Any, ClassVar

import gevent
from gevent import GreenletExit

from gserver.codecs import Codec, JsonLines, Malformed
from gserver.errors import IncompleteMessage, ProtocolError
from loadtests.client.connection import ClientConnection, ClosedByPeer, ClosedLocally
from loadtests.client.dialer import Dialer
from loadtests.client.precise_timer import Alarm
from loadtests.client.source_addresses import parse_sources
from loadtests.client.tls_connection import TlsClientConnection
from loadtests.optional_packages import needs
from loadtests.url import is_tls, parse_host
from loadtests.users.wait_times import Burst, Closed, Paced, Schedule

with needs():
    from locust import User
    from locust.env import Environment

    import loadtests.locust_integration.web_page  # noqa: F401  # registers its options with Locust
    from loadtests.locust_integration.compat import USER_RUNNING, USER_WAITING
    from loadtests.locust_integration.listeners import wait_for_clock
    from loadtests.locust_integration.recorder import LATE_NS, RECORDER, REQUEST_TYPE, UNSEEN_BY_LOCUST
    from loadtests.recording.recording import CUT_OFF, NEVER_SENT, PHASES, TASK, UNSENT

__all__ = ["TcpUser", "WrongReply"]


class WrongReply(Exception):
    """The reply is not the expected one."""


#: Errors of a connect that come from a limit of this host, and not from the server.
OWN_LIMITS = {errno.EMFILE: "own_descriptors", errno.ENFILE: "own_descriptors", errno.EADDRNOTAVAIL: "own_ports"}


def outcome_of(error: BaseException) -> str:
    """The outcome as which a failure is counted."""
    if isinstance(error, OSError) and error.errno in OWN_LIMITS:
        return OWN_LIMITS[error.errno]
    kinds: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (WrongReply, "mismatch"),
        ((ClosedByPeer, IncompleteMessage), "eof"),
        (ProtocolError, "protocol"),
        (ConnectionRefusedError, "refused"),
        (TimeoutError, "timeout"),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), "reset"),
        (ssl.SSLError, "tls"),
        (OSError, "os_error"),
    ]
    return next((name for kind, name in kinds if isinstance(error, kind)), "error")


class TcpUser(User):
    """Makes exchanges on one connection. Subclass it, set `codec`, and call exchange() in @task methods.

    Attributes:
        codec: called without arguments for the codec of each connection; default JsonLines.
        wait_time: paced(rate) or closed(depth) of wait_times.py, or a wait time of Locust's; default: by --rate and
            --depth.
        tls: True: use TLS for every host; default False: only for tls://HOST:PORT.
        ssl_context: for TLS; default: accepts any certificate, or with --tls-ca only those that this file verifies.
        connect_timeout_s: for the connect, and again for the TLS handshake; default 5 s.
        reply_timeout_s: for each reply; default 10 s.
        close_timeout_s: for closing in good order; default 1 s.
        connect_attempts: how often a connect is tried before the task is given up until it is due again; default 5,
            with a jittered pause between them that doubles.
        due_ns: when the task is due on the monotonic clock; 0 after its first exchange, and without a schedule.
        exchanges_per_connection: after this many exchanges the connection is closed, and the next exchange opens
            another; default 0: never.

    Example:
        from locust import task

        from gserver import Lines
        from loadtests.users import TcpUser

        class Device(TcpUser):
            codec = Lines

            def on_start(self):
                super().on_start()
                self.exchange("login", b"LOGIN secret", expected=b"hello")

            @task
            def report(self):
                self.exchange("report", b"TEMPERATURE 21", expected=b"OK")
    """

    abstract = True
    codec: Callable[[], Codec] = JsonLines
    tls = False
    ssl_context: ssl.SSLContext | None = None
    connect_timeout_s = 5.0
    reply_timeout_s = 10.0
    close_timeout_s = 1.0
    connect_attempts = 5
    exchanges_per_connection = 0
    connection_class: type[ClientConnection] = ClientConnection

    _burst: ClassVar[Burst] = Burst()
    _names: ClassVar[set[str]] = set()  # names of exchanges that were checked

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.schedule: Schedule | None = None
        self._connection: ClientConnection | None = None
        self.due_ns = 0
        self._late_ns = 0  # by how much the task's first exchange was late
        self._stopped_ns = 0
        self._left = 0  # exchanges until the connection is closed
        self._pacing = self._chosen_pacing()
        self._is_paced = isinstance(self._pacing, Paced)
        if isinstance(self._pacing, Paced):
            RECORDER.asked_per_s += self._pacing.rate
        self._is_connecting = False
        self._is_stopping = False
        if self._pacing is not None and not any(isinstance(each, type) for each in self.tasks):
            self._tasks, self.tasks = self.tasks, [TcpUser._run_tasks]
            self.wait_time = _at_once  # type: ignore[method-assign]  # Locust sees a single task that does not end
        if TcpUser._burst.is_over:
            TcpUser._burst = Burst()
        self._started_in = TcpUser._burst
        self._place = self._started_in.join()

    def _chosen_pacing(self) -> Paced | Closed | None:
        given = type(self).wait_time
        if given is TcpUser.wait_time:
            return _pacing_of(self.environment)
        return given if isinstance(given, (Paced, Closed)) else None

    def wait_time(self) -> float:
        """Seconds until the next task, by --rate; used only if Locust's own loop runs the tasks."""
        return self._pacing(self) if self._pacing else 0.0

    def make_codec(self) -> Codec:
        """The codec of a new connection."""
        return type(self).codec()

    def on_start(self) -> None:
        """Spread the connects over a second: Locust starts all users of a second at once."""
        self._started_in.is_over = True
        gevent.sleep(self._started_in.wait_s(self._place, random.random))
        wait_for_clock()
        self._connected()

    def on_stop(self) -> None:
        self.disconnect()

    def stop(self, force: bool = False) -> bool:
        """Stop sending: Locust is about to kill a user that waits, and its next tick may come before that."""
        self._is_stopping = True
        self._stopped_ns = self._stopped_ns or time.monotonic_ns()
        stopped: bool = super().stop(force)
        return stopped

    # Exchanges

    def exchange(self, name: str, message: Any, expected: Any = None) -> Any:
        """Send `message`, wait for its reply, and record the exchange under `name`.

        Returns the reply, or None if the exchange failed. Any other reply than `expected` is a failure, unless that is
        None. A failure closes the connection; the next exchange opens another. ValueError: `name` is the name of a
        phase of the connection, or of another series of the report.
        """
        if name not in self._names:
            self._check_name(name)
        connection = self._connection or self._connected()
        start_ns = time.monotonic_ns()
        if self.due_ns:
            self._late_ns, self.due_ns = start_ns - self.due_ns, 0
            RECORDER.ticks += 1
        if connection is None:
            return None
        late_ns = self._late_ns
        try:
            data = connection.codec.encode(message)
            start_ns = time.monotonic_ns()
            reply = connection.request(data, start_ns)
            end_ns = connection.received_ns
            if end_ns < start_ns:
                raise WrongReply(f"it came before its request was sent: {_short(reply)}")
            if reply != expected and (expected is not None or isinstance(reply, Malformed)):
                raise _wrong_reply(reply, expected)
        except Exception as error:
            self._failed(name, start_ns, late_ns, error, connection)
            return None
        except GreenletExit:  # the end of the test
            self._cut_off(name, start_ns, late_ns)
            self._drop(connection)
            raise
        except BaseException as error:  # a gevent.Timeout of the task's own
            RECORDER.failed(name, start_ns - late_ns, "timeout", _text(error))
            self._drop(connection)
            raise
        response_ns = end_ns - start_ns + late_ns if self._is_paced else None
        size = connection.take_size()
        RECORDER.succeeded(name, end_ns, end_ns - start_ns, response_ns, size)
        if connection.is_new:
            self._first_byte(connection)
        if not RECORDER.is_batched:
            self._fire_request(name, end_ns - start_ns, None, reply, size)
        if self._left:
            self._count_down()
        return reply

    def _check_name(self, name: str) -> None:
        if name in (*PHASES, TASK, NEVER_SENT):
            raise ValueError(f"an exchange is named {name!r}, which is the name of another series in a report")
        self._names.add(name)

    def _failed(self, name: str, start_ns: int, late_ns: int, error: Exception, connection: ClientConnection) -> None:
        self._drop(connection)
        if isinstance(error, ClosedLocally):  # another exchange on this connection has failed
            self._cut_off(name, start_ns, late_ns)
            return
        RECORDER.failed(name, start_ns - late_ns, outcome_of(error), _text(error))
        self._fire_request(name, time.monotonic_ns() - start_ns, error)

    def _cut_off(self, name: str, start_ns: int, late_ns: int) -> None:
        """Record an exchange that is in flight at its end: its true latency is longer than what has passed."""
        end_ns = time.monotonic_ns()
        response_ns = end_ns - start_ns + late_ns if self._is_paced else None
        RECORDER.outstanding(name, end_ns, CUT_OFF, end_ns - start_ns, response_ns)

    def _fire_request(
        self, name: str, service_ns: int, error: Exception | None, reply: Any = None, size: int = 0
    ) -> None:
        self.environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=name,
            response_time=service_ns / 1e6,
            response_length=size,
            response=reply,
            context=self.context(),
            exception=error,
            start_time=time.time() - service_ns / 1e9,
        )

    # Tasks

    def _run_tasks(self) -> None:
        """Run tasks until Locust stops the user. This is the user's only task as Locust sees it."""
        depth = self._pacing.depth if isinstance(self._pacing, Closed) else 1
        if depth == 1:
            self._run_until_stopped()
            return
        others = [gevent.spawn(self._run_concurrently) for _ in range(depth - 1)]
        try:
            self._run_until_stopped()
            gevent.joinall(others)
        finally:
            gevent.killall(others)

    def _run_until_stopped(self) -> None:
        tasks, is_paced = self._tasks, self._is_paced
        only = tasks[0] if len(tasks) == 1 else None
        try:
            while self._state == USER_RUNNING:
                if is_paced:
                    self._await_tick()
                if self._is_stopping:
                    return
                (only or random.choice(tasks))(self)  # type: ignore[operator]  # no TaskSet is among them
        finally:
            if self._stopped_ns and self.schedule is not None:
                self._count_unsent(self.schedule)

    def _count_unsent(self, schedule: Schedule) -> None:
        """At the end of the test: count the ticks that came before it and were not sent because the server was slow."""
        now_ns, due_ns = time.monotonic_ns(), self.due_ns or schedule.next_ns()
        while due_ns <= self._stopped_ns:
            RECORDER.outstanding(NEVER_SENT, now_ns, UNSENT, None, now_ns - due_ns)
            due_ns = schedule.next_ns()
        self.due_ns = 0

    def _run_concurrently(self) -> None:
        """Run tasks in another greenlet, on the same connection; report a task that raises, then run the next."""
        while self._state == USER_RUNNING:
            try:
                self._run_until_stopped()
            except Exception as error:
                self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
                gevent.sleep(0)

    def _await_tick(self) -> None:
        """Wait until the next tick is due; a missed tick is due at once."""
        assert isinstance(self._pacing, Paced)
        if self.schedule is None:
            self.schedule = self._pacing.schedule(time.monotonic_ns())
        self.due_ns = due_ns = self.schedule.next_ns()
        if due_ns > time.monotonic_ns():
            self._state = USER_WAITING  # so that Locust may kill the user here
            _alarm().sleep_until(due_ns)
            self._state = USER_RUNNING
            if (late_ns := time.monotonic_ns() - due_ns) > LATE_NS:
                RECORDER.late(late_ns)

    # The connection

    def _connected(self) -> ClientConnection | None:
        """Return the connection, and open it if there is none; None if all attempts failed."""
        while self._is_connecting:  # in another greenlet of this user
            gevent.sleep(0.01)
        self._is_connecting = True
        try:
            for attempt in range(self.connect_attempts):
                if self._connection is not None:
                    break
                if attempt:
                    gevent.sleep(random.uniform(0.5, 1.5) * 0.1 * 2**attempt)
                self._connection = self._connect()
        finally:
            self._is_connecting = False
        self._left = self.exchanges_per_connection
        return self._connection

    def _connect(self) -> ClientConnection | None:
        options = self.environment.parsed_options
        host = self.environment.host or self.host

        sockets: list[_socket.socket] = []

        def dial() -> None:
            dialer = _dialer(parse_host(host), getattr(options, "source_addresses", ""))
            sockets.append(dialer.dial(self.connect_timeout_s))

        if not self._phase("connect", dial):
            return None
        if not (self.tls or is_tls(host)):
            return self.connection_class(sockets[0], self.make_codec(), self.reply_timeout_s)
        context = self.ssl_context or _context(getattr(options, "tls_ca", ""))
        codec, server_name = self.make_codec(), parse_host(host)[0]
        connection = TlsClientConnection(sockets[0], codec, self.reply_timeout_s, context, server_name)
        try:
            is_up = self._phase("tls", lambda: connection.handshake(self.connect_timeout_s))
        except BaseException:  # the test ends
            connection.close()
            raise
        if not is_up:
            connection.close()
            return None
        return connection

    def _phase(self, name: str, work: Callable[[], object]) -> bool:
        """Do `work`; record how long it took or why it failed; return whether it succeeded."""
        start_ns = time.monotonic_ns()
        try:
            work()
        except GreenletExit:
            end_ns = time.monotonic_ns()
            RECORDER.outstanding(name, end_ns, CUT_OFF, end_ns - start_ns)
            raise
        except (OSError, ValueError, ClosedByPeer) as error:  # ValueError: a wrong --host
            RECORDER.failed(name, start_ns, outcome_of(error), _text(error))
            if name not in UNSEEN_BY_LOCUST:
                self._fire_request(name, time.monotonic_ns() - start_ns, error)
            return False
        end_ns = time.monotonic_ns()
        RECORDER.succeeded(name, end_ns, end_ns - start_ns)
        if not (RECORDER.is_batched or name in UNSEEN_BY_LOCUST):
            self._fire_request(name, end_ns - start_ns, None)
        return True

    def _first_byte(self, connection: ClientConnection) -> None:
        connection.is_new = False
        RECORDER.succeeded(
            "first_byte", connection.first_byte_ns, max(0, connection.first_byte_ns - connection.first_sent_ns)
        )

    def _count_down(self) -> None:
        self._left -= 1
        if not self._left:
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection, if there is one: in good order, which is recorded, if nothing is in flight."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if connection.is_idle:
                self._phase("close", lambda: connection.finish(self.close_timeout_s))
        finally:
            connection.close()

    def _drop(self, connection: ClientConnection) -> None:
        """Close a connection at once, after a failure on it."""
        if self._connection is connection:
            self._connection = None
        connection.close()


def _at_once() -> float:
    return 0.0


@functools.cache
def _alarm() -> Alarm:
    return Alarm()


def _pacing_of(environment: Environment) -> Paced | Closed:
    """The pacing of users without a wait_time of their own, by --rate and --depth."""
    options = environment.parsed_options
    return _pacing(getattr(options, "rate", 1.0), getattr(options, "depth", 1))


@functools.cache
def _pacing(rate: float, depth: int) -> Paced | Closed:
    return Paced(rate) if rate > 0 else Closed(depth)


@functools.cache
def _dialer(address: tuple[str, int], sources: str) -> Dialer:
    return Dialer(address, parse_sources(sources))


@functools.cache
def _context(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        context.load_verify_locations(ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _wrong_reply(reply: Any, expected: Any) -> WrongReply:
    if isinstance(reply, Malformed):
        return WrongReply(f"{reply.message}: {reply.detail}")
    return WrongReply(f"expected {_short(expected)}, got {_short(reply)}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _short(thing: Any) -> str:
    text = repr(thing)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text)} characters)"
