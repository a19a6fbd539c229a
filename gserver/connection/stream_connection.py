"""The connection of a @stream handler: the handler reads it by itself.

Two ways to read, of which a handler uses one: bytes (`recv`, `read_exactly`) or the codec's messages (`for message in
conn`). Both end when the peer has finished. When the server drains, they end with what had been received by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

from gserver.connection.connection import Connection, State
from gserver.connection.time_slice import SLICE_S, Fairness
from gserver.counters import MESSAGES, Counters
from gserver.errors import CloseReason, ConnectionClosed, IncompleteMessage

__all__ = ["LOOK_EVERY", "RECEIVE_BYTES", "StreamConnection", "Throttle"]

RECEIVE_BYTES = 64 * 1024

_OPEN = State.OPEN  # a member looked up on its class costs as much as a call on Python 3.11

# A handler that iterates over messages may have to give way after so many, if it is time.
LOOK_EVERY = 16

#: Called as throttle(conn, received_bytes); it may block, or raise a LimitExceeded.
Throttle = Callable[["StreamConnection", int], None]


class StreamConnection(Connection):
    """A connection as a @stream handler sees it: a Connection that can be read."""

    __slots__ = (
        "_at_end",
        "_is_dry",
        "_is_handled",
        "_messages",
        "_owed_bytes",
        "_read_began",
        "_read_until",
        "_reader",
        "_slice_began",
        "counters",
        "fairness",
        "metered_messages",
        "throttle",
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counters: Counters  # where its messages are counted; the engine's
        self.fairness: Fairness  # the engine's
        self.throttle: Throttle | None = None  # what happens after each receive; the engine's
        self.metered_messages = 0  # how many of its messages the throttle knows of
        # Since when its handler has had the processor, as far as is known; None: since it received something.
        self._slice_began: float | None = self.active_at
        self._at_end = False  # the peer has finished
        self._is_dry = False  # the kernel had no more: to ask again before it says so costs a third of an echo
        self._owed_bytes = 0  # once draining: what had been received by then and not been read
        self._is_handled = False
        self._reader: Any = None  # the greenlet that waits for input
        self._read_until = self.active_at  # when one last did
        self._read_began: float | None = (
            None  # when the first of the bytes came that read_exactly() has and waits for more
        )
        self._messages: Iterator[Any] = iter(())  # decoded, and not handed over yet

    def recv(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return up to `max_bytes` bytes as soon as there are any; b"" when there will be no more.

        Raises ConnectionClosed when the connection broke, or was closed on this side, and a MessageTimeout where that
        is why it will be closed; a LimitExceeded where it sends too fast.
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
            self._give_way()
        self._owed_bytes -= size
        self._at_end = size == 0
        self._is_dry = size < max_bytes and not (self.is_sealed and self.has_buffered)
        if self.throttle is not None:
            self.throttle(self, size)

    def _give_way(self) -> None:
        """A handler that always finds something to read would otherwise never let anybody else go."""
        self.fairness.let_others_go()
        self._slice_began = time.monotonic()

    def read_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises ConnectionClosed as recv() does, and when there will be no more bytes at all; IncompleteMessage when
        there were some and the peer finished.
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
        """The codec's messages, a Malformed among them where the content was not valid; raises its ProtocolErrors.

        There is one iteration: a loop that was left, or a next(), goes on where it stood.
        """
        return self

    def __next__(self) -> Any:
        while True:
            for message in self._messages:
                self.messages += 1
                self.counters.cells[MESSAGES] += 1
                if not self.messages % LOOK_EVERY and time.monotonic() - (self._slice_began or 0.0) > SLICE_S:
                    self._give_way()
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
        return self._is_handled

    def close(self, reason: CloseReason = CloseReason.FINISHED) -> None:
        """As Connection's, but at once: there is no reply to wait for."""
        super().close(reason)
        self._finish_if_sent()

    def handler_starts(self) -> None:
        self._is_handled = True

    def handler_returned(self) -> None:
        self._is_handled = False
        if self.close_reason is not None:
            self.turn_over()

    @property
    def peer_finished(self) -> bool:
        return self._at_end

    @property
    def awaits_first_answer(self) -> bool:
        return self.messages == 0 and self.sent_bytes == 0

    @property
    def is_listening(self) -> bool:
        return self.state is State.OPEN and self._reader is not None

    @property
    def message_since(self) -> float | None:
        return super().message_since if self._read_began is None else self._read_began

    def fail_reading(self, error: Exception) -> None:
        """Raise `error` in the greenlet that waits for input, if one does. From the hub only."""
        if self._reader is not None:
            self._reader.throw(error)

    def _wait_readable(self) -> None:
        self._reader = getcurrent()
        # Only while somebody reads is the peer the one that is silent.
        self.received_at += max(0.0, time.monotonic() - max(self._read_until, self.received_at))
        if (self._read_began or self._message_began) and self.message_since is not None:
            self._owner.connection_waits(self)
        if not self.watcher.active:
            self.watcher.start(self._readable)
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
