"""One socket's life: its state, its counters, its send path and its end.

    HANDSHAKING ──> OPEN ──close()/drain──> DRAINING ──everything owed is sent──> CLOSED(reason)
         └────────────┴──── broken, killed or refused ───────────────────────────────^

A connection costs an idle peer a few hundred bytes and no greenlet: what is only needed while something happens (the
replies of a turn, the outbox of a slow reader) exists only then. Only this file writes a connection's state.

Sending. A frame is appended whole, in order, whoever sends it. What the kernel does not take waits in the outbox, which
a WRITE watcher empties. A greenlet that finds or leaves more than HIGH_WATER there waits until it is sent, so that a
peer that does not read costs no more than that and one frame.
"""

from __future__ import annotations

import _socket
import enum
import json
import logging
import os
import struct
import time
from collections import deque
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub
from gevent.event import Event
from greenlet import getcurrent

from gserver.connection.native_fields import ConnectionFields
from gserver.errors import CloseReason, ConnectionClosed
from gserver.fault_isolation import shielded
from gserver.limits.timer_wheel import NEVER

if TYPE_CHECKING:
    from gserver.codecs import Codec

__all__ = ["PROBE_PEER", "Address", "Connection", "State", "swap_context"]

log = logging.getLogger("gserver.connection")

READ, WRITE = 1, 2  # libev's EV_READ and EV_WRITE
HIGH_WATER = 64 * 1024
SEND_BYTES = 64 * 1024

#: As accept() returns it: (host, port), the four fields of IPv6, or a path.
Address = tuple[Any, ...] | str | bytes
#: The peer of a worker's own probe. An object of its own, for a client of a unix socket may choose the same path.
PROBE_PEER: Address = str(b"probe", "ascii")


# Ends at which what the peer did not take must not stay in the kernel either.
_DISCARDING = {CloseReason.WRITE_TIMEOUT, CloseReason.BUFFER_LIMIT}
# Ends by which a connection that was closing already did not get to send what it owed.
_OVERRIDING = {*_DISCARDING, CloseReason.KILLED}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger, socket(7)


class State(enum.Enum):
    HANDSHAKING = "handshaking"  # its PROXY header or its TLS handshake is not complete
    OPEN = "open"
    DRAINING = "draining"  # no further turn begins; what is owed is still sent
    CLOSED = "closed"


# A member looked up on its class costs as much as a call on Python 3.11.
_HANDSHAKING, _OPEN, _DRAINING, _CLOSED = State


class Owner(Protocol):
    """Who keeps count of a connection: it closes the socket."""

    #: What may wait for a peer to take it before send_nowait() gives the peer up, in bytes.
    send_limit: int

    def connection_closed(self, conn: Connection) -> None:
        """Nothing more goes over its socket."""

    def connection_left(self, conn: Connection) -> None:
        """Nor does any handler hold on to it: comes once, after connection_closed()."""

    def connection_waits(self, conn: Connection) -> None:
        """It begins to wait for something that has a deadline of its own."""


