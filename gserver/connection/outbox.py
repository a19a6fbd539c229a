"""The outbox of one connection: bytes that the kernel has not accepted yet. It exists only while there are some."""

from __future__ import annotations

import struct
import time
from collections import deque
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING

from gevent import get_hub
from gevent.event import Event

from gserver.errors import CloseReason
from gserver.fault_isolation import shielded

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["Outbox"]

WRITE = 2  # libev's EV_WRITE
SEND_BYTES = 64 * 1024


class Outbox:
    """Bytes that the kernel has not accepted yet, and the WRITE watcher that sends them."""

    __slots__ = ("_acknowledged_bytes", "_chunks", "_conn", "_watcher", "emptied", "progress_at", "size")

    def __init__(self, conn: Connection, rest: memoryview) -> None:
        self._conn = conn
        self._chunks: deque[memoryview] = deque([rest])
        self.size = len(rest)
        self.progress_at = time.monotonic()  # when the peer last acknowledged something, or the kernel accepted it
        self._acknowledged_bytes = self._count_acknowledged()
        self.emptied = Event()  # set when everything is sent, or never will be
        self._watcher = get_hub().loop.io(conn.sock.fileno(), WRITE)
        self._watcher.start(self._writable)

    def append(self, data: bytes) -> None:
        self._chunks.append(memoryview(data))
        self.size += len(data)

    def note_progress(self) -> None:
        """Check whether the peer has acknowledged bytes since the last check.

        The watcher alone does not show it: with a send buffer of some MB the kernel reports it as writable only when a
        third is free (sk_stream_write_space), which takes 7 s at 120 KB/s.
        """
        before, self._acknowledged_bytes = self._acknowledged_bytes, self._count_acknowledged()
        if self._acknowledged_bytes > before:
            self.progress_at = time.monotonic()

    def _count_acknowledged(self) -> int:
        """Bytes sent that the peer's kernel has acknowledged (SIOCOUTQ, tcp(7) and unix(7))."""
        try:
            (queued,) = struct.unpack("i", ioctl(self._conn.sock.fileno(), TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):  # broken or closed
            queued = 0
        return self._conn.sent_bytes - int(queued)

    def _next_chunk(self) -> memoryview:
        """The first chunk, joined with the small ones behind it, so that they cost one system call together."""
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
        if sent:
            self.size -= sent
            self.progress_at = self._conn.outbox_sent(sent)
        if sent < len(chunk):
            self._chunks.appendleft(chunk[sent:])
        elif not self._chunks:
            self.stop()
            self._conn.outbox_emptied()

    def stop(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self.emptied.set()
