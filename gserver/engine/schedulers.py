"""The engine: which greenlet serves which connection.

Pooled (the default): a connection has one READ watcher, started once, whose callback only queues it. A check watcher of
low priority runs after the I/O callbacks of a loop turn and switches to a *runner*, a greenlet that serves connections
off the queue: a whole loop turn's work costs one greenlet switch, and an idle connection holds no greenlet. A handler
that blocks keeps its runner, and the rest of the queue goes to another one.

Dedicated: each connection has a runner of its own for life, which its READ watcher switches to.

In both, the hub regains control from a runner either with the runner parked or in the middle of a turn. In the middle
means that a handler blocked: the connection is marked with its runner, the replies that are ready are sent, and should
it become readable meanwhile, its watcher is stopped until the turn is over (back-pressure, and no spinning).
Fairness: a turn receives a bounded number of bytes; what remains fires the watcher again, behind the others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import gevent
from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gserver.connection.connection import READ, Connection, State
from gserver.engine.message_loop import MessageLoop
from gserver.errors import CloseReason, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program, shielded

__all__ = ["DedicatedEngine", "Engine", "PooledEngine"]

log = logging.getLogger("gserver.engine")

ConnectionKind = TypeVar("ConnectionKind", bound=Connection, contravariant=True)


class Engine(Protocol[ConnectionKind]):
    """Where connections are served."""

    def add(self, conn: ConnectionKind) -> None:
        """Serve `conn` from now on."""

    def wake(self, conn: ConnectionKind) -> None:
        """Serve `conn` although its socket may have nothing to read: what it sent has been received already."""

    def drain(self, conn: ConnectionKind, reason: CloseReason = CloseReason.DRAINED) -> None:
        """Answer what `conn` has sent by now, then close it for `reason`. Never blocks."""

    def dismiss(self, conn: ConnectionKind, fault: ProtocolError | LimitExceeded) -> None:
        """Tell `conn` why and close it, if it is between two messages. Never blocks."""

    def failed(self, what: str, conn: ConnectionKind, error: BaseException) -> object:
        """Log, count and answer what user code (`what`) has raised for `conn`, outside of its turns. May block."""

    def interrupt(self, conn: ConnectionKind, error: BaseException) -> None:
        """Raise `error` in the handler of `conn` that blocks. Never blocks."""

    def kill(self, conn: ConnectionKind) -> None:
        """Close `conn` at once, interrupting its handler. Never blocks."""

    def forget(self, conn: ConnectionKind) -> None:
        """`conn` is closed."""

    def close(self) -> None:
        """Let go of everything; the connections are closed already."""


class Runner(greenlet):
    """A greenlet that serves connections.

    Attributes:
        conn: the one whose turn it is in, None while parked.
        home: the only one it ever serves, in the dedicated shape.
    """

    __slots__ = ("conn", "home")

    def __init__(self, run: Callable[[], None], hub: Any, home: Connection | None = None) -> None:
        super().__init__(run, hub)
        self.conn: Connection | None = None
        self.home = home


def _current_runner() -> Runner:
    runner = getcurrent()
    assert isinstance(runner, Runner)
    return runner


def _end_of_runner(conn: Connection | None, error: BaseException) -> None:
    """Last of all: nothing may leave a runner, for it would go on in the callback that switched to it.

    `error`: that the runner was killed; or what a handler has left behind in its greenlet, such as a gevent.Timeout.
    """
    if not isinstance(error, GreenletExit):
        log.error("something that a handler left behind ended the connection %s", conn, exc_info=error)
        interrupt_program(error)
    if conn is not None:
        conn.abort(CloseReason.KILLED if isinstance(error, Killed) else CloseReason.HANDLER_ERROR)


class _TurnEngine:
    """What both shapes share: turns that block, the last turn of a drain, and interruption."""

    def __init__(self, turn: MessageLoop) -> None:
        self._turn = turn
        self._hub: Any = get_hub()
        # The hub's own switch() looks for a switch_out() of the runner, which has none: 4 % of a turn's instructions.
        self._park = partial(greenlet.switch, self._hub)

    def _enter(self, runner: Runner) -> None:
        """Switch to a parked runner, from the hub."""
        runner.switch()
        conn = runner.conn
        if conn is not None:
            self._handler_blocks(runner, conn)

    def _handler_blocks(self, runner: Runner, conn: Connection) -> None:
        if conn.runner is None:  # else it only steps aside: see MessageLoop._step_aside()
            conn.runner = runner
            if not shielded("sending", conn.flush_replies, conn=conn):
                conn.abort(CloseReason.HANDLER_ERROR)
            conn.handler_blocks(self._turn.now)

    def _watch(self, conn: Connection) -> None:
        raise NotImplementedError

    def _resume(self, conn: Connection) -> None:
        """The turn that blocked is over: go on as before, or with the drain that was asked for meanwhile."""
        if conn.state is State.DRAINING:
            self._turn.serve_last(conn)
        conn.runner = conn.handler_since = None
        conn.active_at = conn.received_at = time.monotonic()
        if conn.is_paused:
            self._watch(conn)

    def drain(self, conn: Connection, reason: CloseReason = CloseReason.DRAINED) -> None:
        conn.start_draining(reason)
        if conn.runner is None and conn.turn_replies is None:  # in a turn, that turn goes on with it: see _resume()
            conn.runner = gevent.spawn(self._turn.serve_last, conn)

    def dismiss(self, conn: Connection, fault: ProtocolError | LimitExceeded) -> None:
        if conn.runner is None and conn.turn_replies is None:
            conn.runner = gevent.spawn(self._dismiss, conn, fault)

    def _dismiss(self, conn: Connection, fault: ProtocolError | LimitExceeded) -> None:
        try:
            self._turn.dismiss(conn, fault)
        finally:
            conn.runner = None

    def failed(self, what: str, conn: Connection, error: BaseException) -> object:
        return self._turn.failed(what, conn, error)

    def interrupt(self, conn: Connection, error: BaseException) -> None:
        if conn.runner is not None:
            conn.handler_since = time.monotonic()  # it may have a way to swallow this
            conn.runner.throw(error)

    def kill(self, conn: Connection) -> None:
        runner = conn.runner
        if runner is None:
            conn.abort(CloseReason.KILLED)
        else:
            gevent.kill(runner, Killed)


class PooledEngine(_TurnEngine):
    """A greenlet for every connection that has work."""

    def __init__(self, turn: MessageLoop) -> None:
        super().__init__(turn)
        self._ready: deque[Connection] = deque()
        self._is_ready = self._ready.append  # made once: a method of its own is 72 bytes for each connection
        self._idle: list[Runner] = []
        self._dispatch = partial(turn.dispatch, self._ready, self._idle, self._make_runner, self._handler_blocks)
        self._check = self._hub.loop.check(ref=False, priority=self._hub.loop.MINPRI)
        self._check.start(self._dispatch)

    def add(self, conn: Connection) -> None:
        conn.watcher = self._hub.loop.io(conn.sock.fileno(), READ)
        self._watch(conn)

    def _watch(self, conn: Connection) -> None:
        conn.watcher.start(self._is_ready, conn)

    def forget(self, conn: Connection) -> None:
        """Nothing: only a turn holds on to a connection here."""

    def close(self) -> None:
        self._turn.most_idle = 0
        self._check.stop()
        self._check.close()
        for runner in self._idle:
            self._hub.loop.run_callback(runner.throw)
        self._idle.clear()

    def wake(self, conn: Connection) -> None:
        self._ready.append(conn)
        self._hub.loop.run_callback(self._dispatch)  # the check watcher would wait for some input

    def _make_runner(self) -> Runner:
        return Runner(self._run, self._hub)

    def _run(self) -> None:
        runner = _current_runner()
        try:
            self._serve(runner)
        except BaseException as error:
            _end_of_runner(runner.conn, error)

    def _serve(self, runner: Runner) -> None:
        idle, turn = self._idle, self._turn
        while (blocked := turn.serve_parking(self._ready, idle, runner, self._park)) is not None:
            self._resume(blocked)
            blocked = None  # while it is parked, it would keep a connection that is closed by then
            if len(idle) >= turn.most_idle:
                return
            idle.append(runner)
            self._park()


class DedicatedEngine(_TurnEngine):
    """A greenlet for every connection, for life."""

    def __init__(self, turn: MessageLoop) -> None:
        super().__init__(turn)
        self._runners: dict[Connection, Runner] = {}

    def add(self, conn: Connection) -> None:
        runner = Runner(self._run, self._hub, conn)
        self._runners[conn] = runner
        conn.watcher = self._hub.loop.io(conn.sock.fileno(), READ)
        self._watch(conn)

    def _watch(self, conn: Connection) -> None:
        conn.watcher.start(self._wake, conn, self._runners[conn])

    def wake(self, conn: Connection) -> None:
        self._hub.loop.run_callback(self._wake, conn, self._runners[conn])

    def _wake(self, conn: Connection, runner: Runner) -> None:
        if conn.state is not State.OPEN:
            return
        if conn.runner is None:
            self._turn.now = time.monotonic()
            self._enter(runner)
        else:
            conn.pause()

    def _run(self) -> None:
        runner = _current_runner()
        conn = runner.home
        assert conn is not None
        try:
            self._serve_for_life(runner, conn)
        except BaseException as error:
            _end_of_runner(conn, error)

    def _serve_for_life(self, runner: Runner, conn: Connection) -> None:
        serve, park = self._turn.serve, self._park
        while conn.state is State.OPEN:
            runner.conn = conn
            serve(conn)
            runner.conn = None
            if conn.runner is not None:
                self._resume(conn)
            if conn.state is State.OPEN:
                park()

    def forget(self, conn: Connection) -> None:
        runner = self._runners.pop(conn, None)
        if runner and runner.conn is None:  # parked, or never entered: nothing will wake it any more
            self._hub.loop.run_callback(runner.throw)

    def close(self) -> None:
        """Nothing: every runner ends with its connection."""