class Connection(ConnectionFields):
    """One accepted socket, as handlers see it.

    Attributes:
        peer: the peer's address.
        session: whatever a service wants to keep about this connection; None at first. Never read by gserver.
        state, close_reason: where its life stands; close_reason is None until it is decided.
        received_bytes, sent_bytes: so far; sent is what the kernel took.
        messages: handled so far; 0 for a @stream handler that reads bytes.
        opened_at: when it was accepted, on time.monotonic()'s clock.
        tls: what is known of the TLS session (gserver.tls.contexts.TlsInfo); None without TLS.
        proxy: the header of the proxy that it came through (gserver.server.proxy_protocol.ProxyHeader), or None.
        is_probe: no client: the worker's own probe, before it takes connections (see Service). Without TLS, always.
    """

    __slots__ = (
        "_message_began",
        "_owner",
        "buckets",
        "drain_reason",
        "due_tick",
        "handler_since",
        "opened_at",
        "peer",
        "proxy",
        "retires_at",
        "session",
        "watcher",
    )

    tls: Any = None

    def __init__(self, sock: _socket.socket, peer: Address, codec: Codec, owner: Owner) -> None:
        self.sock = sock
        # Where C receives and sends by itself; -1 once that is over, for the number may be another's then.
        self.fd = sock.fileno() if isinstance(sock, _socket.socket) else -1
        self.is_sealed = False  # receive() and push() are those of a subclass, which decrypt and encrypt
        self.peer = peer
        self.codec = codec
        self.session: Any = None
        self.state = _OPEN
        self.close_reason: CloseReason | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.messages = 0
        # See gserver.limits.deadlines for these three and the next four.
        self.opened_at = self.active_at = self.received_at = time.monotonic()
        self.retires_at = NEVER
        self.handler_since: float | None = None
        self._message_began: tuple[int, float] | None = None  # which message, and when
        self.due_tick = 0
        self.drain_reason = CloseReason.DRAINED
        self.proxy: Any = None
        self.buckets: Any = None  # of its meter, if it has one
        self.watcher: Any = None  # the engine's READ watcher
        self.runner: Any = None  # the greenlet whose turn on this connection is blocked, if one is
        self._owner = owner
        self.outbox: Outbox | None = None
        self.turn_replies: list[bytes] | None = None  # what the turn that runs has answered and not yet sent
        self.context = None  # see swap_context()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self} {self.state.value}>"

    def __str__(self) -> str:
        return format_address(self.peer)

    @property
    def is_probe(self) -> bool:
        return self.peer is PROBE_PEER

    @property
    def is_draining(self) -> bool:
        """The server is stopping, or close() was called: no further message will be handed over."""
        return self.state is not _OPEN

    @property
    def awaits_first_answer(self) -> bool:
        """Its peer may have sent its first message, or be about to, and cannot know that the server is going away."""
        return self.messages == 0

    # Sending

    def send(self, message: Any) -> None:
        """Encode `message` and send it, as a whole and in order, from any greenlet.

        Blocks the calling greenlet while more than 64 KiB wait to be sent. Raises ConnectionClosed if the connection
        is closed or closes meanwhile, and what the codec's encode() raises for a message that it cannot carry.
        """
        self.write(self.codec.encode(message))

    def send_nowait(self, message: Any) -> None:
        """Like send(), but it never blocks: for broadcasts, in which one slow reader must not keep the others waiting.

        A connection for which more than the setting send_buffer_limit waits already is given up: it closes with
        BUFFER_LIMIT, and ConnectionClosed is raised for it.
        """
        data = self.codec.encode(message)
        self._check_open()
        if self.outbox is not None and self.outbox.size > self._owner.send_limit:
            self.abort(CloseReason.BUFFER_LIMIT)
            self._check_open()
        self.flush_replies()
        self.active_at = time.monotonic()
        self.push(data)

    def write(self, data: bytes) -> None:
        """Send bytes that are already encoded; otherwise like send()."""
        if self.close_reason is not None:
            self._check_open()
        if self.turn_replies:
            self.flush_replies()
        if self.outbox is not None:
            self.wait_for_room()
            self._check_open()
        self.active_at = time.monotonic()  # what is sent outside a turn is a sign of life; turns note their own
        self.push(data)
        if self.outbox is not None:
            self.wait_for_room()

    def _check_open(self) -> None:
        if self.close_reason is not None:
            raise ConnectionClosed(f"{self!r} is closed", self.close_reason)

    def append_reply(self, data: bytes) -> None:
        """Send encoded bytes with the replies of the turn that runs, or at once outside a turn."""
        if self.turn_replies is None:
            self.push(data)
        else:
            self.turn_replies.append(data)

    def flush_replies(self) -> None:
        """Hand the turn's replies so far to the kernel or the outbox. Never blocks."""
        replies = self.turn_replies
        if replies:
            data = replies[0] if len(replies) == 1 else b"".join(replies)
            replies.clear()
            self.push(data)

    def _push(self, data: bytes) -> None:
        """As push(): give bytes to the kernel, what it does not take to the outbox. Never blocks, never raises."""
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
        """Of `data` the kernel took the first `sent` bytes: the others go to the outbox."""
        self.sent_bytes += sent
        self.outbox = Outbox(self, memoryview(data)[sent:])
        self._owner.connection_waits(self)

    def broken(self) -> None:
        """The kernel says that there is no peer any more."""
        self.abort(CloseReason.PEER_RESET)

    def wait_for_room(self) -> None:
        """Block the calling greenlet while the outbox holds more than HIGH_WATER; ConnectionClosed if that ends it."""
        while (outbox := self.outbox) is not None and outbox.size > HIGH_WATER:
            outbox.emptied.wait()
            if self.state is _CLOSED and outbox.size:
                raise ConnectionClosed(f"{self!r} closed with {outbox.size} bytes unsent", self.close_reason)

    def outbox_emptied(self) -> None:
        """Called by the outbox, in the hub, when the kernel has taken everything."""
        self.outbox = None
        if self.close_reason is not None and not self.is_busy:
            self._finish_if_sent()

    # Ending

    def start_draining(self, reason: CloseReason = CloseReason.DRAINED) -> None:
        """No further message will be handed over; the turn that runs, and what is owed, is still completed.

        `reason`: what it will be closed for then.
        """
        if self.state is _OPEN:
            self.state = _DRAINING
            self.drain_reason = reason
            self.retires_at = NEVER

    def close(self, reason: CloseReason = CloseReason.FINISHED) -> None:
        """Stop reading, send what is owed, then close in an orderly way. Never blocks; the first reason stays.

        Called while a handler runs, it takes effect when that handler has returned: its reply is still sent.
        """
        if self.close_reason is not None:
            return
        self.close_reason = reason
        self.state = _DRAINING
        self.stop_watching()
        if not self.is_busy:
            self._finish_if_sent()

    def turn_over(self) -> None:
        """The handler has returned, and the connection was closed meanwhile: do what had to wait for that."""
        if self.state is _CLOSED:
            self._owner.connection_left(self)
        else:
            self._finish_if_sent()

    def _finish_if_sent(self) -> None:
        if self.outbox is None and self.state is not _CLOSED:
            self._finish()

    @property
    def is_busy(self) -> bool:
        """A handler is at work on this connection."""
        return self.turn_replies is not None

    def abort(self, reason: CloseReason) -> None:
        """Close at once; what the kernel has not taken is lost."""
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
            log.debug("closed %s reason=%s received=%d sent=%d", self, reason, self.received_bytes, self.sent_bytes)
        self._owner.connection_closed(self)
        if not self.is_busy:
            self._owner.connection_left(self)

    # What it waits for: see gserver.limits.deadlines.Waiting

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
        return self.state is _OPEN and self.runner is None

    def message_began(self) -> None:
        """The peer is inside a message; only the first call for each message counts."""
        if self._message_began is None or self._message_began[0] != self.messages:
            self._message_began = (self.messages, self.active_at)
            self._owner.connection_waits(self)

    def handler_blocks(self, since: float) -> None:
        """A handler was called then and has not returned."""
        has_deadline = self.handler_since is not None  # of the message before, which is sooner
        self.handler_since = since
        if not has_deadline:
            self._owner.connection_waits(self)

    # Watching

    def unread_bytes(self) -> int:
        """Bytes that the kernel has received and nobody has read yet (FIONREAD, tcp(7) and unix(7))."""
        try:
            return int(struct.unpack("i", ioctl(self.sock.fileno(), FIONREAD, bytes(4)))[0])
        except (OSError, ValueError):  # broken or closed
            return 0

    def has_input(self) -> bool:
        """Whether something has come that was not read yet, be it the peer's end."""
        if self.has_buffered:
            return True
        try:
            self.sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # broken: reading will find out
            return True
        return True

    def note_write_progress(self) -> None:
        """Look whether the peer has taken something of what is to be sent; the kernel offers room much later."""
        if self.outbox is not None:
            self.outbox.note_progress()

    def pause(self) -> None:
        """Stop watching for input until the engine watches again."""
        if self.watcher is not None:
            self.watcher.stop()

    @property
    def has_buffered(self) -> bool:
        """Bytes have been received that no turn has seen, although the socket may have none."""
        return False

    @property
    def is_paused(self) -> bool:
        return self.state is _OPEN and self.watcher is not None and not self.watcher.active

    def stop_watching(self) -> None:
        """Let go of the READ watcher."""
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.close()
            self.watcher = None


