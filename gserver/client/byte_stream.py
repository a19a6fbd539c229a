"""A non-blocking stream of bytes to a server, plain or with TLS. The caller waits; nothing here blocks but wait().

    write(data)   gives the kernel what it takes now, and returns how many bytes of data were used
    pending       true while bytes that write() has used are not with the kernel yet (TLS only)
    read()        what has arrived; None: nothing yet; b"": the peer's end
    sent_bytes    how many bytes the kernel has taken, TLS included: whether a message can have reached the server
    wait()        until reading or writing is possible
    finish()      tells the peer that nothing more comes
    close()       closes the socket

One thread may write while another one reads. In a process that gevent has patched, wait() blocks only its greenlet.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from typing import Protocol

from gserver.connection.buffer_sizes import RECEIVE_BYTES

__all__ = ["ByteStream", "PlainStream", "TlsStream"]

#: How much is encrypted at once: the encrypted bytes are a copy.
ENCRYPT_BYTES = 256 * 1024


class ByteStream(Protocol):
    sent_bytes: int

    @property
    def pending(self) -> bool: ...

    def write(self, data: memoryview) -> int: ...

    def read(self) -> bytes | None: ...

    def wait(self, *, read: bool, write: bool, deadline: float | None) -> bool: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class PlainStream:
    """A stream without TLS. It owns the socket."""

    pending = False

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.sent_bytes = 0
        sock.setblocking(False)

    def write(self, data: memoryview) -> int:
        try:
            count = self._socket.send(data)
        except BlockingIOError:
            return 0
        self.sent_bytes += count
        return count

    def read(self) -> bytes | None:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def wait(self, *, read: bool, write: bool, deadline: float | None) -> bool:
        """Wait until reading or writing is possible; return whether reading is. TimeoutError at the deadline."""
        return _wait(self._socket, read=read, write=write, deadline=deadline)

    def finish(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


class TlsStream:
    """A stream with TLS, after the handshake, which the constructor makes. It owns the socket.

    The TLS engine gets bytes from memory, so that each byte to the kernel is counted, and reading and writing never
    wait for one another. `_lock` protects the engine, which two threads may not use at the same time. It is never held
    while waiting.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None, deadline: float | None
    ) -> None:
        self._socket = sock
        self.sent_bytes = 0
        self._lock = threading.Lock()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._encrypted = memoryview(b"")  # from _outgoing, and not with the kernel yet
        self._decrypted: list[bytes] = []
        self._at_end = False
        self._error: ssl.SSLError | None = None  # what the engine has reported, for read()
        sock.setblocking(False)
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._handshake(deadline)

    def _handshake(self, deadline: float | None) -> None:
        while True:
            try:
                self._engine.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self.pending:
                    self.wait(read=True, write=False, deadline=deadline)
                    self._fill()
                    continue
            except ssl.SSLError:
                self._try_to_flush()  # the alert, which has the reason
                raise
            else:
                if self._flush():
                    self._decrypt()
                    return
            self.wait(read=False, write=True, deadline=deadline)

    @property
    def pending(self) -> bool:
        return len(self._encrypted) > 0

    def write(self, data: memoryview) -> int:
        with self._lock:
            if not self._flush():
                return 0
            count = self._engine.write(data[:ENCRYPT_BYTES]) if data else 0
            self._flush()
            return count

    def read(self) -> bytes | None:
        with self._lock:
            if not self._decrypted and not self._at_end and self._error is None:
                self._fill()
                self._decrypt()
                self._try_to_flush()  # the answer to an update of the keys, or an alert
            if self._decrypted:
                data = b"".join(self._decrypted)
                self._decrypted.clear()
                return data
            if self._error is not None:
                raise self._error
            return b"" if self._at_end else None

    def wait(self, *, read: bool, write: bool, deadline: float | None) -> bool:
        """Wait until reading or writing is possible; return whether reading is. TimeoutError at the deadline."""
        if read and (self._decrypted or self._at_end or self._error):
            return True
        return _wait(self._socket, read=read, write=write or self.pending, deadline=deadline)

    def finish(self) -> None:
        with self._lock:
            self._decrypt()  # the engine refuses to end while it holds data for us
            try:
                self._engine.unwrap()
            except ssl.SSLError:
                pass  # SSLWantReadError: the peer may go on sending. Others: it has failed, and read() reports it
            self._flush()
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        try:
            self._engine.unwrap()
        except (OSError, ValueError):
            pass
        self._try_to_flush()
        self._socket.close()

    def _flush(self) -> bool:
        """Give the kernel what is encrypted; return whether it took all."""
        while True:
            if not self._encrypted:
                self._encrypted = memoryview(self._outgoing.read())
                if not self._encrypted:
                    return True
            try:
                count = self._socket.send(self._encrypted)
            except BlockingIOError:
                return False
            self.sent_bytes += count
            self._encrypted = self._encrypted[count:]

    def _try_to_flush(self) -> None:
        try:
            self._flush()
        except OSError:
            pass

    def _fill(self) -> None:
        """Pass what has arrived to the engine."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _decrypt(self) -> None:
        """Take all data from the engine, so that none waits there unseen when the socket has no more."""
        try:
            while data := self._engine.read(RECEIVE_BYTES):
                self._decrypted.append(data)
            self._at_end = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # the second: an end without close_notify
            self._at_end = True
        except ssl.SSLError as error:
            self._error = error


def _wait(sock: socket.socket, *, read: bool, write: bool, deadline: float | None) -> bool:
    poll = select.poll()  # looked up now: gevent replaces it when it patches
    poll.register(sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
    left_ms = None
    if deadline is not None:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0:
            raise TimeoutError
    events = poll.poll(left_ms)
    if not events:
        raise TimeoutError
    # An error or a hang-up is found by reading.
    return any(mask & ~select.POLLOUT for _, mask in events)
