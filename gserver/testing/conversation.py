"""Conversation: a service without a network, with a clock that the test moves.

    Conversation ── socket pair ── Connection, message loop, deadlines of gserver
         └──── advance() ──── event loop with virtual timers

All of gserver is the real one: a connection is one end of a socket pair, so the kernel's part (what is unread, what the
peer has not taken) is real too. Only the time is the test's, and the message loop is the one in Python, because the
compiled one reads the kernel's clock. Everything happens within the calls of the test, in its thread: a call returns
when the service has nothing more to do until time passes or the test does something.
"""

from __future__ import annotations

import _socket
import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists, set_hub
from gevent.hub import Hub
from greenlet import getcurrent

from gserver.codecs import Codec
from gserver.config.settings import Settings
from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.connection.connection import Address, Connection, State
from gserver.engine.message_loop import MessageLoop
from gserver.engine.schedulers import DedicatedEngine, PooledEngine
from gserver.errors import CloseReason, ConfigError, ConnectionClosed
from gserver.fault_isolation import log_hub_errors
from gserver.server.tcp_server import KILL_GRACE_S
from gserver.service import Service
from gserver.testing.tested_service import TestedService
from gserver.testing.user_failures import UserFailures, check_log_is_on
from gserver.testing.virtual_time import ROUNDING_S, Clock, make_loop
from gserver.user_errors import described
from gserver.worker.readiness_check import ReadyFailed

__all__ = ["Conversation"]

# What the "network" takes from a service whose peer does not read, in bytes, roughly; the kernel doubles it.
NETWORK_BYTES = 32 * 1024
# The service is at rest after so many iterations of the event loop in which nothing has happened.
QUIET_ROUNDS = 3
MOST_CALLBACKS = 1_000_000
FIRST_PORT = 50_000


