"""A Locust user for raw TCP, on gserver's codecs.

    class Sensor(TcpUser):
        codec = Lines
        wait_time = paced(10)

        @task
        def report(self) -> None:
            self.exchange("report", b"42", expected=b"OK")

A TcpUser holds one connection. Opening it, in TCP and in TLS, is a series of its own, with retries; so are the first
byte on it, and closing it in good order. An exchange sends a message, waits for its reply and holds it against what was
expected. Of a task that makes several, each is timed from when it would have been sent had the task begun in time.
Locust's own `events.request.measure()` is not used: it hides exceptions, and counts a request that is cut off by the
end of the test as a success.

Tasks run in a loop of this class's own, for Locust's takes a turn of the event loop between any two of them, and sleeps
to the millisecond. Locust's loop runs the tasks of a user with TaskSets, or with a wait time that is not from
wait_times.py.
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
from loadtests.client.connection import PeerFinished, TlsWire, Wire, WireClosed
from loadtests.client.dialer import Dialer, parse_sources
from loadtests.client.precise_timer import Alarm
from loadtests.optional_packages import needs
from loadtests.url import is_tls, parse_host
from loadtests.users.wait_times import Burst, Closed, Paced, Schedule

with needs():
    from locust import User
    from locust.env import Environment
    from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_WAITING

    import loadtests.locust_integration.web_page  # noqa: F401  # registers its options with Locust
    from loadtests.locust_integration.listeners import wait_for_clock
    from loadtests.locust_integration.recorder import LATE_NS, RECORDER, REQUEST_TYPE, UNSEEN_BY_LOCUST
    from loadtests.recording.recording import CUT_OFF, NEVER_SENT, PHASES, TASK, UNSENT

__all__ = ["TcpUser", "WrongReply"]


class WrongReply(Exception):
    """The server answered, and not what was asked for."""


#: What keeps a connection from being opened is the limit of this host, and not the server.
OWN_LIMITS = {errno.EMFILE: "own_descriptors", errno.ENFILE: "own_descriptors", errno.EADDRNOTAVAIL: "own_ports"}


def outcome_of(error: BaseException) -> str:
    """The class under which a failure is counted."""
    if isinstance(error, OSError) and error.errno in OWN_LIMITS:
        return OWN_LIMITS[error.errno]
    kinds: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (WrongReply, "mismatch"),
        ((PeerFinished, IncompleteMessage), "eof"),
        (ProtocolError, "protocol"),
        (ConnectionRefusedError, "refused"),
        (TimeoutError, "timeout"),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), "reset"),
        (ssl.SSLError, "tls"),
        (OSError, "os_error"),
    ]
    return next((name for kind, name in kinds if isinstance(error, kind)), "error")


class TcpUser(User):
    """One connection, and exchanges on it. Subclass it, set `codec`, and call exchange() in @task methods.

    Attributes:
        codec: makes a codec for each connection; default JsonLines.
        wait_time: paced(rate) or closed(depth) of wait_times.py, or one of Locust's; default: --rate and --depth.
        tls: whether to speak TLS whatever the host says; default: if it is tls://HOST:PORT.
        ssl_context: for TLS; default: one that takes any certificate, or with --tls-ca only what that file vouches for.
        connect_timeout_s, reply_timeout_s, close_timeout_s: seconds; 5, 10 and 1.
        connect_attempts: tries before a task gives up until its next turn; 5, with a jittered pause that doubles.
        due_ns: when the task is due on the monotonic clock; 0 once it made an exchange, and without a schedule.
        exchanges_per_connection: after so many it is closed, and the next exchange opens another; default 0: never.
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
    wire_class: type[Wire] = Wire

    _burst: ClassVar[Burst] = Burst()
    _names: ClassVar[set[str]] = set()  # of exchanges, that were found to be no phase's

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.schedule: Schedule | None = None
        self._wire: Wire | None = None
        self.due_ns = 0
        self._late_ns = 0  # how late the task made its first exchange
        self._stopped_ns = 0
        self._left = 0  # exchanges before the connection is closed
        self._pacing = self._chosen_pacing()
        self._is_paced = isinstance(self._pacing, Paced)
        if isinstance(self._pacing, Paced):
            RECORDER.asked_per_s += self._pacing.rate
        self._is_connecting = False
        self._is_stopping = False
        if self._pacing is not None and not any(isinstance(each, type) for each in self.tasks):
            self._tasks, self.tasks = self.tasks, [TcpUser._run_tasks]
            self.wait_time = _at_once  # type: ignore[method-assign]  # between two tasks of Locust's, of which there is one
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
        """What --rate says; only asked for where Locust's own loop runs the tasks."""
        return self._pacing(self) if self._pacing else 0.0

    def make_codec(self) -> Codec:
        """One for a new connection."""
        return type(self).codec()

    def on_start(self) -> None:
        """Locust starts the users of a second in one burst: spread their connects over that second."""
        self._started_in.is_over = True
        gevent.sleep(self._started_in.wait_s(self._place, random.random))
        wait_for_clock()
        self._connected()

    def on_stop(self) -> None:
        self.disconnect()

    def stop(self, force: bool = False) -> bool:
        """Locust is about to kill a user that waits; one whose tick comes before that must not send any more."""
        self._is_stopping = True
        self._stopped_ns = self._stopped_ns or time.monotonic_ns()
        stopped: bool = super().stop(force)
        return stopped

    # Exchanges

    def exchange(self, name: str, message: Any, expected: Any = None) -> Any:
        """Send `message`, wait for its reply, record it under `name`; return the reply, or None if it failed.

        A reply other than `expected` (unless that is None) is a failure. A failure closes the connection; the next
        exchange opens another. ValueError: a name that is that of a phase of the connection.
        """
        if name not in self._names:
            self._learn(name)
        wire = self._wire or self._connected()
        start_ns = time.monotonic_ns()
        if self.due_ns:
            self._late_ns, self.due_ns = start_ns - self.due_ns, 0
            RECORDER.ticks += 1
        if wire is None:
            return None
        late_ns = self._late_ns
        try:
            data = wire.codec.encode(message)
            start_ns = time.monotonic_ns()
            reply = wire.request(data, start_ns)
            end_ns = wire.received_ns
            if end_ns < start_ns:
                raise WrongReply(f"it was there before it was asked for: {_short(reply)}")
            if reply != expected and (expected is not None or isinstance(reply, Malformed)):
                raise _wrong(reply, expected)
        except Exception as error:
            self._failed(name, start_ns, late_ns, error, wire)
            return None
        except GreenletExit:  # the end of the test
            self._cut_off(name, start_ns, late_ns)
            self._drop(wire)
            raise
        except BaseException as error:  # a gevent.Timeout of the task's own
            RECORDER.failed(name, start_ns - late_ns, "timeout", _text(error))
            self._drop(wire)
            raise
        response_ns = end_ns - start_ns + late_ns if self._is_paced else None
        size = wire.take_size()
        RECORDER.succeeded(name, end_ns, end_ns - start_ns, response_ns, size)
        if wire.is_new:
            self._first_byte(wire)
        if not RECORDER.is_batched:
            self._tell_locust(name, end_ns - start_ns, None, reply, size)
        if self._left:
            self._one_less()
        return reply

    def _learn(self, name: str) -> None:
        if name in (*PHASES, TASK, NEVER_SENT):
            raise ValueError(f"an exchange is named {name!r}, which is what something else is called in a report")
        self._names.add(name)

    def _failed(self, name: str, start_ns: int, late_ns: int, error: Exception, wire: Wire) -> None:
        self._drop(wire)
        if isinstance(error, WireClosed):  # another exchange has failed, and this one was on its connection
            self._cut_off(name, start_ns, late_ns)
            return
        RECORDER.failed(name, start_ns - late_ns, outcome_of(error), _text(error))
        self._tell_locust(name, time.monotonic_ns() - start_ns, error)

    def _cut_off(self, name: str, start_ns: int, late_ns: int) -> None:
        """Of an exchange that is in flight all that is known is that it takes longer."""
        end_ns = time.monotonic_ns()
        response_ns = end_ns - start_ns + late_ns if self._is_paced else None
        RECORDER.outstanding(name, end_ns, CUT_OFF, end_ns - start_ns, response_ns)

    def _tell_locust(
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
        """All tasks, as Locust sees it: until it stops the user."""
        depth = self._pacing.depth if isinstance(self._pacing, Closed) else 1
        if depth == 1:
            self._run_until_stopped()
            return
        others = [gevent.spawn(self._run_beside) for _ in range(depth - 1)]
        try:
            self._run_until_stopped()
            gevent.joinall(others)
        finally:
            gevent.killall(others)

    def _run_until_stopped(self) -> None:
        tasks, is_paced = self._tasks, self._is_paced
        only = tasks[0] if len(tasks) == 1 else None
        try:
            while self._state == LOCUST_STATE_RUNNING:
                if is_paced:
                    self._await_tick()
                if self._is_stopping:
                    return
                (only or random.choice(tasks))(self)  # type: ignore[operator]  # no TaskSet is among them
        finally:
            if self._stopped_ns and self.schedule is not None:
                self._count_unsent(self.schedule)

    def _count_unsent(self, schedule: Schedule) -> None:
        """At the end of the test: the ticks before it that the server kept from being sent."""
        now_ns, due_ns = time.monotonic_ns(), self.due_ns or schedule.next_ns()
        while due_ns <= self._stopped_ns:
            RECORDER.outstanding(NEVER_SENT, now_ns, UNSENT, None, now_ns - due_ns)
            due_ns = schedule.next_ns()
        self.due_ns = 0

    def _run_beside(self) -> None:
        """In a greenlet of its own, on the same connection; of a task that raises Locust is told, and the next runs."""
        while self._state == LOCUST_STATE_RUNNING:
            try:
                self._run_until_stopped()
            except Exception as error:
                self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
                gevent.sleep(0)

    def _await_tick(self) -> None:
        """Until the next tick is due; one that was missed is due at once."""
        assert isinstance(self._pacing, Paced)
        if self.schedule is None:
            self.schedule = self._pacing.schedule(time.monotonic_ns())
        self.due_ns = due_ns = self.schedule.next_ns()
        if due_ns > time.monotonic_ns():
            self._state = LOCUST_STATE_WAITING  # for Locust, which then need not wait for it
            _alarm().sleep_until(due_ns)
            self._state = LOCUST_STATE_RUNNING
            if (late_ns := time.monotonic_ns() - due_ns) > LATE_NS:
                RECORDER.late(late_ns)

    # The connection

    def _connected(self) -> Wire | None:
        """The connection, opened if there is none; None if that failed every time."""
        while self._is_connecting:  # another task that runs beside this one
            gevent.sleep(0.01)
        self._is_connecting = True
        try:
            for attempt in range(self.connect_attempts):
                if self._wire is not None:
                    break
                if attempt:
                    gevent.sleep(random.uniform(0.5, 1.5) * 0.1 * 2**attempt)
                self._wire = self._connect()
        finally:
            self._is_connecting = False
        self._left = self.exchanges_per_connection
        return self._wire

    def _connect(self) -> Wire | None:
        options = self.environment.parsed_options
        host = self.environment.host or self.host

        sockets: list[_socket.socket] = []

        def dial() -> None:
            dialer = _dialer(parse_host(host), getattr(options, "source_addresses", ""))
            sockets.append(dialer.dial(self.connect_timeout_s))

        if not self._phase("connect", dial):
            return None
        if not (self.tls or is_tls(host)):
            return self.wire_class(sockets[0], self.make_codec(), self.reply_timeout_s)
        context = self.ssl_context or _context(getattr(options, "tls_ca", ""))
        wire = TlsWire(sockets[0], self.make_codec(), self.reply_timeout_s, context, parse_host(host)[0])
        try:
            is_up = self._phase("tls", lambda: wire.handshake(self.connect_timeout_s))
        except BaseException:  # the swarm stops
            wire.close()
            raise
        if not is_up:
            wire.close()
            return None
        return wire

    def _phase(self, name: str, work: Callable[[], object]) -> bool:
        """Do `work`, record how long it took or why it failed, and return whether it did not."""
        start_ns = time.monotonic_ns()
        try:
            work()
        except GreenletExit:
            end_ns = time.monotonic_ns()
            RECORDER.outstanding(name, end_ns, CUT_OFF, end_ns - start_ns)
            raise
        except (OSError, ValueError, PeerFinished) as error:  # ValueError: a host that cannot be one
            RECORDER.failed(name, start_ns, outcome_of(error), _text(error))
            if name not in UNSEEN_BY_LOCUST:
                self._tell_locust(name, time.monotonic_ns() - start_ns, error)
            return False
        end_ns = time.monotonic_ns()
        RECORDER.succeeded(name, end_ns, end_ns - start_ns)
        if not (RECORDER.is_batched or name in UNSEEN_BY_LOCUST):
            self._tell_locust(name, end_ns - start_ns, None)
        return True

    def _first_byte(self, wire: Wire) -> None:
        wire.is_new = False
        RECORDER.succeeded("first_byte", wire.first_byte_ns, max(0, wire.first_byte_ns - wire.first_sent_ns))

    def _one_less(self) -> None:
        self._left -= 1
        if not self._left:
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection in good order, if there is one: a series of its own, as long as nothing is in flight."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        try:
            if wire.is_quiet:
                self._phase("close", lambda: wire.finish(self.close_timeout_s))
        finally:
            wire.close()

    def _drop(self, wire: Wire) -> None:
        """Close at once a connection on which something went wrong."""
        if self._wire is wire:
            self._wire = None
        wire.close()


def _at_once() -> float:
    return 0.0


@functools.cache
def _alarm() -> Alarm:
    return Alarm()


def _pacing_of(environment: Environment) -> Paced | Closed:
    """What the command line asks of users that say nothing themselves."""
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


def _wrong(reply: Any, expected: Any) -> WrongReply:
    if isinstance(reply, Malformed):
        return WrongReply(f"{reply.message}: {reply.detail}")
    return WrongReply(f"expected {_short(expected)}, got {_short(reply)}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _short(thing: Any) -> str:
    text = repr(thing)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text)} characters)"
