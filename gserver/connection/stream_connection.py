"""The connection of a @stream handler, which the handler reads by itself.

There are two ways to read, and a handler uses one of them: bytes (`recv`, `read_exactly`), or the codec's messages
(`for message in conn`). Both end when the peer has closed its side. When the server drains, they end with the bytes
that were received by then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

from gevent import get_hub
from greenlet import getcurrent

from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.connection.connection import Connection, State
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.counters import MESSAGES, Counters
from gserver.errors import CloseReason, ConnectionClosed, IncompleteMessage

__all__ = ["LOOK_EVERY", "StreamConnection", "Throttle"]

_OPEN = State.OPEN  # looking up an enum member on its class costs as much as a call on Python 3.11

# A handler that iterates over messages checks its time slice after so many.
LOOK_EVERY = 16


class Throttle(Protocol):
    """Limits how fast the handler of a connection reads."""

    def __call__(self, conn: StreamConnection, received_bytes: int, /) -> None:
        """Called after each receive. It may block, or raise LimitExceeded."""

    def end(self) -> None:
        """Throttle no connection any more: another one takes over."""


class StreamConnection(Connection):
    """A Connection that its @stream handler reads.

    Example:
        @stream
        def app(conn):
            size = conn.read_exactly(1)[0]
            conn.write(conn.read_exactly(size).upper())

        with Conversation(app) as conv:
            assert conv.send(b"\\5hello") == [b"HELLO"]
    """

    __slots__ = (
        "_at_end",
        "_counters",
        "_fairness",
        "_is_dry",
        "_is_handled",
        "_messages",
        "_metered_messages",
        "_owed_bytes",
        "_read_began",
        "_read_until",
        "_reader",
        "_slice_began",
        "_throttle",
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counters: Counters  # where its messages are counted; from handler_starts()
        self._fairness: Fairness  # from handler_starts()
        self._throttle: Throttle | None = None  # called after each receive
        self._metered_messages = 0  # messages that the throttle has counted
        # Since when the handler has run without waiting, as far as is known; None: the next receive sets it.
        self._slice_began: float | None = self.active_at
        self._at_end = False  # the peer has closed its side
        # The kernel had no more input: wait for the watcher, because a receive in vain costs a third of an echo.
        self._is_dry = False
        self._owed_bytes = 0  # once draining: bytes that were received by then and are not read yet
        self._is_handled = False
        self._reader: Any = None  # the greenlet that waits for input
        self._read_until = self.active_at  # when a greenlet last waited for input
        # When the first bytes came of an incomplete read_exactly().
        self._read_began: float | None = None
        self._messages: Iterator[Any] = iter(())  # decoded, but not returned yet

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), "peer_finished", "read_exactly", "recv"])

    def change_throttle(self, throttle: Throttle | None) -> None:
        """Call another throttle, or none, after each receive from now on."""
        self._throttle = throttle
        self._metered_messages = self.messages

    def recv(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return up to `max_bytes` bytes (default 64 KiB) as soon as there are any; b"" when no more will come.

        Blocks the calling greenlet.

        Raises ConnectionClosed if the connection breaks or was closed on this side, MessageTimeout if it is closed
        because a message takes too long, and LimitExceeded if it sends too fast.

        Example:
            @stream
            def app(conn):
                while data := conn.recv(1000):
                    conn.write(data)

            with Conversation(app) as conv:
                assert conv.send(b"hello") == [b"hello"]
        """
        while max_bytes > 0 and not self._at_end:
            if self.close_reason is not None:
                raise ConnectionClosed(f"{self!r} is closed", self.close_reason)
            is_draining = self.state is not _OPEN
            if is_draining and self._owed_bytes <= 0:
                return b""
            try:
                data = self.receive(max_bytes) if is_draining or not self._is_dry else None
            except OSError as error:
                self.abort(CloseReason.PEER_RESET)
                raise ConnectionClosed(f"{self!r} broke: {error}", self.close_reason) from error
            if data is not None:
                self._received(len(data), max_bytes)
                return data
            if is_draining:
                return b""
            self._wait_readable()
        return b""

    def _received(self, size: int, max_bytes: int) -> None:
        self.received_bytes += size
        self.active_at = self.received_at = now = time.monotonic()
        if self._slice_began is None:
            self._slice_began = now
        elif now - self._slice_began > SLICE_S:
            self._yield_slice()
        self._owed_bytes -= size
        self._at_end = size == 0
        self._is_dry = size < max_bytes and not (self.is_sealed and self.has_buffered)
        if self._throttle is not None:
            self._throttle(self, size)

    def take_unmetered_messages(self) -> int:
        """Return how many messages the handler got since the last call; for the throttle."""
        count = self.messages - self._metered_messages
        self._metered_messages = self.messages
        return count

    def _yield_slice(self) -> None:
        """Let the other connections run: a handler that always finds input would never wait by itself."""
        self._fairness.yield_to_others()
        self._slice_began = time.monotonic()

    def read_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes. Blocks the calling greenlet.

        Raises what recv() raises; ConnectionClosed also if no bytes come before the end, and IncompleteMessage if the
        peer closes its side after some of them.

        Example:
            @stream
            def app(conn):
                conn.write(conn.read_exactly(4))

            with Conversation(app) as conv:
                assert conv.send(b"PINGPONG") == [b"PING"]
        """
        try:
            return self._read(size)
        finally:
            self._read_began = None

    def _read(self, size: int) -> bytes:
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
            if self._read_began is None:
                self._read_began = self.active_at
        return b"".join(chunks)

    def __iter__(self) -> StreamConnection:
        """Iterate over the codec's messages; a Malformed stands for one with invalid content.

        There is one iteration: a new loop, or next(), continues where the last one stopped. Raises what recv() raises,
        and the codec's ProtocolErrors.
        """
        return self

    def __next__(self) -> Any:
        while True:
            for message in self._messages:
                self.messages += 1
                self._counters.cells[MESSAGES] += 1
                if not self.messages % LOOK_EVERY and time.monotonic() - (self._slice_began or 0.0) > SLICE_S:
                    self._yield_slice()
                return message
            if self.codec.partial:
                self.message_began()
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
        return self._is_handled or self.tasks is not None

    def close(self, reason: CloseReason = CloseReason.FINISHED) -> None:
        """Like Connection.close(), but without waiting for the handler: it returns no reply."""
        super().close(reason)
        if self.tasks is None:
            self._finish_if_sent()

    def task_ended(self, greenlet: Any) -> None:
        super().task_ended(greenlet)
        if self.tasks is None and self.close_reason is not None:
            self._finish_if_sent()

    @property
    def is_handled(self) -> bool:
        """True until the handler has returned."""
        return self._is_handled

    def handler_starts(self, counters: Counters, fairness: Fairness, throttle: Throttle | None) -> None:
        """The engine is about to call the handler: the connection can be read from now on."""
        self._counters, self._fairness, self._throttle = counters, fairness, throttle
        self._is_handled = True
        self.make_watcher()

    def handler_returned(self) -> None:
        """The handler has returned or raised. If the connection was closed meanwhile, the close is finished."""
        self._is_handled = False
        if self.close_reason is not None:
            self.turn_over()

    @property
    def peer_finished(self) -> bool:
        """True when the peer has closed its side, and everything before that was read."""
        return self._at_end

    @property
    def awaits_first_answer(self) -> bool:
        return self.messages == 0 and self.sent_bytes == 0

    @property
    def is_listening(self) -> bool:
        return self.state is State.OPEN and self._reader is not None and self.tasks is None

    @property
    def message_since(self) -> float | None:
        return super().message_since if self._read_began is None else self._read_began

    def fail_reading(self, error: Exception) -> None:
        """Raise `error` in the greenlet that waits for input, if there is one. Must be called from the hub."""
        if self._reader is not None:
            self._reader.throw(error)

    def _wait_readable(self) -> None:
        self._reader = getcurrent()
        # The idle time counts only while a greenlet reads: only then is the peer the one that has to send.
        self.received_at += max(0.0, time.monotonic() - max(self._read_until, self.received_at))
        if (self._read_began or self._message_began) and self.message_since is not None:
            self._owner.connection_waits(self)
        if not self.watcher.active:
            self.watch(self._readable)
        try:
            get_hub().switch()
        finally:
            self._reader = self._slice_began = None
            self._read_until = time.monotonic()
            self._is_dry = False

    def _readable(self) -> None:
        if self._reader is not None:
            self._reader.switch()
        else:
            self.pause()

    def start_draining(self, reason: CloseReason = CloseReason.DRAINED) -> None:
        if not self.is_draining:
            self._owed_bytes = self.unread_bytes()
        super().start_draining(reason)
        self._wake_reader()

    def stop_watching(self) -> None:
        super().stop_watching()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None:
            get_hub().loop.run_callback(self._readable)
