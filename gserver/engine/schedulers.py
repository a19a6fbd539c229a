"""The schedulers: they decide which greenlet serves which connection.

Pooled (the default): a connection has one READ watcher, which is started once; its callback only appends the connection
to a queue. A check watcher of low priority runs after the I/O callbacks of a loop iteration and switches to a *runner*,
a greenlet that serves the connections in the queue. So all work of a loop iteration costs one greenlet switch, and an
idle connection holds no greenlet. A handler that blocks keeps its runner, and another runner serves the rest.

Dedicated: each connection has a runner of its own for life, to which its READ watcher switches.

In both, a runner switches back to the hub when it parks, or in the middle of a turn. The latter means that a handler
blocked: the connection notes its runner, and the replies so far are sent. If the connection becomes readable meanwhile,
its watcher is stopped until the turn is over (back-pressure, and no spinning).

Fairness: a turn receives a bounded number of bytes. The rest fires the watcher again, behind the other connections.
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

from gserver.connection.connection import Connection, State
from gserver.engine.message_loop import MessageLoop
from gserver.engine.task_runner import kill_tasks
from gserver.errors import CloseReason, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program, shielded
from gserver.log_records import log_about

__all__ = ["DedicatedEngine", "Engine", "PooledEngine"]

log = logging.getLogger("gserver.engine")

ConnectionKind = TypeVar("ConnectionKind", bound=Connection, contravariant=True)


class Engine(Protocol[ConnectionKind]):
    """Serves the connections of one server."""

    def add(self, conn: ConnectionKind) -> None:
        """Serve `conn` from now on."""

    def wake(self, conn: ConnectionKind) -> None:
        """Serve `conn` although its socket may have nothing to read: its input has been received already."""

    def drain(self, conn: ConnectionKind, reason: CloseReason = CloseReason.DRAINED) -> None:
        """Answer what `conn` has sent by now, then close it for `reason`. Never blocks."""

    def dismiss(self, conn: ConnectionKind, fault: ProtocolError | LimitExceeded) -> None:
        """Answer `fault` and close `conn`, if it is between two messages. Never blocks."""

    def failed(self, what: str, conn: ConnectionKind, error: BaseException) -> object:
        """Log, count and answer an exception of user code (`what`) outside of the turns of `conn`. May block."""

    def interrupt(self, conn: ConnectionKind, error: BaseException) -> None:
        """Raise `error` in the blocked handler of `conn`. Never blocks."""

    def kill(self, conn: ConnectionKind) -> None:
        """Close `conn` at once and kill its handler. Never blocks."""

    def forget(self, conn: ConnectionKind) -> None:
        """Drop what is kept for `conn`, which is closed."""

    def rates_changed(self, conn: ConnectionKind) -> None:
        """The rate limits have changed, and hold for `conn` too."""

    def close(self) -> None:
        """Stop the watchers and the idle greenlets. The connections are closed already."""


class Runner(greenlet):
    """A greenlet that serves connections.

    Attributes:
        conn: the connection that it is serving; None while it is parked.
        home: the only connection it ever serves, in the dedicated engine; None in the pooled one.
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
    """End a runner that was left by an exception, which must not propagate to the callback that switched to it.

    Args:
        conn: the connection that it was serving.
        error: Killed, or an exception that a handler has left behind in its greenlet, such as a gevent.Timeout.
    """
    if not isinstance(error, GreenletExit):
        text = "something that a handler left behind ended"
        if conn is None:
            log.error(f"{text} a greenlet without a connection", exc_info=error)
        else:
            log_about(conn, log, logging.ERROR, f"{text} the connection %(conn)s", exc_info=error)
        interrupt_program(error)
    if conn is not None:
        conn.abort(CloseReason.KILLED if isinstance(error, Killed) else CloseReason.HANDLER_ERROR)


