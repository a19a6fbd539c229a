"""One turn of a connection: receive once, decode all that is complete, call the service for each, send once.

This is the path of every message. What it does not do is as deliberate as what it does: no timer, no lock, no state
change for a connection whose handler does not block, and one send for all replies (16 pipelined JSON messages cost a
quarter of 16 single ones).

Fairness: a turn receives a bounded number of bytes, and gives way to the other connections when its replies are more
than the outbox should hold, and after so many messages as take about a slice of time. How many that is, it learns: a
look at the clock for each message would cost a JSON message 2 %, so there is one for each batch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from gserver.codecs import Codec, Malformed
from gserver.connection.connection import HIGH_WATER, Connection, State, swap_context
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.counters import MESSAGES, Counters
from gserver.errors import CloseReason, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.fault_isolation import Killed, interrupt_program
from gserver.service import Fault, Service

__all__ = ["IDLE_RUNNERS", "MessageLoop"]

log = logging.getLogger("gserver.turn")

# The most that one turn receives; what remains waits for the next turn, behind the other connections.
RECEIVE_BYTES = 64 * 1024
# How many messages a turn handles between two looks at the clock.
FIRST_BATCH = 16
LARGEST_BATCH = 256
#: Runners kept for the next turn; a burst of blocked handlers beyond it makes runners that are let go afterwards.
IDLE_RUNNERS = 64


class MessageLoop:
    """What a turn does, for one service. No method raises but Killed, when the server kills the greenlet.

    Whatever the user's code raises (the handler, on_error, the codec) is logged with its connection, counted, answered
    where the service has an answer, and ends at most that connection.

    The messages of a turn are counted in the counters together, before its last replies are sent. In _answer() is much
    that looks like methods of their own: a call less for every message is 1 % of an echo. Where gserver is compiled,
    serve(), dispatch() and serve_parking() are those of _native.c.
    """

    def __init__(self, service: Service, counters: Counters, fairness: Fairness) -> None:
        self._service = service
        self._counters = counters
        self._fairness = fairness
        self._cells = counters.cells
        self._on_message = service.on_message
        self._batch = FIRST_BATCH
        self.now = time.monotonic()  # when the hub last had work
        self.most_idle = IDLE_RUNNERS  # 0: a runner that is done ends

    def dispatch(
        self,
        ready: deque[Connection],
        idle: list[Any],
        make_runner: Callable[[], Any],
        handler_blocks: Callable[[Any, Connection], None],
    ) -> None:
        """From the hub, switch to runners until none is left that is ready.

        A runner comes back parked, or with a connection in `runner.conn`: then its handler blocks, which
        `handler_blocks` is told, and another runner has the rest.
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
        """What a runner does: serve all that are ready, park among `idle`, and again.

        Return the connection whose handler blocked meanwhile: others have the rest, and the hub is not waiting for this
        runner. Return None where enough runners are idle.
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
        """Serve one after the other, until none is left; return the one whose handler blocked meanwhile, if one did.

        While it is served, the connection stands in `runner.conn`.
        """
        is_open = State.OPEN  # a member looked up on its class costs as much as a call on Python 3.11
        while ready:
            conn = ready.popleft()
            if conn.runner is not None:
                conn.pause()  # who resumes its turn lets it go on
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
        """Answer every message that is complete after receiving once."""
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
        conn.received_bytes += len(data)
        conn.active_at = conn.received_at = self.now
        conn.turn_replies = []
        swap_context(conn)
        try:
            self._answer(conn, data, conn.turn_replies)
        finally:
            swap_context(conn)
            conn.turn_replies = None
            if conn.close_reason is not None:
                conn.turn_over()

    def _answer(self, conn: Connection, data: bytes, replies: list[bytes]) -> None:
        codec, on_message, size, handled = conn.codec, self._on_message, 0, 0
        began, look_at = self.now, self._batch
        try:
            try:
                codec.receive(data)
                for message in codec.messages():
                    if replies:  # those of the messages before this one
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
                            reply = on_message(message, conn)
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
            conn.messages += handled
            self._cells[MESSAGES] += handled
            handled = 0
            self._finish(conn, codec)
        except BaseException as error:
            self._interrupted(conn, handled, error)

    def _finish(self, conn: Connection, codec: Codec) -> None:
        """All that was complete is handled: send, and note what is not."""
        conn.flush_replies()
        if conn.close_reason is None and codec.partial:
            conn.message_began()
        if conn.outbox is not None:
            self._wait_for_room(conn)  # a peer that does not read its replies is not read from

    def _interrupted(self, conn: Connection, handled: int, error: BaseException) -> None:
        """Count what the turn has handled; only being killed goes on."""
        conn.messages += handled
        self._cells[MESSAGES] += handled
        if isinstance(error, Killed):
            conn.abort(CloseReason.KILLED)
            raise error
        self._broken(conn, error)
        conn.flush_replies()

    def serve_last(self, conn: Connection) -> None:
        """Answer what the peer has sent by now, then close: the last turn of a drain."""
        if conn.state is State.CLOSED:
            return
        self.now = time.monotonic()
        conn.runner = getcurrent()
        conn.handler_blocks(self.now)  # it may, and then nobody else notes it
        owed = conn.unread_bytes()
        try:
            while owed > 0 and conn.close_reason is None:
                before = conn.received_bytes
                self.serve(conn)
                owed -= conn.received_bytes - before
                if conn.received_bytes == before:
                    break
        finally:
            conn.runner = conn.handler_since = None
            conn.close(conn.drain_reason)

    def dismiss(self, conn: Connection, fault: BaseException) -> None:
        """Answer with what the service has to say about `fault`, and close: between two turns."""
        if conn.state is State.CLOSED:
            return
        conn.turn_replies = []
        swap_context(conn)
        try:
            self._broken(conn, fault)
            conn.flush_replies()
        except Killed:
            conn.abort(CloseReason.KILLED)
        finally:
            swap_context(conn)
            conn.turn_replies = None
            conn.turn_over()

    def _send_early(self, conn: Connection, size: int) -> int:
        """Send before the turn is over: much is waiting, or a handler blocks and no reply shall wait for the next."""
        conn.flush_replies()
        self._wait_for_room(conn)
        if size > HIGH_WATER:
            self._step_aside(conn, self._fairness.let_others_go)
        if conn.runner is not None:
            conn.handler_blocks(time.monotonic())
        return 0

    def _wait_for_room(self, conn: Connection) -> None:
        if conn.outbox is not None and conn.outbox.size > HIGH_WATER:
            self._step_aside(conn, conn.wait_for_room)

    def _step_aside(self, conn: Connection, wait: Callable[[], None]) -> None:
        """Block for something that is no handler: its deadline does not run, and nothing is raised in it meanwhile."""
        conn.flush_replies()
        if conn.runner is None:
            conn.runner = getcurrent()
        conn.handler_since = None
        wait()

    def _look_at_the_clock(self, conn: Connection, began: float) -> float:
        """Another batch is handled: let the others go first if it is time; return when this slice began.

        The first slice of a turn began when the hub had work, the later ones when they began: only these say how long
        a batch takes, and whether it is too large.
        """
        took = time.monotonic() - began
        if took < SLICE_S / 2:
            self._batch = min(LARGEST_BATCH, self._batch * 2)
        elif took > SLICE_S * 2 and began > conn.active_at:
            self._batch = max(1, self._batch // 2)
        if took < SLICE_S:
            return began
        self._step_aside(conn, self._fairness.let_others_go)
        began = time.monotonic()
        conn.handler_blocks(began)
        return began

    def _end(self, conn: Connection) -> None:
        """The peer will send no more; everything before this has been answered."""
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
        log.debug("%s: %s: %s", conn, message.message, message.detail)
        if not self._say(conn, message):
            conn.close(CloseReason.PROTOCOL_ERROR)

    def _broken(self, conn: Connection, error: BaseException) -> None:
        """The peer broke the framing, or has a limit against it, or the codec failed: in each case this is the end."""
        if isinstance(error, ProtocolError | LimitExceeded):
            self._counters.failed()
            log.debug("%s: %s", conn, error)
            self._say(conn, error)
            conn.close(error.close_reason)
        else:
            self.failed("codec", conn, error)
            conn.close(CloseReason.HANDLER_ERROR)

    def _handler_failed(self, conn: Connection, error: BaseException) -> None:
        if not self.failed("handler", conn, error):
            conn.close(CloseReason.HANDLER_ERROR)

    def failed(self, what: str, conn: Connection, error: BaseException) -> bool:
        """Log and count what user code has raised; return whether the peer was answered."""
        is_closed = conn.state is State.CLOSED
        if is_closed and isinstance(error, ConnectionClosed):  # because its peer is gone, which is recorded already
            return False
        self._counters.failed()
        log.error("%s failed for %s", what, conn, exc_info=error)
        interrupt_program(error)
        return not is_closed and self._say(conn, error)

    def _say(self, conn: Connection, fault: Fault) -> bool:
        """Answer with what the service wants to say about `fault`; whether there was anything."""
        try:
            reply = self._service.on_error(fault, conn)
            if reply is not None:
                conn.append_reply(_encoded(conn.codec, reply))
        except Killed:
            raise
        except BaseException as error:
            log.exception("on_error failed for %s", conn)
            interrupt_program(error)
            return False
        return reply is not None


def _encoded(codec: Codec, reply: Any) -> bytes:
    data: Any = codec.encode(reply)  # the user's class may return anything
    if not isinstance(data, bytes):
        kind, given = type(codec).__name__, type(data).__name__
        raise TypeError(f"encode() of the codec {kind} returned {given}, must be bytes")
    return data