class Outbox:
    """What the kernel would not take yet, and the WRITE watcher that offers it again."""

    __slots__ = ("_chunks", "_conn", "_taken_bytes", "_watcher", "emptied", "progress_at", "size")

    def __init__(self, conn: Connection, rest: memoryview) -> None:
        self._conn = conn
        self._chunks: deque[memoryview] = deque([rest])
        self.size = len(rest)
        self.progress_at = time.monotonic()  # when the peer was last seen to take something
        self._taken_bytes = self._taken_by_peer()
        self.emptied = Event()  # set when everything is sent, or never will be
        self._watcher = get_hub().loop.io(conn.sock.fileno(), WRITE)
        self._watcher.start(self._writable)

    def append(self, data: bytes) -> None:
        self._chunks.append(memoryview(data))
        self.size += len(data)

    def note_progress(self) -> None:
        """See whether the peer has taken something since the last time.

        The watcher alone does not tell: of a send buffer of some MB the kernel offers room only when a third is free
        (sk_stream_write_space), which at 120 KB/s takes 7 s.
        """
        before, self._taken_bytes = self._taken_bytes, self._taken_by_peer()
        if self._taken_bytes > before:
            self.progress_at = time.monotonic()

    def _taken_by_peer(self) -> int:
        """How much of what was sent the peer's kernel has acknowledged (SIOCOUTQ, tcp(7) and unix(7))."""
        try:
            (queued,) = struct.unpack("i", ioctl(self._conn.sock.fileno(), TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):  # broken or closed
            queued = 0
        return self._conn.sent_bytes - int(queued)

    def _next_chunk(self) -> memoryview:
        """The first chunk, and with it the small ones behind it: they cost one system call together."""
        chunk = self._chunks.popleft()
        if len(chunk) >= SEND_BYTES or not self._chunks:
            return chunk
        together, size = [chunk], len(chunk)
        while self._chunks and size < SEND_BYTES:
            together.append(self._chunks.popleft())
            size += len(together[-1])
        return memoryview(b"".join(together))

    def _writable(self) -> None:
        if not shielded("sending", self._send_more, conn=self._conn):
            self._conn.abort(CloseReason.HANDLER_ERROR)

    def _send_more(self) -> None:
        chunk = self._next_chunk()
        try:
            sent = self._conn.sock.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._conn.abort(CloseReason.PEER_RESET)
            return
        self._conn.sent_bytes += sent
        self.size -= sent
        if sent:
            self.progress_at = self._conn.active_at = time.monotonic()
        if sent < len(chunk):
            self._chunks.appendleft(chunk[sent:])
        elif not self._chunks:
            self.stop()
            self._conn.outbox_emptied()

    def stop(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self.emptied.set()


def swap_context(conn: Connection) -> None:
    """Exchange the running greenlet's contextvars (PEP 567) for those of `conn`; once more to change back.

    A runner serves many connections, and what a handler sets in a ContextVar is to be seen by its connection alone: by
    all of its callbacks, in every message, as if it had a greenlet to itself.
    """
    current: Any = getcurrent()
    theirs, mine = current.gr_context, conn.context
    if theirs is not mine:  # nearly always both are empty
        conn.context, current.gr_context = theirs, mine


def format_address(address: Address) -> str:
    """host:port, [v6]:port, or unix:path.

    A client chooses its own path. So quotes, backslashes, spaces, and what cannot be printed are escaped in it, as in
    JSON: a line of the access log stays one line, and its fields are those of the format.
    """
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix:" + "".join(map(_escaped, os.fsdecode(address)))


def _escaped(letter: str) -> str:
    if letter.isprintable() and letter not in '"\\ ':
        return letter
    escaped = json.dumps(letter)[1:-1]
    return escaped if escaped != letter else f"\\u{ord(letter):04x}"  # JSON may have a space as it is, and DEL