class _MessageEngine:
    """What both engines share: turns that block, the last turn of a drain, and interruption."""

    def __init__(self, message_loop: MessageLoop) -> None:
        self._message_loop = message_loop
        self._hub: Any = get_hub()
        # The hub's own switch() looks for a switch_out() of the runner, which costs 4 % of a turn's instructions.
        self._park = partial(greenlet.switch, self._hub)

    def _enter(self, runner: Runner) -> None:
        """Switch to a parked runner, from the hub."""
        runner.switch()
        conn = runner.conn
        if conn is not None:
            self._handler_blocks(runner, conn)

    def _handler_blocks(self, runner: Runner, conn: Connection) -> None:
        if conn.runner is None:  # else no handler blocks: see Connection.step_aside()
            conn.occupied_by(runner)
            if not shielded("sending", conn.flush_replies, conn=conn):
                conn.abort(CloseReason.HANDLER_ERROR)
            conn.handler_blocks(self._message_loop.now)

    def _watch(self, conn: Connection) -> None:
        raise NotImplementedError

    def use(self, message_loop: MessageLoop) -> None:
        """Run the turns by another message loop from now on. Turns that run are completed by the previous one."""
        self._message_loop.retire()
        self._message_loop = message_loop

    def rates_changed(self, conn: Connection) -> None:
        """Do nothing: the message loop meters its connections by itself."""

    def _resume(self, conn: Connection) -> None:
        """The blocked turn is over: serve the connection as before, or drain it if that was requested meanwhile."""
        if conn.state is State.DRAINING:
            self._message_loop.serve_last(conn)
        conn.released()
        conn.restart_idle_clocks()
        if conn.is_paused:
            self._watch(conn)

    def drain(self, conn: Connection, reason: CloseReason = CloseReason.DRAINED) -> None:
        conn.start_draining(reason)
        if conn.runner is None and conn.turn_replies is None:  # else _resume() drains it at the end of the turn
            conn.occupied_by(gevent.spawn(self._message_loop.serve_last, conn))

    def dismiss(self, conn: Connection, fault: ProtocolError | LimitExceeded) -> None:
        if conn.runner is None and conn.turn_replies is None:
            conn.occupied_by(gevent.spawn(self._dismiss, conn, fault))

    def _dismiss(self, conn: Connection, fault: ProtocolError | LimitExceeded) -> None:
        try:
            self._message_loop.dismiss(conn, fault)
        finally:
            conn.released()

    def failed(self, what: str, conn: Connection, error: BaseException) -> object:
        return self._message_loop.failed(what, conn, error)

    def interrupt(self, conn: Connection, error: BaseException) -> None:
        if conn.runner is not None:
            conn.handler_blocks(time.monotonic())  # the handler may catch the exception, and has the same time again
            conn.runner.throw(error)

    def kill(self, conn: Connection) -> None:
        kill_tasks(conn)
        runner = conn.runner
        if runner is None:
            conn.abort(CloseReason.KILLED)
        else:
            gevent.kill(runner, Killed)


class PooledEngine(_MessageEngine):
    """Serves connections that have input with a few runners; one greenlet more for each handler that blocks."""

    def __init__(self, message_loop: MessageLoop) -> None:
        super().__init__(message_loop)
        self._ready: deque[Connection] = deque()
        self._is_ready = self._ready.append  # made once: a bound method takes 72 bytes for each connection
        self._idle: list[Runner] = []
        self._check = self._hub.loop.check(ref=False, priority=self._hub.loop.MINPRI)
        self._start()

    def _start(self) -> None:
        self._dispatch = partial(
            self._message_loop.dispatch, self._ready, self._idle, self._make_runner, self._handler_blocks
        )
        self._check.start(self._dispatch)

    def use(self, message_loop: MessageLoop) -> None:
        self._end_idle_runners()
        super().use(message_loop)
        self._check.stop()
        self._idle = []  # the runners of the previous message loop park in its list, and end there
        self._start()

    def add(self, conn: Connection) -> None:
        self._watch(conn)

    def _watch(self, conn: Connection) -> None:
        conn.watch(self._is_ready, conn)

    def forget(self, conn: Connection) -> None:
        """Do nothing: only a turn refers to a connection here."""

    def close(self) -> None:
        self._message_loop.retire()
        self._end_idle_runners()
        self._check.stop()
        self._check.close()

    def _end_idle_runners(self) -> None:
        for runner in self._idle:
            self._hub.loop.run_callback(runner.throw)
        self._idle.clear()

    def wake(self, conn: Connection) -> None:
        self._ready.append(conn)
        self._hub.loop.run_callback(self._dispatch)  # the check watcher runs only after some input

    def _make_runner(self) -> Runner:
        return Runner(self._run, self._hub)

    def _run(self) -> None:
        runner = _current_runner()
        try:
            self._serve(runner)
        except BaseException as error:
            _end_of_runner(runner.conn, error)

    def _serve(self, runner: Runner) -> None:
        idle, message_loop = self._idle, self._message_loop
        while (blocked := message_loop.serve_parking(self._ready, idle, runner, self._park)) is not None:
            self._resume(blocked)
            blocked = None  # a parked runner must not keep a connection that is closed by then
            if len(idle) >= message_loop.most_idle:
                return
            idle.append(runner)
            self._park()


class DedicatedEngine(_MessageEngine):
    """Serves every connection with a runner of its own, for life."""

    def __init__(self, message_loop: MessageLoop) -> None:
        super().__init__(message_loop)
        self._runners: dict[Connection, Runner] = {}

    def add(self, conn: Connection) -> None:
        runner = Runner(self._run, self._hub, conn)
        self._runners[conn] = runner
        self._watch(conn)

    def _watch(self, conn: Connection) -> None:
        conn.watch(self._wake, conn, self._runners[conn])

    def wake(self, conn: Connection) -> None:
        self._hub.loop.run_callback(self._wake, conn, self._runners[conn])

    def _wake(self, conn: Connection, runner: Runner) -> None:
        if conn.state is not State.OPEN:
            return
        if conn.runner is None:
            self._message_loop.now = time.monotonic()
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
        park = self._park
        while conn.state is State.OPEN:
            runner.conn = conn
            self._message_loop.serve(conn)  # looked up each time: see use()
            runner.conn = None
            if conn.runner is not None:
                self._resume(conn)
            if conn.state is State.OPEN:
                park()

    def forget(self, conn: Connection) -> None:
        runner = self._runners.pop(conn, None)
        if runner and runner.conn is None:  # parked, or never entered: nothing will switch to it any more
            self._hub.loop.run_callback(runner.throw)

    def close(self) -> None:
        """Do nothing: every runner ends with its connection."""