class Conversation:
    """A client's side of one connection to `app`, for the time of a `with` block.

        with Conversation(app, idle_timeout=60) as conv:
            assert conv.message(b"ping") == [b"pong"]
            conv.advance(60)
            assert conv.close_reason is CloseReason.IDLE_TIMEOUT

    Args:
        app: a Service, a JsonService, a @stream function, or the text of one: "MODULE:NAME". Its ready() is called at
            the beginning of the block, and stop() at the end; the probe is not sent.
        peer: the address of the client, as conn.peer has it; default ("127.0.0.1", 50000), and so on.
        codec: the client's codec; default: one of the service's codec.
        raise_errors: as for gserver.testing.serve().
        listener: conn.listener; default "conversation".
        settings: settings of gserver by their names, as for serve(). Without TLS.

    time.monotonic(), time.time(), time.sleep() and everything of gevent (sleep, Timeout, Event.wait(timeout)) follow
    the test's clock in the service. A handler that waits for something outside of this process, such as a database with
    a socket of gevent, is not waited for: test it with serve().

    Attributes:
        received: all messages of the service so far. A method returns those that arrived during its call.
        received_bytes: the same as bytes.
        conn: the gserver.Connection, as handlers get it.

    Raises ConfigError as serve() does, and for TLS and for a function handle(socket, address).
    """

    received: list[Any]
    received_bytes: bytes
    conn: Connection

    def __init__(
        self,
        app: Any,
        *,
        peer: Address | None = None,
        codec: Codec | None = None,
        raise_errors: bool = True,
        listener: str = "conversation",
        **settings: Any,
    ) -> None:
        if settings.get("certfile") is not None:
            raise ConfigError("setting certfile has no effect in a Conversation: use serve()")
        tested = TestedService(app, settings, listener)
        if not tested.is_service:
            raise ConfigError(f"{app!r} is a function handle(socket, address), which needs a socket: use serve()")
        self._begin(_Stage(tested, raise_errors), peer, codec)

    def _begin(self, stage: _Stage, peer: Address | None, codec: Codec | None) -> None:
        self._stage = stage
        self._peer = peer
        self._codec = codec
        self.received = []
        self.received_bytes = b""
        self._unsent = b""
        self._socket: socket.socket | None = None
        self._is_reading = True
        self._finishes = False

    # What the client does

    def send(self, data: bytes) -> list[Any]:
        """Send bytes: messages, or parts of one. Return the messages that arrived meanwhile.

        Raises ConnectionClosed if the service has closed the connection, and what the codec raises at invalid replies.
        """
        __tracebackhide__ = True
        if self._socket is None or self._finishes:
            reason = self.close_reason
            raise ConnectionClosed(f"the connection is closed: {reason.value if reason else 'by the client'}", reason)
        return self._after(lambda: self._queue(data))

    def message(self, *messages: Any) -> list[Any]:
        """Encode messages and send them together. Return the messages that arrived meanwhile. Raises as send() does."""
        __tracebackhide__ = True
        return self.send(b"".join(map(self.codec.encode, messages)))

    def finish(self) -> list[Any]:
        """Send nothing more (EOF). Return the messages that arrived meanwhile."""
        __tracebackhide__ = True
        return self._after(self._finish)

    def reset(self) -> None:
        """Break the connection: the service gets an error when it receives or sends. Bytes that are unsent are lost."""
        __tracebackhide__ = True
        self._stage.run(self._reset)

    def pause_reading(self) -> None:
        """Be a slow reader: leave what the service sends from now on unread. The network takes some 64 KiB of it."""
        self._is_reading = False

    def resume_reading(self) -> list[Any]:
        """Read again. Return the messages that arrived meanwhile."""
        __tracebackhide__ = True
        self._is_reading = True
        return self._after()

    # What happens beside

    def advance(self, seconds: float) -> list[Any]:
        """Let time pass. Return the messages that arrived meanwhile.

        Timers and deadlines are due in their order, each at its time. A deadline of gserver is met up to a tick late:
        1/20 of the shortest timeout, 0.25 s at most. 0: only do what can be done now, for example after the test has
        set an Event.

        ValueError if `seconds` is negative.
        """
        __tracebackhide__ = True
        if seconds < 0:
            raise ValueError(f"seconds is {seconds!r}, must be 0 or more")
        count = len(self.received)
        self._stage.advance(seconds)
        return self.received[count:]

    def drain(self) -> list[Any]:
        """Drain the server, as for a reload or a stop of its worker. Return the messages that arrived meanwhile.

        A handler that still runs has graceful_timeout to finish, or is killed: advance() lets the time pass.
        """
        __tracebackhide__ = True
        return self._after(self._stage.begin_drain)

    def another(self, *, peer: Address | None = None, codec: Codec | None = None) -> Conversation:
        """Open another connection to the same server, with the same clock. It ends with this block. Args: as above."""
        __tracebackhide__ = True
        other = Conversation.__new__(Conversation)
        other._begin(self._stage, peer, codec)
        other._open()
        return other

    # What can be seen

    @property
    def codec(self) -> Codec:
        """The client's codec."""
        if self._codec is None:
            self._codec = self._stage.tested.make_codec()
        return self._codec

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed on the service's side."""
        return self.conn.state is State.CLOSED

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the service closes or has closed the connection; None: it does not."""
        return self.conn.close_reason

    @property
    def unsent_bytes(self) -> int:
        """Bytes of send() that the service has not made room for: it does not read."""
        return len(self._unsent)

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._stage.tested.settings

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions of the service's code so far. A test that expects one removes it: conv.errors.pop()."""
        return self._stage.failures.errors

    # The life of the block

    def __enter__(self) -> Conversation:
        __tracebackhide__ = True
        self._stage.begin()
        try:
            self._open()
        except BaseException:
            self._stage.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._stage.end()
        self._stage.report(error)

    def _open(self) -> None:
        address = self._peer or ("127.0.0.1", self._stage.next_port())
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NETWORK_BYTES)
        ours.setblocking(False)
        served = _socket.socket(fileno=theirs.detach())
        served.setblocking(False)
        self._socket, self._served = ours, served

        def adopt() -> None:
            self.conn = self._stage.server.adopt(served, address)

        self._stage.join(self)
        self._stage.run(adopt)

    # For replay()

    def advance_to_timer(self, limit_s: float) -> float:
        """Let time pass until the next timer is due, at most `limit_s`; return how many seconds have passed."""
        __tracebackhide__ = True
        return self._stage.advance_to_timer(limit_s)

    # For the stage

    def pump(self) -> int:
        """Send and receive what is possible; return how many bytes."""
        return self._push() + (self._pull() if self._is_reading else 0)

    def _push(self) -> int:
        sock, sent = self._socket, 0
        if sock is not None and self._unsent:
            try:
                sent = sock.send(self._unsent)
            except BlockingIOError:
                pass
            except OSError:
                self._unsent = b""
            self._unsent = self._unsent[sent:]
        if sock is not None and self._finishes and not self._unsent:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:  # the service has closed it
                pass
        return sent

    def _pull(self) -> int:
        size = 0
        while self._socket is not None:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.hang_up()
                break
            size += len(data)
            self.received_bytes += data
            self.codec.receive(data)
            self.received.extend(self.codec.messages())
        return size

    def end(self) -> None:
        """The block ends: the client closes the connection."""
        self._is_reading = self._finishes = True

    def hang_up(self) -> None:
        """Close the client's end."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._unsent = None, b""

    def _queue(self, data: bytes) -> None:
        self._unsent += data

    def _finish(self) -> None:
        self._finishes = True

    def _reset(self) -> None:
        """A socket pair is reset if it is closed with unread bytes: so the service's end sends one first."""
        if self._socket is not None and self._served.fileno() >= 0:
            try:
                self._served.send(b"\0")
            except OSError:  # it is full, or closed
                pass
        self.hang_up()

    def _after(self, action: Callable[[], object] = lambda: None) -> list[Any]:
        __tracebackhide__ = True
        count = len(self.received)
        self._stage.run(action)
        return self.received[count:]


