"""Client: one connection to a server, for code that waits for its replies.

    with Client(("127.0.0.1", 3000), JsonLines()) as client:
        reply = client.call({"type": "SUM", "a": 10, "b": 20})

It uses a plain socket: in a process that gevent has patched, it blocks only its greenlet.

A connection ends once. After close(), an error or a timeout, or when the peer's end has arrived, `connected` is False:
nothing more is sent (NotSent), and what had arrived before can still be received.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from gserver.client.byte_stream import ByteStream, PlainStream, TlsStream
from gserver.codecs import Codec, Raw
from gserver.errors import ConnectionClosed, NoReply, NotSent, ProtocolError

__all__ = ["DEFAULT_TIMEOUT_S", "Client"]

DEFAULT_TIMEOUT_S = 10.0
#: How long a receiving thread waits for a sending one that looks for the peer's end, in seconds. A look is short.
LOOK_S = 1.0
#: How often a look for the peer's end reads at most: a peer that never stops sending has not ended.
MOST_READS = 64


class Client:
    """One connection to a server. It connects when it is made.

    Args:
        address: (host, port), or the path of a unix socket ("\\0name" for an abstract one).
        codec: a codec object, used by this connection only; default Raw().
        timeout_s: seconds; the most time to connect (with TLS: and for the handshake), to send, for one recv() and for
            one call(); in pipeline() the most time without progress. None: no limit. May be changed. Default 10.
        ssl_context: an ssl.SSLContext for TLS, such as ssl.create_default_context(). The authorities and the client's
            certificate are the context's. None (the default): no TLS.
        server_hostname: the name that the server's certificate must have, and that is sent to it (SNI). Default: the
            host of the address. A unix socket has none.
        on_push: on_push(message) is called with every message that arrives, from within recv(), call() or pipeline(),
            and returns True if it has taken it as a push. All others are replies. Default: there are no pushes.

    Raises:
        OSError: connecting failed (ssl.SSLError: the handshake).
        NotSent: the connection had ended before anything of a message was sent. Repeating it does no harm.
        NoReply: a message was sent, perhaps in part, and the connection ended before the reply.
        ConnectionClosed: of recv(): the connection ended. NotSent and NoReply are ConnectionClosed too.
        TimeoutError: timeout_s is over. A late reply could be taken for that of the next message, so the connection
            cannot be used any more.
        ProtocolError: the server violated the framing.
        RuntimeError: two threads send, or two receive, at the same time. One may send while another one receives.

    The caller closes it: by close(), or at the end of the `with` block.

    Example:
        with Client(("127.0.0.1", 3000), Lines(), timeout_s=2) as client:
            print(client.call(b"hello"))
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        codec: Codec | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        on_push: Callable[[Any], bool] | None = None,
    ) -> None:
        self.codec: Codec = Raw() if codec is None else codec
        self.timeout_s = timeout_s
        self._on_push = on_push
        self._messages: deque[Any] = deque()  # received, and not returned yet
        self._bytes: list[bytes] = []  # received, and not given to the codec yet
        self._failure: ProtocolError | None = None  # to be raised once _messages is empty
        self._end = ""  # why the connection can send nothing more; "": it can
        self._eof = ""  # why nothing more can arrive; "": something can
        self._reads = threading.Lock()  # held by the thread that receives
        self._writes = threading.Lock()  # held by the thread that sends
        self._stream, self._local_address = _open(address, timeout_s, ssl_context, server_hostname)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: False after close(), an error or a timeout, and if the peer's end has arrived.

        It reads what the kernel has, and waits for nothing. A peer that has gone silently is not found.
        """
        self._look()
        return not self._end

    @property
    def local_address(self) -> Any:
        """The address of this end, as from getsockname(): the server's logs have it as the peer's."""
        return self._local_address

    @property
    def unread(self) -> bool:
        """Whether a message, or a part of one, has arrived that was not returned yet. Pushes do not count."""
        self._look()
        with _Held(self._reads, "receives", LOOK_S):
            self._decode()
        return bool(self._messages or self._failure or self.codec.partial)

    def send(self, message: Any) -> None:
        """Send one message; return when the kernel has it. TypeError or ValueError of the codec: nothing was sent."""
        self.send_bytes(self.codec.encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, without the codec: part of a message, or several messages."""
        self._exchange(data, 0, _Deadline(self.timeout_s, renewed=False))

    def recv(self) -> Any:
        """Return the next message; a Malformed for one that the codec could delimit but not decode.

        Example:
            with Client(("127.0.0.1", 3000), Lines()) as client:
                client.send(b"hello")
                print(client.recv())
        """
        deadline = _Deadline(self.timeout_s, renewed=False)
        with _Held(self._reads, "receives", LOOK_S):
            try:
                while not self._decode():
                    self._read(deadline)
            except _Ended as end:
                if end.__cause__ is None:
                    self.codec.eof()
                raise ConnectionClosed(self._eof) from end.__cause__
            except BaseException as error:
                self._fail(error)
                raise
            return self._messages.popleft()

    def call(self, message: Any) -> Any:
        """Send one message and return the next one that arrives and is no push."""
        return self._exchange(self.codec.encode(message), 1, _Deadline(self.timeout_s, renewed=False))[0]

    def pipeline(self, messages: Iterable[Any]) -> list[Any]:
        """Send messages without waiting for each reply; return the replies, one for each message, in order.

        It reads while it writes, so neither side ever waits for the other, however much is sent. All messages are
        encoded before the first is sent. The server must answer each message, in order.

        NoReply has the replies that arrived as its attribute `replies`.

        Example:
            with Client(("127.0.0.1", 3000), Lines()) as client:
                first, second = client.pipeline([b"GET a", b"GET b"])
        """
        encoded = [self.codec.encode(message) for message in messages]
        return self._exchange(b"".join(encoded), len(encoded), _Deadline(self.timeout_s, renewed=True))

    def __iter__(self) -> Iterator[Any]:
        """Yield messages until the server closes the connection."""
        while True:
            try:
                message = self.recv()
            except ConnectionClosed:
                return
            yield message

    def finish(self) -> None:
        """Half-close: send nothing more. Replies of the server can still be received."""
        self._end = self._end or "this client has half-closed the connection"
        self._stream.finish()

    def close(self) -> None:
        """Close the connection. Calling it again does nothing."""
        self._end = "this client has closed the connection"
        self._eof = self._end
        self._stream.close()

    def _exchange(self, data: bytes, wanted: int, deadline: _Deadline) -> list[Any]:
        """Send data and receive `wanted` messages, each as it becomes possible."""
        with _Held(self._writes, "sends") as writes:
            self._look()
            if self._end:
                raise NotSent(f"nothing was sent: {self._end}")
            if not wanted:
                return self._carry(data, 0, deadline, writes)
            with _Held(self._reads, "receives", LOOK_S):
                return self._carry(data, wanted, deadline, writes)

    def _carry(self, data: bytes, wanted: int, deadline: _Deadline, writes: _Held) -> list[Any]:
        before = self._stream.sent_bytes
        replies: list[Any] = []
        try:
            self._write(memoryview(data), replies, wanted, deadline)
            writes.release()
            self._take(replies, wanted, deadline)
            while len(replies) < wanted:
                self._read(deadline)
                self._take(replies, wanted, deadline)
        except _Ended as end:
            if self._stream.sent_bytes == before:
                raise NotSent(f"nothing was sent: {self._eof}") from end.__cause__
            raise NoReply(f"the message was sent, and may have been executed: {self._eof}", replies) from end.__cause__
        except BaseException as error:
            self._fail(error)
            raise
        return replies

    def _write(self, rest: memoryview, replies: list[Any], wanted: int, deadline: _Deadline) -> None:
        """Give the kernel all bytes. If replies are wanted, read meanwhile, or a server that does not could wait."""
        while rest or self._stream.pending:
            try:
                used = self._stream.write(rest)
            except OSError as error:
                self._ended(f"the server closed the connection: {error}")
                raise _Ended from error
            rest = rest[used:]
            if used:
                deadline.renew()
            elif self._wait(deadline, write=True, read=wanted > 0) and wanted:
                self._read_some()
                self._take(replies, wanted, deadline)

    def _take(self, replies: list[Any], wanted: int, deadline: _Deadline) -> None:
        """Move messages that have arrived to the replies."""
        while len(replies) < wanted and self._decode():
            replies.append(self._messages.popleft())
            deadline.renew()

    def _decode(self) -> bool:
        """Give the codec what has arrived, and on_push each message; return whether there is a message."""
        if self._bytes and self._failure is None:
            data = b"".join(self._bytes)
            self._bytes.clear()
            try:
                self.codec.receive(data)
                for message in self.codec.messages():
                    if self._on_push is None or not self._on_push(message):
                        self._messages.append(message)
            except ProtocolError as error:
                self._failure = error
        if not self._messages and self._failure is not None:
            raise self._failure
        return bool(self._messages)

    def _read(self, deadline: _Deadline) -> None:
        """Wait until something has arrived. TimeoutError; _Ended at the end."""
        while True:
            if self._eof:
                raise _Ended
            self._wait(deadline, read=True)
            if self._read_some():
                return

    def _read_some(self) -> bool:
        """Read what the kernel has, once; return whether there was anything. _Ended at the end."""
        if self._eof:
            raise _Ended
        try:
            data = self._stream.read()
        except OSError as error:
            self._ended(f"the connection failed: {error}")
            raise _Ended from error
        if data is None:
            return False
        if not data:
            self._ended("the server closed the connection")
            raise _Ended
        self._bytes.append(data)
        return True

    def _look(self) -> None:
        """Find the peer's end, if it has arrived. If another thread receives, that one finds it."""
        if self._eof or not self._reads.acquire(blocking=False):
            return
        try:
            for _ in range(MOST_READS):
                if not self._read_some():
                    return
        except _Ended:
            pass
        finally:
            self._reads.release()

    def _wait(self, deadline: _Deadline, *, read: bool = False, write: bool = False) -> bool:
        try:
            return self._stream.wait(read=read, write=write, deadline=deadline.at)
        except TimeoutError:
            what = "the server did not read the message" if write else "no answer"
            raise TimeoutError(f"{what} within {deadline.timeout_s:g} s") from None

    def _ended(self, why: str) -> None:
        self._eof = why
        self._end = self._end or why

    def _fail(self, error: BaseException) -> None:
        """Send nothing more: a reply that is still to come would be taken for that of the next message."""
        self._end = self._end or f"an earlier call failed: {type(error).__name__}: {error}"


