"""A connection as a swarm needs thousands of: what is received is decoded in the event loop, and handed to who waits.

gevent's cooperative sockets make a timer and an exception for each receive that has to wait, and switch twice. A Wire
has one watcher for its whole life, which receives, decodes, and switches to the greenlet that asked; replies belong to
questions in order. Sending never waits: what the kernel does not take is sent when it does, and who sent it waits for
the reply anyhow. One timer looks after the oldest question, and is set again only when it rings.
"""

from __future__ import annotations

import _socket
import ssl
import time
from collections import deque
from typing import Any, ClassVar

import gevent
from gevent import socket as cooperative
from greenlet import getcurrent

from gserver.codecs import Codec
from gserver.errors import ProtocolError

__all__ = ["PeerFinished", "TlsWire", "Wire", "WireClosed"]

RECEIVE_BYTES = 64 * 1024
READ, WRITE = 1, 2
NS_IN_S = 10**9


class PeerFinished(Exception):
    """The server ended the connection instead of answering."""


class WireClosed(Exception):
    """This side closed the connection with a question open: after another exchange on it had failed."""


class Wire:
    """A connection that is open.

    Attributes:
        codec: of this connection alone.
        error: why it is over; None while it is not.
        received_ns: when the newest bytes came, on the monotonic clock.
        open: how many there are in this process.
        is_new: until whoever cares has seen its first byte.
        first_sent_ns, first_byte_ns: of the first question, and of the first byte of the server's; 0 before.
        received_bytes: so far.
        counted_bytes: of these, those that take_size() has returned.
    """

    __slots__ = (
        "_asked",
        "_gathered",
        "_hub",
        "_outbox",
        "_reading",
        "_replies",
        "_sock",
        "_timeout_s",
        "_timer",
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
        """sock: connected, and not blocking. timeout_s: how long a reply may take."""
        self.codec = codec
        self.error: BaseException | None = None
        self.is_new = True
        self.received_ns = self.first_sent_ns = self.first_byte_ns = self.received_bytes = self.counted_bytes = 0
        self._sock = sock
        self._timeout_s = timeout_s
        self._hub: Any = gevent.get_hub()
        self._asked: deque[tuple[Any, int]] = deque()  # who waits for a reply, and since when
        self._replies: deque[Any] | None = None  # those that nobody had asked for
        self._gathered: list[bytes] | None = None  # what is to be sent together
        self._outbox = b""  # what the kernel did not take
        self._timer: Any = None
        self._writer: Any = None
        self._watcher: Any = self._hub.loop.io(sock.fileno(), READ)
        self._reading = True
        self._watcher.start(self._readable)
        Wire.open += 1

    # Exchanges

    def request(self, data: bytes, start_ns: int) -> Any:
        """Send `data`, wait for the reply that belongs to it, and return it.

        Raises what ended the connection: TimeoutError, PeerFinished, a ProtocolError, an OSError.
        """
        if self.error is not None:
            raise self.error
        if not self.first_sent_ns:
            self.first_sent_ns = start_ns
        if self._gathered is None:
            self._send(data)
        else:
            self._gathered.append(data)
        if not self._reading:
            self._reading = True
            self._watcher.start(self._readable)
        if self._replies:
            return self._replies.popleft()
        if self._timer is None:
            self._set_timer(self._timeout_s)
        self._asked.append(question := (getcurrent(), start_ns))
        try:
            return self._hub.switch()
        except BaseException:
            self._give_up(question)
            raise

    def take_size(self) -> int:
        """How many bytes were received since the last call: those of a reply, with its framing."""
        size = self.received_bytes - self.counted_bytes
        self.counted_bytes = self.received_bytes
        return size

    def _give_up(self, question: tuple[Any, int]) -> None:
        """Who asked waits no more. If the reply may still come, nobody can tell any more which reply is whose."""
        if question in self._asked:
            self._asked.remove(question)
            self._end(WireClosed("an exchange on this connection was given up"))

    def _send(self, data: bytes) -> None:
        if self._outbox:
            self._outbox += data
            return
        try:
            sent = self._transmit(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # what the server has sent before it went says more, and the end of it says the rest
            return
        if sent < len(data):
            self._outbox = data[sent:]
            self._writer = self._hub.loop.io(self._sock.fileno(), WRITE)
            self._writer.start(self._writable)

    def _transmit(self, data: bytes) -> int:
        return self._sock.send(data)

    def _writable(self) -> None:
        try:
            self._outbox = self._outbox[self._sock.send(self._outbox) :]
        except BlockingIOError:
            return
        except OSError:
            self._outbox = b""
        if not self._outbox:
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
        except Exception as error:  # OSError, or what TLS has to say
            self._end(error)
            return
        self.received_ns = time.monotonic_ns()
        if data:
            self._received(data)
        else:
            self._finished()

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
        if len(messages) == 1 and self._asked:
            self._asked.popleft()[0].switch(messages[0])
        elif messages:
            self._deliver(messages)
        if error is not None:
            self._end(error)
        elif self._replies and self.error is None:  # a server that talks unasked is not listened to until it is asked
            self._reading = False
            self._watcher.stop()

    def _deliver(self, messages: list[Any]) -> None:
        """Several at once: what is asked meanwhile is sent together."""
        gathered = self._gathered = []
        for message in messages:
            if self._asked:
                self._asked.popleft()[0].switch(message)
            elif self._replies is None:
                self._replies = deque([message])
            else:
                self._replies.append(message)
        self._gathered = None
        if gathered and self.error is None:
            self._send(b"".join(gathered))

    def _finished(self) -> None:
        try:
            self.codec.eof()
        except ProtocolError as error:
            self._end(error)
        else:
            self._end(PeerFinished("the server closed the connection"))

    def _set_timer(self, after_s: float) -> None:
        self._timer = self._hub.loop.timer(max(0.0, after_s))
        self._timer.start(self._look_after_oldest)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _look_after_oldest(self) -> None:
        self._stop_timer()
        if not self._asked:
            return
        left_s = self._timeout_s - (time.monotonic_ns() - self._asked[0][1]) / NS_IN_S
        if left_s > 0:
            self._set_timer(left_s)
        else:
            self._end(TimeoutError(f"no reply within {self._timeout_s:g} s"))

    # The end

    @property
    def is_quiet(self) -> bool:
        """Open, with nothing in flight."""
        return self.error is None and not self._asked and not self._outbox

    def _end(self, error: BaseException) -> None:
        """It is over: whoever waits hears why, and so does whoever asks later. The socket stays until close()."""
        if self.error is None:
            self.error = error
            self._stop_timer()
            self._stop_writing()
            self._watcher.stop()
            self._hub.loop.run_callback(self._tell_all)

    def _tell_all(self) -> None:
        while self._asked:
            self._asked.popleft()[0].throw(self.error)

    def finish(self, patience_s: float) -> None:
        """Close in good order: say that nothing more comes, and wait until the server has closed too.

        TimeoutError: it did not within `patience_s`. OSError: it was reset instead.
        """
        deadline_ns = time.monotonic_ns() + int(patience_s * NS_IN_S)
        self._watcher.stop()
        self._say_goodbye()
        while not self._is_at_end():
            left_s = (deadline_ns - time.monotonic_ns()) / NS_IN_S
            late = TimeoutError(f"not closed within {patience_s:g} s")
            cooperative.wait_read(self._sock.fileno(), max(0.0, left_s), late)

    def _is_at_end(self) -> bool:
        try:
            while self._sock.recv(RECEIVE_BYTES):
                pass
        except BlockingIOError:
            return False
        return True

    def _say_goodbye(self) -> None:
        self._sock.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        """Close at once. Questions that are open fail with WireClosed; whoever asks later hears the same."""
        if self._watcher is not None:
            self._end(WireClosed("another exchange on this connection had failed"))
            self._watcher.close()
            self._watcher = None
            Wire.open -= 1
            self._sock.close()


class TlsWire(Wire):
    """A connection in TLS. handshake() comes before anything else."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(
        self, sock: _socket.socket, codec: Codec, timeout_s: float, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Before the socket is watched: it raises for a name that cannot be one, and nobody would end the watcher.
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        super().__init__(sock, codec, timeout_s)

    def handshake(self, timeout_s: float) -> None:
        """TimeoutError, ssl.SSLError, OSError or PeerFinished if there is none."""
        deadline_ns = time.monotonic_ns() + int(timeout_s * NS_IN_S)
        self._watcher.stop()
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            finally:  # an alert goes out even if it fails
                if waiting := self._outgoing.read():
                    self._sock.send(waiting)
            if done:
                self._watcher.start(self._readable)
                return
            left_s = (deadline_ns - time.monotonic_ns()) / NS_IN_S
            cooperative.wait_read(self._sock.fileno(), max(0.0, left_s), TimeoutError("no TLS handshake in time"))
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise PeerFinished("the server closed the connection in the TLS handshake")
            self._incoming.write(data)

    def _transmit(self, data: bytes) -> int:
        self._tls.write(data)
        ciphertext = self._outgoing.read()
        try:
            sent = self._sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent < len(ciphertext):
            self._outbox = ciphertext[sent:]
            self._writer = self._hub.loop.io(self._sock.fileno(), WRITE)
            self._writer.start(self._writable)
        return len(data)

    def _send(self, data: bytes) -> None:
        if self._outbox:  # ciphertext
            self._tls.write(data)
            self._outbox += self._outgoing.read()
        else:
            super()._send(data)

    def _receive(self) -> bytes:
        """Plaintext; b"" at the end; BlockingIOError if a record is not complete, or was none of the application's."""
        data = self._sock.recv(RECEIVE_BYTES)
        if not data:
            return b""
        self._incoming.write(data)
        parts = []
        try:
            while part := self._tls.read(RECEIVE_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                raise BlockingIOError from None
        except ssl.SSLZeroReturnError:  # what is left is the end of TCP's own
            if not parts:
                return b""
        return b"".join(parts)

    def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # the server's own goodbye has not come yet
            pass
        self._sock.send(self._outgoing.read())
        super()._say_goodbye()
