"""A client connection that is light enough for thousands of them in one process.

gevent's cooperative sockets create a timer and an exception for each receive that has to wait, and switch twice. A
ClientConnection has one watcher for its whole life: the event loop receives, decodes, and switches to the greenlet that
waits for the reply. Replies belong to requests in order. Sending never waits: what the kernel does not take is sent
later, and the sender waits for the reply anyway. One timer covers the oldest request, and is set again only when it
expires.
"""

from __future__ import annotations

import _socket
import time
from collections import deque
from typing import Any, ClassVar

import gevent
from gevent import socket as cooperative
from greenlet import getcurrent

from gserver.codecs import Codec
from gserver.errors import ProtocolError
from loadtests.units import NS_IN_S

__all__ = ["RECEIVE_BYTES", "ClientConnection", "ClosedByPeer", "ClosedLocally"]

RECEIVE_BYTES = 64 * 1024
#: Events of a watcher.
READ, WRITE = 1, 2


class ClosedByPeer(Exception):
    """The server closed the connection instead of replying."""


class ClosedLocally(Exception):
    """This side closed the connection with a request pending, because another exchange on it had failed."""


class ClientConnection:
    """An open connection. Its owner calls close(), which also closes the socket.

    Attributes:
        codec: of this connection alone.
        error: why the connection is over; None while it is open.
        received_ns: when the newest bytes came, on the monotonic clock.
        open: how many connections are open in this process.
        is_new: True until the owner sets it to False, after it has recorded the first byte.
        first_sent_ns, first_byte_ns: when the first request was sent and the first byte received; 0 before that.
        received_bytes: so far.
        counted_bytes: how many of these take_size() has returned.
    """

    __slots__ = (
        "_batch",
        "_early_replies",
        "_hub",
        "_is_reading",
        "_pending",
        "_sock",
        "_timeout_s",
        "_timer",
        "_unsent",
        "_watcher",
        "_writer",
        "codec",
        "counted_bytes",
        "error",
        "first_byte_ns",
        "first_sent_ns",
        "is_new",
        "received_bytes",
        "received_ns",
    )

    open: ClassVar[int] = 0

    def __init__(self, sock: _socket.socket, codec: Codec, timeout_s: float) -> None:
        """sock: connected and non-blocking. timeout_s: for each reply."""
        self.codec = codec
        self.error: BaseException | None = None
        self.is_new = True
        self.received_ns = self.first_sent_ns = self.first_byte_ns = self.received_bytes = self.counted_bytes = 0
        self._sock = sock
        self._timeout_s = timeout_s
        self._hub: Any = gevent.get_hub()
        self._pending: deque[tuple[Any, int]] = deque()  # greenlets that wait for a reply, and when each sent
        self._early_replies: deque[Any] | None = None  # replies that came before their request
        self._batch: list[bytes] | None = None  # requests to be sent together
        self._unsent = b""  # what the kernel did not take
        self._timer: Any = None
        self._writer: Any = None
        self._watcher: Any = self._hub.loop.io(sock.fileno(), READ)
        self._is_reading = True
        self._watcher.start(self._readable)
        ClientConnection.open += 1

    # Exchanges

    def request(self, data: bytes, start_ns: int) -> Any:
        """Send `data`, wait for the reply that belongs to it, and return it.

        Raises the reason if the connection ends first: TimeoutError, ClosedByPeer, ClosedLocally, a ProtocolError or an
        OSError.
        """
        if self.error is not None:
            raise self.error
        if not self.first_sent_ns:
            self.first_sent_ns = start_ns
        if self._batch is None:
            self._send(data)
        else:
            self._batch.append(data)
        if not self._is_reading:
            self._is_reading = True
            self._watcher.start(self._readable)
        if self._early_replies:
            return self._early_replies.popleft()
        if self._timer is None:
            self._set_timer(self._timeout_s)
        self._pending.append(entry := (getcurrent(), start_ns))
        try:
            return self._hub.switch()
        except BaseException:
            self._abandon(entry)
            raise

    def take_size(self) -> int:
        """The bytes received since the last call: the size of a reply with its framing."""
        size = self.received_bytes - self.counted_bytes
        self.counted_bytes = self.received_bytes
        return size

    def _abandon(self, entry: tuple[Any, int]) -> None:
        """End the connection if the greenlet's reply may still come: it would be taken for the next request's."""
        if entry in self._pending:
            self._pending.remove(entry)
            self._end(ClosedLocally("an exchange on this connection was given up"))

    def _send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._transmit(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # replies that the server sent before are still read, and then the end of the connection
            return
        if sent < len(data):
            self._send_later(data[sent:])

    def _transmit(self, data: bytes) -> int:
        return self._sock.send(data)

    def _send_later(self, data: bytes) -> None:
        self._unsent = data
        self._writer = self._hub.loop.io(self._sock.fileno(), WRITE)
        self._writer.start(self._writable)

    def _writable(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""
        if not self._unsent:
            self._stop_writing()

    def _stop_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()
            writer.close()

    # In the event loop

    def _readable(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except Exception as error:  # an OSError, or an ssl.SSLError
            self._end(error)
            return
        self.received_ns = time.monotonic_ns()
        if data:
            self._received(data)
        else:
            self._received_eof()

    def _receive(self) -> bytes:
        return self._sock.recv(RECEIVE_BYTES)

    def _received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if not self.first_byte_ns:
            self.first_byte_ns = self.received_ns
        codec, error = self.codec, None
        messages: list[Any] = []
        try:
            codec.receive(data)
            messages.extend(codec.messages())
        except ProtocolError as broken:
            error = broken
        if len(messages) == 1 and self._pending:
            self._pending.popleft()[0].switch(messages[0])
        elif messages:
            self._deliver(messages)
        if error is not None:
            self._end(error)
        elif self._early_replies and self.error is None:  # back-pressure, until the next request
            self._is_reading = False
            self._watcher.stop()

    def _deliver(self, messages: list[Any]) -> None:
        """Hand out several replies; the requests that the greenlets make meanwhile are sent together."""
        batch = self._batch = []
        for message in messages:
            if self._pending:
                self._pending.popleft()[0].switch(message)
            elif self._early_replies is None:
                self._early_replies = deque([message])
            else:
                self._early_replies.append(message)
        self._batch = None
        if batch and self.error is None:
            self._send(b"".join(batch))

    def _received_eof(self) -> None:
        try:
            self.codec.eof()
        except ProtocolError as error:
            self._end(error)
        else:
            self._end(ClosedByPeer("the server closed the connection"))

    def _set_timer(self, after_s: float) -> None:
        self._timer = self._hub.loop.timer(max(0.0, after_s))
        self._timer.start(self._check_oldest)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _check_oldest(self) -> None:
        """End the connection if the oldest request has timed out, else set the timer for when it will."""
        self._stop_timer()
        if not self._pending:
            return
        left_s = self._timeout_s - (time.monotonic_ns() - self._pending[0][1]) / NS_IN_S
        if left_s > 0:
            self._set_timer(left_s)
        else:
            self._end(TimeoutError(f"no reply within {self._timeout_s:g} s"))

    # The end

    @property
    def is_idle(self) -> bool:
        """Whether the connection is open, with nothing in flight."""
        return self.error is None and not self._pending and not self._unsent

    def _end(self, error: BaseException) -> None:
        """Fail pending and later requests with `error`. The socket stays open until close()."""
        if self.error is None:
            self.error = error
            self._stop_timer()
            self._stop_writing()
            self._watcher.stop()
            self._hub.loop.run_callback(self._fail_pending)

    def _fail_pending(self) -> None:
        while self._pending:
            self._pending.popleft()[0].throw(self.error)

    def finish(self, timeout_s: float) -> None:
        """Close in good order: half-close, then wait until the server has closed too. Call close() after it.

        TimeoutError: the server did not close within `timeout_s`. OSError: it reset the connection instead.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * NS_IN_S)
        self._watcher.stop()
        self._half_close()
        while not self._is_at_eof():
            left_s = (deadline_ns - time.monotonic_ns()) / NS_IN_S
            late = TimeoutError(f"not closed within {timeout_s:g} s")
            cooperative.wait_read(self._sock.fileno(), max(0.0, left_s), late)

    def _is_at_eof(self) -> bool:
        try:
            while self._sock.recv(RECEIVE_BYTES):
                pass
        except BlockingIOError:
            return False
        return True

    def _half_close(self) -> None:
        self._sock.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        """Close at once. Pending and later requests fail with ClosedLocally. A second call does nothing."""
        if self._watcher is not None:
            self._end(ClosedLocally("another exchange on this connection had failed"))
            self._watcher.close()
            self._watcher = None
            ClientConnection.open -= 1
            self._sock.close()
