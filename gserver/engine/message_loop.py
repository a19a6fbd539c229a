"""The message loop: receive once, decode all complete messages, call the service for each, send the replies once.

Every message takes this path: receive(), begin_turn(), a handler for each message, finish_messages(), end_turn(). All
but the handlers are methods of the connection. What follows one receive is a turn.

It is kept short: no timer, no lock, no state change for a connection with a handler that does not block, and one send
for all replies (16 pipelined JSON messages cost a quarter of 16 single ones).

Fairness: a turn receives a bounded number of bytes. It lets the other connections run when its replies are more than
the outbox should hold, and after as many messages as take about one time slice. That number, the batch, is adapted:
reading the clock for each message would cost a JSON message 2 %, so the clock is read once for each batch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from gserver.codecs import Codec, Malformed
from gserver.codecs.malformed import MalformedError
from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.connection.connection import HIGH_WATER, Connection, State
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.counters import MESSAGES, SAMPLED_ONE_OF, Counters
from gserver.engine.concurrent_handlers import ConcurrentHandlers
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program
from gserver.log_records import log_about
from gserver.service import Fault, Service

__all__ = ["IDLE_RUNNERS", "MessageLoop"]

log = logging.getLogger("gserver.turn")

# Messages between two looks at the clock: at first, and at most.
FIRST_BATCH = 16
LARGEST_BATCH = 256
#: Idle runners that are kept. After a burst of blocked handlers, runners beyond this number end.
IDLE_RUNNERS = 64
# A message loop that starts tasks does not time them: ConcurrentHandlers does.
NOT_SAMPLED = 2**31 - 1


class MessageLoop:
    """Runs the turns of connections for one service. Its methods raise nothing but Killed, when a greenlet is killed.

    An exception of the user's code (the handler, on_error, the codec) is logged with its connection and counted. The
    service's on_error may answer it. It ends at most that connection.

    The messages of a turn are added to the counters together, before the last replies are sent. _answer() is long
    because it contains code that could be methods: one call more for every message is 1 % of an echo. Where gserver is
    compiled, serve(), dispatch() and serve_parking() are those of _native.c.

    Attributes:
        now: when the hub last had work, in seconds of time.monotonic().
        most_idle: how many idle runners are kept; 0: a runner that has no more work ends.
    """

    def __init__(self, service: Service, counters: Counters, fairness: Fairness) -> None:
        self._service = service
        self._counters = counters
        self._fairness = fairness
        self._cells = counters.cells
        self._on_message = service.on_message
        # How many messages until a handler is timed again, with the message of that handler.
        self._sample_in = SAMPLED_ONE_OF
        if service.concurrency > 1:
            self._on_message = ConcurrentHandlers(service, counters, self)
            self._sample_in = NOT_SAMPLED
        self._batch = FIRST_BATCH
        self.now = time.monotonic()
        self.most_idle = IDLE_RUNNERS

    def retire(self) -> None:
        """Another message loop is used from now on. This one completes its turns, and its runners end then."""
        self.most_idle = 0

    def dispatch(
        self,
        ready: deque[Connection],
        idle: list[Any],
        make_runner: Callable[[], Any],
        handler_blocks: Callable[[Any, Connection], None],
    ) -> None:
        """From the hub, switch to runners until no connection in `ready` is left.

        A runner switches back when it parks, or when a handler blocks; then the connection is in `runner.conn`. In the
        second case `handler_blocks(runner, conn)` is called, and another runner serves the rest.
        """
        if ready:
            self.now = time.monotonic()
        while ready:
            runner = idle.pop() if idle else make_runner()
            runner.switch()
            conn = runner.conn
            if conn is not None:
                handler_blocks(runner, conn)

    def serve_parking(
        self, ready: deque[Connection], idle: list[Any], runner: Any, park: Callable[[], object]
    ) -> Connection | None:
        """The main loop of a runner: serve all connections in `ready`, park among `idle`, and repeat.

        Return a connection as soon as its handler has blocked: other runners serve the rest, and the hub does not wait
        for this one. Return None if enough runners are idle.
        """
        while True:
            blocked = self._serve_ready(ready, runner)
            if blocked is not None:
                return blocked
            if len(idle) >= self.most_idle:
                return None
            idle.append(runner)
            park()

    def _serve_ready(self, ready: deque[Connection], runner: Any) -> Connection | None:
        """Serve the connections in `ready`, one after the other; return the one with a blocked handler, or None.

        `runner.conn` is the connection that is being served.
        """
        is_open = State.OPEN  # looking up an enum member on its class costs as much as a call on Python 3.11
        while ready:
            conn = ready.popleft()
            if conn.runner is not None:
                conn.pause()  # watched again when its blocked turn is over
                continue
            if conn.state is not is_open:
                continue
            runner.conn = conn
            self.serve(conn)
            runner.conn = None
            if conn.runner is runner:
                return conn
        return None

    def serve(self, conn: Connection) -> None:
        """Run one turn: receive once, and answer every message that is complete."""
        try:
            data = conn.receive(RECEIVE_BYTES)
        except OSError:
            conn.broken()
            return
        if data is None:
            return
        if not data:
            self._end(conn)
            return
        replies = conn.begin_turn(len(data), self.now)
        try:
            self._answer(conn, data, replies)
        finally:
            conn.end_turn()

    def _answer(self, conn: Connection, data: bytes, replies: list[bytes]) -> None:
        codec, on_message, size, handled = conn.codec, self._on_message, 0, 0
        began, look_at = self.now, self._batch
        try:
            try:
                codec.receive(data)
                for message in codec.messages():
                    if replies:  # to the messages before this one
                        size += len(replies[-1])
                        if size > HIGH_WATER or conn.runner is not None:
                            size = self._send_early(conn, size)
                    if handled == look_at:
                        began = self._look_at_the_clock(conn, began)
                        look_at += self._batch
                    if conn.close_reason is not None:
                        break
                    handled += 1
                    try:
                        if type(message) is Malformed:
                            self._malformed(conn, message)
                        else:
                            self._sample_in -= 1
                            reply = (on_message if self._sample_in else self._timed)(message, conn)
                            if reply is not None:
                                replies.append(_encoded(codec, reply))
                            elif conn.runner is not None:
                                self._send_early(conn, 0)
                    except Killed:
                        raise
                    except BaseException as error:
                        self._handler_failed(conn, error)
            except Killed:
                raise
            except BaseException as error:
                self._broken(conn, error)
            self._cells[MESSAGES] += handled
            count, handled = handled, 0
            conn.finish_messages(count, codec)
        except BaseException as error:
            self._interrupted(conn, handled, error)

    def _timed(self, message: Any, conn: Connection) -> Any:
        """Call the handler, and count its time; called for one of SAMPLED_ONE_OF messages."""
        self._sample_in = SAMPLED_ONE_OF
        return self._counters.timed(self._on_message, message, conn)

    def _interrupted(self, conn: Connection, handled: int, error: BaseException) -> None:
        """Count the messages handled in an interrupted turn. Only Killed is raised again."""
        conn.count_messages(handled)
        self._cells[MESSAGES] += handled
        if isinstance(error, Killed):
            conn.abort(CloseReason.KILLED)
            raise error
        self._broken(conn, error)
        conn.flush_replies()

    def serve_last(self, conn: Connection) -> None:
        """The last turns of a drain: answer what the peer has sent by now, call on_drain, then close."""
        if conn.state is State.CLOSED:
            return
        self.now = time.monotonic()
        conn.occupied_by(getcurrent())
        conn.handler_blocks(self.now)  # it may block, and no dispatch() notes it here
        owed = conn.unread_bytes()
        try:
            while owed > 0 and conn.close_reason is None:
                before = conn.received_bytes
                self.serve(conn)
                owed -= conn.received_bytes - before
                if conn.received_bytes == before:
                    break
            if conn.tasks is not None and self._service.on_drain is not None:
                conn.stop_handler_clock()
                conn.tasks.wait_for_fewer_than(1)
            if conn.close_reason is None and self._service.on_drain is not None:
                self._call_on_drain(conn, self._service.on_drain)
        finally:
            conn.released()
            conn.close(conn.drain_reason)

    def _call_on_drain(self, conn: Connection, on_drain: Callable[[Connection], None]) -> None:
        """Call on_drain in a turn of its own. There is no answer to an exception: the peer has not asked anything."""
        conn.begin_turn()
        conn.handler_blocks(time.monotonic())
        try:
            on_drain(conn)
        except Killed:
            conn.abort(CloseReason.KILLED)
            raise
        except BaseException as error:
            if conn.state is not State.CLOSED or not isinstance(error, ConnectionClosed):  # else the peer has left
                self._counters.failed()
                log.error("on_drain failed for %s", conn, exc_info=error)
                interrupt_program(error)
        finally:
            conn.end_turn()

    def dismiss(self, conn: Connection, fault: BaseException) -> None:
        """Between two turns, send the service's answer to `fault`, and close."""
        if conn.state is State.CLOSED:
            return
        conn.begin_turn()
        try:
            self._broken(conn, fault)
            conn.flush_replies()
        except Killed:
            conn.abort(CloseReason.KILLED)
        finally:
            conn.end_turn()

    def _send_early(self, conn: Connection, size: int) -> int:
        """Send replies before the turn is over: `size` bytes wait, or the next handler may block for long.

        Return 0, the number of bytes that wait now.
        """
        conn.flush_replies()
        conn.wait_for_room_in_turn()
        if size > HIGH_WATER:
            conn.step_aside(self._fairness.yield_to_others)
        if conn.runner is not None:
            conn.handler_blocks(time.monotonic())
        return 0

    def _look_at_the_clock(self, conn: Connection, began: float) -> float:
        """After a batch, let the other connections run if this one has used up its slice; adapt the batch.

        Return when the current slice began. The first slice of a turn begins when the hub had work, the later ones
        when they run. Only the later ones show how long a batch takes, and so whether it is too large.
        """
        took = time.monotonic() - began
        if took < SLICE_S / 2:
            self._batch = min(LARGEST_BATCH, self._batch * 2)
        elif took > SLICE_S * 2 and began > conn.active_at:
            self._batch = max(1, self._batch // 2)
        if took < SLICE_S:
            return began
        conn.step_aside(self._fairness.yield_to_others)
        began = time.monotonic()
        conn.handler_blocks(began)
        return began

    def _end(self, conn: Connection) -> None:
        """The peer will send no more; everything before its end has been answered."""
        try:
            conn.codec.eof()
        except Killed:
            raise
        except BaseException as error:
            self.dismiss(conn, error)
        else:
            conn.close(CloseReason.PEER_EOF)

    def _malformed(self, conn: Connection, message: Malformed) -> None:
        self._counters.failed()
        log_about(conn, log, logging.DEBUG, "%(conn)s: %(fault)s", fault=f"{message.message}: {message.detail}")
        if not self._answer_fault(conn, message):
            conn.close(CloseReason.PROTOCOL_ERROR)

    def _broken(self, conn: Connection, error: BaseException) -> None:
        """Answer and close: the peer broke the framing or exceeded a limit, or the codec failed."""
        if isinstance(error, ProtocolError | LimitExceeded):
            self._counters.failed()
            log_about(conn, log, logging.DEBUG, "%(conn)s: %(error)s", error=error)
            self._answer_fault(conn, error)
            conn.close(error.close_reason)
        else:
            self.failed("codec", conn, error)
            conn.close(CloseReason.HANDLER_ERROR)

    def handler_returned(self, conn: Connection, reply: Any) -> None:
        """See Answers: of a handler that ran as a task."""
        if reply is not None:
            conn.send_reply(_encoded(conn.codec, reply))

    def handler_failed(self, conn: Connection, error: BaseException) -> None:
        """See Answers: of a handler that ran as a task."""
        self._handler_failed(conn, error)

    def _handler_failed(self, conn: Connection, error: BaseException) -> None:
        if isinstance(error, MalformedError):
            self._malformed(conn, error.malformed)
        elif not self.failed("handler", conn, error):
            conn.close(CloseReason.HANDLER_ERROR)

    def failed(self, what: str, conn: Connection, error: BaseException) -> bool:
        """Log and count an exception of the user's code (`what`); return whether the peer was answered."""
        is_closed = conn.state is State.CLOSED
        if is_closed and isinstance(error, ConnectionClosed):  # the peer is gone, and the close reason records it
            return False
        self._counters.failed()
        log_about(conn, log, logging.ERROR, "%(what)s failed for %(conn)s", what=what, exc_info=error)
        interrupt_program(error)
        return not is_closed and self._answer_fault(conn, error)

    def _answer_fault(self, conn: Connection, fault: Fault) -> bool:
        """Send the reply of the service's on_error to `fault`; return whether there was one."""
        try:
            reply = self._service.on_error(fault, conn)
            if reply is not None:
                conn.append_reply(_encoded(conn.codec, reply))
        except Killed:
            raise
        except BaseException as error:
            log_about(conn, log, logging.ERROR, "on_error failed for %(conn)s", exc_info=True)
            interrupt_program(error)
            return False
        return reply is not None


def _encoded(codec: Codec, reply: Any) -> bytes:
    data: Any = codec.encode(reply)  # a codec class of the user may return anything
    if not isinstance(data, bytes):
        kind, given = type(codec).__name__, type(data).__name__
        raise TypeError(f"encode() of the codec {kind} returned {given}, must be bytes")
    return data