class _Ended(Exception):
    """The connection has ended; the cause is an OSError, or None for an orderly end."""


class _Deadline:
    """The time limit of an exchange; `renewed`: counted from the last progress."""

    def __init__(self, timeout_s: float | None, *, renewed: bool) -> None:
        self.timeout_s = timeout_s
        self.at = None if timeout_s is None else time.monotonic() + timeout_s
        self._is_renewed = renewed and timeout_s is not None

    def renew(self) -> None:
        if self._is_renewed and self.timeout_s is not None:
            self.at = time.monotonic() + self.timeout_s


class _Held:
    """Holds a lock; RuntimeError if another thread has it."""

    def __init__(self, lock: threading.Lock, verb: str, patience_s: float = 0.0) -> None:
        self._lock = lock
        self._verb = verb
        self._patience_s = patience_s
        self._is_held = False

    def __enter__(self) -> _Held:
        if not (
            self._lock.acquire(blocking=False) or (self._patience_s and self._lock.acquire(True, self._patience_s))
        ):
            raise RuntimeError(f"another thread {self._verb} on this connection: give each its own, or use a Pool")
        self._is_held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._lock.release()


def _open(
    address: tuple[str, int] | str, timeout_s: float | None, context: ssl.SSLContext | None, hostname: str | None
) -> tuple[ByteStream, Any]:
    """Connect; return the stream and the address of this end."""
    deadline = _Deadline(timeout_s, renewed=False)
    sock = _connect(address, timeout_s)
    try:
        if context is None:
            return PlainStream(sock), sock.getsockname()
        if hostname is None and isinstance(address, tuple):
            hostname = address[0]
        return TlsStream(sock, context, hostname, deadline.at), sock.getsockname()
    except TimeoutError:
        sock.close()
        raise TimeoutError(f"no TLS handshake within {deadline.timeout_s:g} s") from None
    except BaseException:
        sock.close()
        raise


def _connect(address: tuple[str, int] | str, timeout_s: float | None) -> socket.socket:
    if isinstance(address, tuple):
        sock = socket.create_connection(address, timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
