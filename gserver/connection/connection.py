"""One connection: its state, its byte and message counts, its send path and its close.

    HANDSHAKING ──> OPEN ──close()/drain──> DRAINING ──all replies are sent──> CLOSED(reason)
         └────────────┴──── broken, killed or refused ───────────────────────────^

An idle connection costs a few hundred bytes and no greenlet. The list of a turn's replies and the outbox exist only
while they are needed.

Only the modules of gserver.connection assign the fields of a connection; all others call its methods. The exception is
_native.c, which writes the same fields of the struct while it serves a message. A turn is what follows one receive: the
messages that are complete are handled, and their replies are sent together.

Sending. A frame is appended whole and in order, whichever greenlet sends it. Bytes that the kernel does not accept wait
in the outbox, which a WRITE watcher empties. A greenlet that finds or leaves more than HIGH_WATER bytes there waits
until all are sent. So a peer that does not read costs at most HIGH_WATER bytes and one frame.
"""

from __future__ import annotations

import _socket
import enum
import itertools
import json
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub
from greenlet import getcurrent

from gserver.connection.buffer_sizes import HIGH_WATER
from gserver.connection.native_fields import ConnectionFields
from gserver.connection.outbox import Outbox
from gserver.connection.tasks import Tasks
from gserver.errors import CloseReason, ConnectionClosed
from gserver.limits.timer_wheel import NEVER
from gserver.log_records import log_about

if TYPE_CHECKING:
    from gevent import Greenlet

    from gserver.codecs import Codec

__all__ = ["HIGH_WATER", "PROBE_PEER", "Address", "Connection", "State", "format_address", "format_id", "swap_context"]

log = logging.getLogger("gserver.connection")

READ = 1  # libev's EV_READ

#: As accept() returns it: (host, port), the four fields of IPv6, or a path.
Address = tuple[Any, ...] | str | bytes
#: The peer of a worker's own probe. Compared by identity, because a client of a unix socket may choose the same path.
PROBE_PEER: Address = str(b"probe", "ascii")


#: What dir() of a connection shows: the names for handlers, and none of the server's own.
FOR_HANDLERS = (
    *("close", "close_reason", "codec", "drain_reason", "id", "is_draining", "is_health_check", "is_probe", "listener"),
    *("messages", "opened_at", "peer", "proxy", "received_bytes", "send", "send_nowait", "sent_bytes", "session"),
    *("set_deadline", "spawn", "state", "tls", "write"),
)

# Close reasons for which the bytes in the kernel's send buffer are discarded too (the close sends a reset).
_DISCARDING = {CloseReason.WRITE_TIMEOUT, CloseReason.BUFFER_LIMIT}
# Close reasons that replace an earlier one: the connection was closing already, but could not send all its replies.
_OVERRIDING = {*_DISCARDING, CloseReason.KILLED}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger, socket(7)


class State(enum.Enum):
    HANDSHAKING = "handshaking"  # the PROXY header or the TLS handshake is not complete
    OPEN = "open"
    DRAINING = "draining"  # no new turn begins; unsent replies are still sent
    CLOSED = "closed"


# Looking up an enum member on its class costs as much as a call on Python 3.11.
_HANDSHAKING, _OPEN, _DRAINING, _CLOSED = State


# Connection.number has the process id above these bits: Linux has process ids of 22 bits at most (PID_MAX_LIMIT). So it
# stays the same in a process that the worker forks.
_NUMBER_BITS = 42
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


_numbers: Iterator[int]


def _count_from_one() -> None:
    """Begin to count the connections of this process."""
    global _numbers
    _numbers = itertools.count((os.getpid() << _NUMBER_BITS) + 1)


_count_from_one()
os.register_at_fork(after_in_child=_count_from_one)


