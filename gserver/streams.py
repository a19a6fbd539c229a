"""@stream handlers: a greenlet for every connection, which reads it by itself.

Two ways to read, of which a handler uses one: bytes (`recv`, `read_exactly`) or the codec's messages (`for message in
conn`). Both end when the peer has finished, and when the server drains: then with what had been received by then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gevent
from gevent import get_hub
from greenlet import GreenletExit, getcurrent

from gserver.connection import READ, Connection
from gserver.errors import CloseReason, ConnectionClosed, IncompleteMessage, ProtocolError
from gserver.ledger import MESSAGES, Ledger
from gserver.service import StreamService

__all__ = ["StreamConnection", "StreamEngine"]

log = logging.getLogger("gserver.streams")

RECEIVE_BYTES = 64 * 1024


class StreamConnection(Connection):
    """A connection as a @stream handler sees it: a Connection that can be read."""

    __slots__ = ("_at_end", "_is_handled", "_messages", "_owed_bytes", "_reader", "ledger")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ledger: Ledger  # where its messages are counted; the engine's
        self._at_end = False  # the peer has finished
        self._owed_bytes = 0  # once draining: what had been received by then and not been read
        self._is_handled = True
        self._reader: Any = None  # the greenlet that waits for input
        self._messages: Iterator[Any] = iter(())  # decoded, and not handed over yet

    def recv(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return up to `max_bytes` bytes as soon as there are any; b"" when there will be no more.

        Raises ConnectionClosed when the connection broke, or was closed on this side.
        """
        while max_bytes > 0 and not self._at_end:
            if self.close_reason is not None:
                raise ConnectionClosed(f"{self!r} is closed", self.close_reason)
            if self.is_draining and self._owed_bytes <= 0:
                return b""
            try:
                data = self.sock.recv(max_bytes)
            except BlockingIOError:
                self._wait_readable()
                continue
            except OSError as error:
                self.abort(CloseReason.PEER_RESET)
                raise ConnectionClosed(f"{self!r} broke: {error}", self.close_reason) from error
            self.received_bytes += len(data)
            self._owed_bytes -= len(data)
            self._at_end = not data
            return data
        return b""

    def read_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises ConnectionClosed as recv() does, and when there will be no more bytes at all; IncompleteMessage when
        there were some and the peer finished.
        """
        chunks: list[bytes] = []
        missing = size
        while missing > 0:
            data = self.recv(min(missing, RECEIVE_BYTES))
            if not data and self._at_end and chunks:
                raise IncompleteMessage(f"the peer stopped {size - missing} bytes into {size}")
            if not data:
                raise ConnectionClosed(f"{self!r} has no more to read")
            chunks.append(data)
            missing -= len(data)
        return b"".join(chunks)

    def __iter__(self) -> StreamConnection:
        """The codec's messages, a Malformed among them where the content was not valid; raises its ProtocolErrors.

        There is one iteration: a loop that was left, or a next(), goes on where it stood.
        """
        return self

    def __next__(self) -> Any:
        while True:
            for message in self._messages:
                self.messages += 1
                self.ledger.cells[MESSAGES] += 1
                return message
            data = self.recv()
            if not data:
                break
            self.codec.receive(data)
            self._messages = iter(self.codec.messages())
        if self._at_end:
            self.codec.eof()
        raise StopIteration

    @property
    def is_busy(self) -> bool:
        return self._is_handled

    def close(self, reason: CloseReason = CloseReason.FINISHED) -> None:
        """As Connection's, but at once: there is no reply to wait for."""
        super().close(reason)
        self._finish_if_sent()

    def handler_returned(self) -> None:
        self._is_handled = False
        if self.close_reason is not None:
            self.turn_over()

    @property
    def peer_finished(self) -> bool:
        return self._at_end

    def _wait_readable(self) -> None:
        self._reader = getcurrent()
        if not self.watcher.active:
            self.watcher.start(self._readable)
        try:
            get_hub().switch()
        finally:
            self._reader = None

    def _readable(self) -> None:
        if self._reader is not None:
            self._reader.switch()
        else:
            self.pause()

    def start_draining(self) -> None:
        if not self.is_draining:
            self._owed_bytes = self.unread_bytes()
        super().start_draining()
        self._wake_reader()

    def _stop_watching(self) -> None:
        super()._stop_watching()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None:
            get_hub().loop.run_callback(self._readable)


class StreamEngine:
    """A gevent greenlet for every connection; `runner` is that greenlet."""

    def __init__(self, service: StreamService, ledger: Ledger) -> None:
        self._handle = service.handle
        self._ledger = ledger

    def add(self, conn: StreamConnection) -> None:
        conn.ledger = self._ledger
        conn.watcher = get_hub().loop.io(conn.sock.fileno(), READ)
        conn.runner = gevent.spawn(self._run, conn)

    def drain(self, conn: StreamConnection) -> None:
        conn.start_draining()

    def kill(self, conn: StreamConnection) -> None:
        gevent.kill(conn.runner)

    def forget(self, conn: StreamConnection) -> None:
        """Nothing: a handler that still runs finds its connection closed."""

    def close(self) -> None:
        """Nothing: every greenlet ends with its connection."""

    def _run(self, conn: StreamConnection) -> None:
        try:
            self._serve(conn)
        finally:
            conn.handler_returned()

    def _serve(self, conn: StreamConnection) -> None:
        try:
            self._handle(conn)
        except GreenletExit:
            conn.abort(CloseReason.KILLED)
        except ProtocolError as error:
            self._ledger.failed()
            log.debug("%s: %s", conn, error)
            conn.close(error.close_reason)
        except (Exception, gevent.Timeout) as error:
            if isinstance(error, ConnectionClosed) and (conn.peer_finished or conn.is_draining):
                conn.close(_natural_end(conn))
                return
            self._ledger.failed()
            log.exception("stream handler failed for %s", conn)
            conn.close(CloseReason.HANDLER_ERROR)
        else:
            conn.close(_natural_end(conn))


def _natural_end(conn: StreamConnection) -> CloseReason:
    """Why a handler that returned did so."""
    if conn.peer_finished:
        return CloseReason.PEER_EOF
    return CloseReason.DRAINED if conn.is_draining else CloseReason.FINISHED