class _Stage:
    """A server with its event loop and its clock, for the conversations of one test."""

    def __init__(self, tested: TestedService, raise_errors: bool) -> None:
        self.tested = tested
        self.failures = UserFailures()
        self._raise_errors = raise_errors
        self._others: list[str] = []
        self._conversations: list[Conversation] = []
        self._ports = itertools.count(FIRST_PORT)
        self._is_inside = False
        self._drain: Any = None  # the greenlet that drains

    def next_port(self) -> int:
        return next(self._ports)

    def join(self, conversation: Conversation) -> None:
        self._conversations.append(conversation)

    def begin(self) -> None:
        """Make the server, and call ready()."""
        __tracebackhide__ = True
        if self._raise_errors:
            check_log_is_on()
        self._clock = Clock()
        self._loop = make_loop(self._clock)
        self._hub: Any = Hub(loop=self._loop)
        self._idle = self._loop.idle(priority=self._loop.MINPRI)
        self.failures.watch()
        try:
            with self._inside():
                log_hub_errors()
                self._make_server()
                self._call_ready()
        except BaseException:
            self.failures.close()
            self._destroy()
            raise

    def _make_server(self) -> None:
        self.server = server = self.tested.make_server(("", 0))  # never started: it accepts nothing
        engine, limits = server._engine, server._limits
        is_metered = limits.max_message_rate or limits.max_byte_rate  # such a message loop is in Python already
        if isinstance(engine, PooledEngine | DedicatedEngine) and not is_metered:
            assert isinstance(self.tested.served, Service)
            engine.use(MessageLoop(self.tested.served, server.counters, server._fairness))

    def _call_ready(self) -> None:
        ready = getattr(self.tested.served, "ready", None)
        if ready is None:
            return
        calling = gevent.spawn(_outcome, ready)
        self._settle()
        if not calling.dead:
            calling.kill(block=False)
            self._settle()
            raise ConfigError("ready() has not returned: it waits for time to pass, or for I/O; test it with serve()")
        if calling.value is not None:
            raise ReadyFailed(f"ready() raised {described(calling.value)}") from calling.value

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread runs the hub, by the clock."""
        if self._is_inside:
            raise RuntimeError("a Conversation is used by the service itself: only the test may use it")
        outer: Any = get_hub_if_exists()
        self._is_inside = True
        set_hub(self._hub)
        try:
            with self._clock.used():
                yield
        finally:
            self._is_inside = False
            set_hub(outer)

    def run(self, action: Callable[[], object]) -> None:
        """Do something, and let the service work until it is at rest."""
        __tracebackhide__ = True
        with self._inside():
            action()
            self._settle()

    def advance(self, seconds: float) -> None:
        __tracebackhide__ = True
        with self._inside():
            self._advance(seconds)

    def advance_to_timer(self, limit_s: float) -> float:
        __tracebackhide__ = True
        due = self._loop.next_due
        seconds = limit_s if due is None else min(limit_s, max(0.0, due - self._clock.now))
        self.advance(seconds)
        return seconds

    def _advance(self, seconds: float) -> None:
        until = self._clock.now + seconds
        self._settle()
        while (due := self._loop.next_due) is not None and due <= until + ROUNDING_S:
            self._clock.now = max(self._clock.now, due)
            self._loop.fire_due()
            self._settle()
        self._clock.now = max(self._clock.now, until)

    def _settle(self) -> None:
        """Run the event loop until nothing happens any more at this time."""
        __tracebackhide__ = True
        quiet, before = 0, self._state()
        self._loop.limit(MOST_CALLBACKS, getcurrent().switch)
        while quiet < QUIET_ROUNDS:
            moved = sum(conversation.pump() for conversation in self._conversations)
            self._iterate()
            state = self._state()
            quiet = 0 if moved or state != before else quiet + 1
            before = state
            if self._loop.work >= self._loop.most_work:
                text = f"the service does not come to rest: {MOST_CALLBACKS} callbacks without any time passing"
                raise AssertionError(text)

    def _iterate(self) -> None:
        """Run the event loop until an iteration has found neither input nor callbacks.

        By an idle watcher of the lowest priority: a callback would run again before the loop has looked for input.
        """
        self._idle.start(getcurrent().switch)
        self._hub.switch()
        self._idle.stop()

    def _state(self) -> Sequence[object]:
        conns = [conversation.conn for conversation in self._conversations if hasattr(conversation, "conn")]
        return self._loop.work, [(conn.received_bytes, conn.sent_bytes, conn.messages, conn.state) for conn in conns]

    def begin_drain(self) -> None:
        if self._drain is None:
            self._drain = gevent.spawn(self.server.drain, self.tested.settings.graceful_timeout, first_answer_s=0.0)

    def end(self) -> None:
        """Close all connections, drain the server, and call stop()."""
        __tracebackhide__ = True
        graceful_s = self.tested.settings.graceful_timeout
        try:
            with self._inside():
                for conversation in self._conversations:
                    conversation.end()
                self._settle()
                is_drained_by_test = self._drain is not None
                self.begin_drain()
                self._advance(graceful_s + 2 * KILL_GRACE_S)
                if self._drain.value and not is_drained_by_test:
                    after = f"graceful_timeout ({graceful_s:g} s)"
                    text = f"connections that were still busy after {after}, and were killed: {self._drain.value}"
                    self._others.append(text)
                stopping = gevent.spawn(self.tested.stop)
                self._advance(graceful_s)
                if not stopping.dead:
                    self._others.append(f"stop() of the service has not returned after {graceful_s:g} s")
                    stopping.kill(block=False)
                    self._settle()
        finally:
            self.failures.close()
            self._destroy()

    def report(self, error: BaseException | None) -> None:
        __tracebackhide__ = True
        if self._raise_errors:
            self.failures.finish(error, self._others)

    def _destroy(self) -> None:
        for conversation in self._conversations:
            conversation.hang_up()
        outer: Any = get_hub_if_exists()
        set_hub(self._hub)
        try:
            self._idle.close()
            self._loop.timers.clear()
            self._hub.destroy(destroy_loop=True)
        finally:
            set_hub(outer)


def _outcome(function: Callable[[], object]) -> BaseException | None:
    """Call a function of the service; return its exception, None if there was none."""
    try:
        function()
    except BaseException as error:
        return error
    return None