class Owner(Protocol):
    """The server that a connection belongs to. It closes the socket."""

    #: The name of the listener that the connections were accepted from.
    listener_name: str
    #: send_nowait() closes a connection with more than this many bytes in its outbox.
    send_limit: int

    def connection_closed(self, conn: Connection) -> None:
        """Called once, when nothing more is sent or received on the socket."""

    def connection_left(self, conn: Connection) -> None:
        """Called once, after connection_closed(), when no handler uses the connection any more."""

    def connection_waits(self, conn: Connection) -> None:
        """Called when a deadline of its own begins: of a message, a handler or send that blocks, or set_deadline()."""

    def spawn_task(
        self, conn: Connection, function: Callable[..., object], arguments: tuple[Any, ...]
    ) -> Greenlet[..., Any]:
        """Call the function in a greenlet that is a task of the connection: see Connection.spawn()."""


class Connection(ConnectionFields):
    """One accepted socket, as handlers see it.

    Attributes:
        codec: the codec of this connection; a handler may replace it, for the messages after the one that it handles.
        id: "PID-N": the worker's process id and the number of this connection in that process, from 1, such as
            "4712-1893". Read-only. Both logs name the connection by it.
        listener: the name of the listener that accepted it: see the setting listeners. Without that setting it is the
            address, as in bind.
        peer: the peer's address.
        session: free for the service's own data about this connection; None at first. gserver never reads it.
        state: see State.
        close_reason: why the connection is being closed, or was; None until that is decided.
        drain_reason: in a drain, the close reason to come: CloseReason.DRAINED, or AGED.
        received_bytes: bytes received so far.
        sent_bytes: bytes that the kernel has accepted for sending so far.
        messages: messages handled so far; 0 for a @stream handler that reads bytes.
        opened_at: when it was accepted, in seconds of time.monotonic().
        tls: the TLS session (gserver.tls.contexts.TlsInfo); None without TLS.
        proxy: the PROXY header of this connection (gserver.server.proxy_protocol.ProxyHeader), or None.
        is_probe: True for the worker's own probe (see Service.probe), which has no TLS.

    Example:
        def handle(line, conn):
            conn.session = (conn.session or 0) + 1
            if line == b"bye":
                conn.write(b"see you\\n")
                conn.close()
            return b"message %d" % conn.session

        with Conversation(Service(handle, Lines)) as conv:
            assert conv.message(b"hello", b"bye") == [b"message 1", b"see you", b"message 2"]
            assert conv.close_reason is CloseReason.FINISHED
    """

    __slots__ = (
        "_message_began",
        "_owner",
        "_when_closed",
        "buckets",
        "deadline_at",
        "drain_reason",
        "due_tick",
        "handler_since",
        "peer",
        "proxy",
        "retires_at",
        "session",
        "tasks",
        "watcher",
    )

    tls: Any = None

    def __init__(self, sock: _socket.socket, peer: Address, codec: Codec, owner: Owner) -> None:
        self.sock = sock
        # The C code receives and sends on it. -1 once closed, because the number may then belong to another socket.
        self.fd = sock.fileno() if isinstance(sock, _socket.socket) else -1
        self.is_sealed = False  # True: a subclass's receive() and push() decrypt and encrypt
        self.number = next(_numbers)
        self.peer = peer
        self.codec = codec
        self.session: Any = None
        self.state = _OPEN
        self.close_reason: CloseReason | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.messages = 0
        # gserver.limits.deadlines describes these three and the next four.
        self.opened_at = self.active_at = self.received_at = time.monotonic()
        self.retires_at = self.deadline_at = NEVER
        self.handler_since: float | None = None
        self._message_began: tuple[int, float] | None = None  # number of the incomplete message, and its first moment
        self.due_tick = 0
        self.drain_reason = CloseReason.DRAINED
        self.proxy: Any = None
        self.buckets: Any = None  # token buckets, if rates are limited
        self.watcher: Any = None  # READ watcher
        self.tasks: Tasks | None = None  # of spawn(); None while there are none
        self._when_closed: Callable[[Connection], None] | None = None
        self.runner: Any = None  # the greenlet that is blocked in a turn of this connection, or None
        self._owner = owner
        self.outbox: Outbox | None = None
        self.turn_replies: list[bytes] | None = None  # unsent replies of the turn that runs; None between turns
        self.context = None  # see swap_context()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self} {self.state.value}>"

    def __str__(self) -> str:
        return format_address(self.peer)

    def __dir__(self) -> list[str]:
        return sorted(FOR_HANDLERS)

    @property
    def id(self) -> str:
        return format_id(self.number)

    @property
    def listener(self) -> str:
        return self._owner.listener_name

    @property
    def is_probe(self) -> bool:
        return self.peer is PROBE_PEER

    @property
    def is_draining(self) -> bool:
        """True when no further message will be handled: the worker drains, the connection is too old, or close() was
        called. See Service.on_drain; a @stream function that does not read must look here.
        """
        return self.state is not _OPEN

    @property
    def is_health_check(self) -> bool:
        """True for a connection that the proxy has made for itself (PROXY LOCAL), usually a health check."""
        return self.proxy is not None and self.proxy.command == "LOCAL"

    @property
    def awaits_first_answer(self) -> bool:
        """True before the first answer: a peer may have sent its first message before it could notice a drain."""
        return self.messages == 0

    # Opening

    def accepted(self, retires_at: float = NEVER) -> None:
        """The server has accepted the connection: its handshake begins.

        Args:
            retires_at: when it reaches its maximum age, in seconds of time.monotonic().
        """
        self.state = _HANDSHAKING
        self.retires_at = retires_at

    def retire_at(self, retires_at: float) -> None:
        """The maximum age has changed; see accepted(). Without effect once the connection drains."""
        if not self.is_draining or self.state is _HANDSHAKING:
            self.retires_at = retires_at

    def handshake_received(self, size: int) -> None:
        """Count `size` bytes of the PROXY header or the TLS handshake, until handshake_completed() resets the count."""
        self.received_bytes += size

    def identified(self, header: Any, peer: Address) -> None:
        """The PROXY header is complete: keep it, and the address of the proxy's client."""
        self.proxy = header
        self.peer = peer

    def handshake_completed(self) -> None:
        """Stop watching, and reset the byte counts: handshake bytes do not count as traffic."""
        self.stop_watching()
        self.restart_idle_clocks()
        self.received_bytes = self.sent_bytes = 0

    def opened(self) -> None:
        """The service gets the connection now."""
        self.state = _OPEN

    def seal(self) -> None:
        """From now on, receive() and push() are those of a subclass, which decrypts and encrypts."""
        self.is_sealed = True

    def attach_buckets(self, buckets: Any) -> None:
        """Keep the token buckets of the rate limiter."""
        self.buckets = buckets

    # Turns. _native.c does the work of begin_turn(), finish_messages() and end_turn() in the struct.

    def begin_turn(self, size: int = 0, now: float = 0.0) -> list[bytes]:
        """User code runs from now until end_turn(), in the connection's context; return the list for its replies.

        Args:
            size: how many bytes were received, which are counted; 0: this turn is for a callback, not for input.
            now: when they were received, in seconds of time.monotonic().
        """
        if size:
            self.received_bytes += size
            self.active_at = self.received_at = now
        replies: list[bytes] = []
        self.turn_replies = replies
        greenlet: Any = getcurrent()  # swap_context(), written out: a call costs 1 % of an echo
        theirs, mine = greenlet.gr_context, self.context
        if theirs is not mine:
            self.context, greenlet.gr_context = theirs, mine
        return replies

    def finish_messages(self, count: int, codec: Codec) -> None:
        """All complete messages of this turn were handled: send their replies, and note a message that has begun.

        Blocks while a peer that does not read its replies has more than HIGH_WATER bytes to read: it is not read from.

        Args:
            count: how many messages were handled.
            codec: the codec that decoded them; a handler may have replaced the connection's.
        """
        self.messages += count
        self.flush_replies()
        if self.close_reason is None and codec.partial:
            self.message_began()
        if self.outbox is not None:
            self.wait_for_room_in_turn()

    def count_messages(self, count: int) -> None:
        """Count the messages of a turn that was interrupted before finish_messages()."""
        self.messages += count

    def end_turn(self) -> None:
        """The turn is over. If the connection was closed meanwhile, do what had to wait for the turn."""
        greenlet: Any = getcurrent()  # as in begin_turn()
        mine, theirs = greenlet.gr_context, self.context
        if theirs is not mine:
            self.context, greenlet.gr_context = mine, theirs
        self.turn_replies = None
        if self.close_reason is not None:
            self.turn_over()

    def turn_over(self) -> None:
        """No handler uses the connection any more, and it was closed meanwhile: finish the close."""
        if self.tasks is not None:
            return
        if self.state is _CLOSED:
            self._owner.connection_left(self)
        else:
            self._finish_if_sent()

    # Blocked turns

    def occupied_by(self, greenlet: Any) -> None:
        """`greenlet` works on the connection and may block. No other turn begins until released()."""
        self.runner = greenlet

    def released(self) -> None:
        """The greenlet of occupied_by() is done."""
        self.runner = self.handler_since = None

    def handler_blocks(self, since: float) -> None:
        """A handler that was called at `since` has not returned: its deadline runs."""
        has_deadline = self.handler_since is not None  # of the message before, which is sooner
        self.handler_since = since
        if not has_deadline:
            self._owner.connection_waits(self)

    def stop_handler_clock(self) -> None:
        """The greenlet waits for something other than a handler: the handler's deadline does not run."""
        self.handler_since = None

    def step_aside(self, wait: Callable[[], object]) -> None:
        """Within a turn, send the replies so far and call `wait`, which blocks; the handler's deadline does not run."""
        self.flush_replies()
        if self.runner is None:
            self.runner = getcurrent()
        self.handler_since = None
        wait()

    def wait_for_room_in_turn(self) -> None:
        """Within a turn, wait while more than HIGH_WATER bytes are in the outbox."""
        if self.outbox is not None and self.outbox.size > HIGH_WATER:
            self.step_aside(self.wait_for_room)

    def restart_idle_clocks(self) -> None:
        """The idle deadlines begin again now: until now the peer was not the one that had to send."""
        self.active_at = self.received_at = time.monotonic()

    # Sending

    def send(self, message: Any) -> None:
        """Encode `message` and send it, whole and in order, from any greenlet.

        Blocks the calling greenlet while more than 64 KiB wait to be sent.

        Raises ConnectionClosed if the connection is closed or closes meanwhile, and the exception of the codec's
        encode() for a message that it cannot encode.

        Example:
            def handle(line, conn):
                conn.send(b"working")
                return b"done"

            with Conversation(Service(handle, Lines)) as conv:
                assert conv.message(b"work") == [b"working", b"done"]
        """
        self.write(self.codec.encode(message))

    def send_nowait(self, message: Any) -> None:
        """Like send(), but never blocks. For broadcasts, in which one slow reader must not delay the others.

        If more bytes than the setting send_buffer_limit wait already, the connection is closed with BUFFER_LIMIT, and
        ConnectionClosed is raised.

        Example:
            members = set()

            def broadcast(line, conn):
                for member in list(members):
                    try:
                        member.send_nowait(line)
                    except ConnectionClosed:
                        members.discard(member)

            app = Service(broadcast, Lines, on_open=members.add, on_close=lambda conn, reason: members.discard(conn))
            with Conversation(app) as ada:
                bob = ada.another()
                ada.message(b"hello")
                assert bob.received == [b"hello"]
        """
        data = self.codec.encode(message)
        self._check_open()
        if self.outbox is not None and self.outbox.size > self._owner.send_limit:
            self.abort(CloseReason.BUFFER_LIMIT)
        self.send_reply(data)

    def write(self, data: bytes) -> None:
        """Send bytes that are already encoded; otherwise like send()."""
        if self.close_reason is not None:
            self._check_open()
        if self.turn_replies:
            self.flush_replies()
        if self.outbox is not None:
            self.wait_for_room()
            self._check_open()
        self.active_at = time.monotonic()  # sending outside of a turn is activity too; a turn sets it when it receives
        self.push(data)
        if self.outbox is not None:
            self.wait_for_room()

    def _check_open(self) -> None:
        """ConnectionClosed if nothing can be sent any more; a close waits for the tasks, which may still send."""
        if self.close_reason is not None and (self.state is _CLOSED or self.tasks is None):
            raise ConnectionClosed(f"{self!r} is closed", self.close_reason)

    def send_reply(self, data: bytes) -> None:
        """Send the encoded reply of a task, behind the replies before it. Never blocks; ConnectionClosed if closed."""
        self._check_open()
        self.flush_replies()
        self.active_at = time.monotonic()
        self.push(data)

    def append_reply(self, data: bytes) -> None:
        """Send encoded bytes with the replies of the turn that runs, or at once outside of a turn."""
        if self.turn_replies is None:
            self.push(data)
        else:
            self.turn_replies.append(data)

    def flush_replies(self) -> None:
        """Pass the turn's replies so far to the kernel or the outbox. Never blocks."""
        replies = self.turn_replies
        if replies:
            data = replies[0] if len(replies) == 1 else b"".join(replies)
            replies.clear()
            self.push(data)

    def _push(self, data: bytes) -> None:
        """push() in Python: send bytes; the outbox gets what the kernel does not accept. Never blocks, never raises."""
        if self.outbox is not None:
            self.outbox.append(data)
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.broken()
            return
        if sent < len(data):
            self.keep_rest(data, sent)
        else:
            self.sent_bytes += sent

    def keep_rest(self, data: bytes, sent: int) -> None:
        """The kernel accepted only the first `sent` bytes of `data`: put the others into the outbox."""
        self.sent_bytes += sent
        self.outbox = Outbox(self, memoryview(data)[sent:])
        self._owner.connection_waits(self)

    def broken(self) -> None:
        """The kernel reported that the connection is broken."""
        self.abort(CloseReason.PEER_RESET)

    def wait_for_room(self) -> None:
        """Block the calling greenlet while the outbox holds more than HIGH_WATER bytes.

        Raises ConnectionClosed if the connection closes with bytes unsent.
        """
        while (outbox := self.outbox) is not None and outbox.size > HIGH_WATER:
            outbox.emptied.wait()
            if self.state is _CLOSED and outbox.size:
                raise ConnectionClosed(f"{self!r} closed with {outbox.size} bytes unsent", self.close_reason)

    def outbox_emptied(self) -> None:
        """Called by the outbox, in the hub, when the kernel has accepted everything."""
        self.outbox = None
        if self.close_reason is not None and not self.is_busy:
            self._finish_if_sent()

    def outbox_sent(self, size: int) -> float:
        """Called by the outbox: the kernel accepted `size` more bytes. Return the time, which counts as activity."""
        self.sent_bytes += size
        self.active_at = now = time.monotonic()
        return now

    # Tasks

    def spawn(self, function: Callable[..., object], *arguments: Any) -> Greenlet[..., Any]:
        """Call function(*arguments) in a greenlet of its own, so that the handler can return at once.

            def look_up(line, conn):
                conn.send(b"found " + line)  # after a query of a database, for example

            def handle(line, conn):
                conn.spawn(look_up, line, conn)

            with Conversation(Service(handle, Lines)) as conv:
                assert conv.message(b"ada") == [b"found ada"]

        The task is part of the connection. A close and a drain wait until it has ended, and send what it sends. It may
        take handler_timeout, like a handler. An exception is logged, and on_error may answer it; otherwise it ends the
        connection. While a task runs, the connection is not idle. A ContextVar has the value that it had in the caller.

        Return the gevent.Greenlet, for example to kill() it. For work that lasts as long as the connection, such as
        sending news, use gevent.spawn(): send() raises ConnectionClosed at the end.

        Raises ConnectionClosed if the connection is closed.
        """
        self._check_open()
        return self._owner.spawn_task(self, function, arguments)

    def task_began(self, greenlet: Any) -> None:
        """Called for each new task: the connection is busy until task_ended()."""
        if self.tasks is None:
            self.tasks = Tasks()
        self.tasks.running.add(greenlet)

    def task_ended(self, greenlet: Any) -> None:
        """A task has ended. After the last one, a close that waits is finished."""
        tasks = self.tasks
        if tasks is None:
            return
        tasks.ended(greenlet)
        if tasks.running:
            return
        self.tasks = None
        if self.close_reason is None:
            self.restart_idle_clocks()
        elif not self.is_busy:
            self.turn_over()

    # Closing

    def set_deadline(self, seconds: float | None) -> None:
        """Close the connection in `seconds`, whatever happens meanwhile, for the reason CloseReason.DEADLINE.

        For what a client must do in time, such as to log in: on_open calls set_deadline(10), and the handler of the
        login calls set_deadline(None). A handler that runs then is completed, and its reply is sent. The next call
        replaces the deadline, None clears it. It is met to a tick: see gserver.limits.deadlines.

        ValueError for a number that is negative or not finite.

        Example:
            def log_in(line, conn):
                conn.set_deadline(None)
                return b"welcome"

            with Conversation(Service(log_in, Lines, on_open=lambda conn: conn.set_deadline(10))) as conv:
                conv.advance(11)
                assert conv.close_reason is CloseReason.DEADLINE
        """
        if seconds is not None and not 0 <= seconds < NEVER:
            raise ValueError(f"the deadline is {seconds!r}, must be seconds from 0, or None")
        self.deadline_at = NEVER if seconds is None else time.monotonic() + seconds
        if self.close_reason is None:
            self._owner.connection_waits(self)

    def start_draining(self, reason: CloseReason = CloseReason.DRAINED) -> None:
        """Handle no further message. The turn that runs is completed, and its replies are sent.

        Args:
            reason: the close reason to use then.
        """
        if self.state is _OPEN:
            self.state = _DRAINING
            self.drain_reason = reason
            self.retires_at = NEVER

    def close(self, reason: CloseReason = CloseReason.FINISHED) -> None:
        """Stop reading, send what is unsent, then close gracefully. Never blocks; the first reason is kept.

        Called while a handler runs, it takes effect when the handler has returned: its reply is still sent.
        """
        if self.close_reason is not None:
            return
        self.close_reason = reason
        self.state = _DRAINING
        self.stop_watching()
        if not self.is_busy:
            self._finish_if_sent()

    def _finish_if_sent(self) -> None:
        if self.outbox is None and self.state is not _CLOSED:
            self._finish()

    @property
    def is_busy(self) -> bool:
        """True while a handler or a task uses this connection."""
        return self.turn_replies is not None or self.tasks is not None

    def abort(self, reason: CloseReason) -> None:
        """Close at once; bytes that the kernel has not accepted are lost."""
        if self.state is _CLOSED:
            return
        if self.close_reason is None or reason in _OVERRIDING:
            self.close_reason = reason
        self.stop_watching()
        self._finish()

    def _finish(self) -> None:
        self.state = _CLOSED
        self.fd = -1
        if self.close_reason in _DISCARDING:
            self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_ON_CLOSE)
        outbox, self.outbox = self.outbox, None
        if outbox is not None:
            outbox.stop()
        if log.isEnabledFor(logging.DEBUG):
            reason = self.close_reason.value if self.close_reason else None
            counts = f"received={self.received_bytes} sent={self.sent_bytes}"
            log_about(
                self, log, logging.DEBUG, "closed %(conn)s reason=%(reason)s %(counts)s", reason=reason, counts=counts
            )
        if self._when_closed is not None:
            self._when_closed(self)
        self._owner.connection_closed(self)
        if not self.is_busy:
            self._owner.connection_left(self)

    def when_closed(self, callback: Callable[[Connection], None]) -> None:
        """Call callback(self) once, when nothing more can be sent. There is one: that of gserver.bus.

        Raises ConnectionClosed if the connection is closed.
        """
        self._check_open()
        self._when_closed = callback

    # For the deadlines: see gserver.limits.deadlines.Waiting

    @property
    def handshake_since(self) -> float | None:
        return self.opened_at if self.state is _HANDSHAKING else None

    @property
    def has_spoken(self) -> bool:
        return self.received_bytes > 0 or self.sent_bytes > 0

    @property
    def message_since(self) -> float | None:
        began = self._message_began
        return began[1] if began is not None and began[0] == self.messages and self.codec.partial else None

    @property
    def stalled_since(self) -> float | None:
        return None if self.outbox is None else self.outbox.progress_at

    @property
    def is_listening(self) -> bool:
        return self.state is _OPEN and self.runner is None and self.tasks is None

    def message_began(self) -> None:
        """Part of a message has arrived: its deadline runs. Only the first call for each message counts."""
        if self._message_began is None or self._message_began[0] != self.messages:
            self._message_began = (self.messages, self.active_at)
            self._owner.connection_waits(self)

    # Watching

    def unread_bytes(self) -> int:
        """Bytes in the kernel's receive buffer (FIONREAD, tcp(7) and unix(7))."""
        try:
            return int(struct.unpack("i", ioctl(self.sock.fileno(), FIONREAD, bytes(4)))[0])
        except (OSError, ValueError):  # broken or closed
            return 0

    def has_input(self) -> bool:
        """Return whether there is unread input: bytes, the peer's end or an error."""
        if self.has_buffered:
            return True
        try:
            self.sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # broken: the next receive reports it
            return True
        return True

    def note_write_progress(self) -> None:
        """Check whether the peer has acknowledged some of the unsent bytes. The WRITE watcher fires much later."""
        if self.outbox is not None:
            self.outbox.note_progress()

    @property
    def has_buffered(self) -> bool:
        """True if received bytes wait in this process that no turn has seen; the socket may be empty."""
        return False

    @property
    def is_paused(self) -> bool:
        return self.state is _OPEN and self.watcher is not None and not self.watcher.active

    def make_watcher(self) -> None:
        """Make the READ watcher, if there is none. stop_watching() closes it."""
        if self.watcher is None:
            self.watcher = get_hub().loop.io(self.sock.fileno(), READ)

    def watch(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call `callback` in the hub whenever there is input, until pause() or stop_watching()."""
        self.make_watcher()
        self.watcher.start(callback, *arguments)

    def pause(self) -> None:
        """Stop watching for input until the next watch()."""
        if self.watcher is not None:
            self.watcher.stop()

    def stop_watching(self) -> None:
        """Stop and close the READ watcher."""
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.close()
            self.watcher = None


def swap_context(conn: Connection) -> None:
    """Exchange the running greenlet's contextvars (PEP 567) for those of `conn`. A second call changes them back.

    A runner serves many connections. A ContextVar that a handler sets must be seen by that connection alone, in all of
    its callbacks and messages, as if the connection had a greenlet to itself.
    """
    current: Any = getcurrent()
    theirs, mine = current.gr_context, conn.context
    if theirs is not mine:  # nearly always both are empty
        conn.context, current.gr_context = theirs, mine


def format_id(number: int) -> str:
    """Return the id for Connection.number."""
    return f"{number >> _NUMBER_BITS}-{number & _NUMBER_MASK}"


def format_address(address: Address) -> str:
    """Return an address as host:port, [v6]:port, or unix:path.

    A client chooses the path of its own socket. So quotes, backslashes, spaces and characters that cannot be printed
    are escaped in it, as in JSON: a line of the access log stays one line, with the fields of its format.
    """
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix:" + "".join(map(_escaped, os.fsdecode(address)))


def _escaped(letter: str) -> str:
    if letter.isprintable() and letter not in '"\\ ':
        return letter
    escaped = json.dumps(letter)[1:-1]
    return escaped if escaped != letter else f"\\u{ord(letter):04x}"  # JSON leaves the space and DEL as they are
