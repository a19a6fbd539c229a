"""One recording in a worker: what its connections receive and send, as the rows of a transcript.

    connection ──> Track: events that are not read yet ──> mask ──> rows

An observer of connections only appends to a Track, so a recording delays no connection. Masking and encoding happen
where the rows are read, in the greenlet that answers the arbiter. If nobody reads, at most MAX_QUEUED_BYTES and one
event are kept; what comes then is dropped and counted.

With a mask, nothing leaves before the mask has returned it. The mask gets whole messages: what is received is kept
until the codec has no incomplete message. What was received of a message before the recording began is not known, so
the rest of that message is dropped.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent.event import Event

from gserver.connection.connection import Connection, State
from gserver.connection.stream_connection import StreamConnection
from gserver.connection.tap import tap, untap
from gserver.transcript import (
    END_CLOSED,
    END_LIMIT,
    END_MASK_FAILED,
    END_SECONDS,
    END_STOPPED,
    IN,
    OUT,
    data_rows,
    event_row,
    header_row,
)
from gserver.user_errors import described
from gserver.worker.inspection import PAUSE

__all__ = ["MAX_QUEUED_BYTES", "Mask", "Recording"]

log = logging.getLogger("gserver.worker")

#: Bytes that wait to be read, of all connections of a recording; one event more may be there.
MAX_QUEUED_BYTES = 1024 * 1024
# What an event takes beside its data, in bytes.
EVENT_BYTES = 250
#: The most connections of a recording at a time; further ones are not recorded, and counted.
MAX_CONNECTIONS = 1000
# How long the mask may take for one message. It runs beside the connections, and may wait.
MASK_S = 2.0
MAX_ERROR = 500
# Kinds of events, beside IN and OUT.
DROPPED, HEADER, OTHER = "dropped", "header", "other"

#: Called as mask(direction, data) for each message: returns the bytes to write instead.
Mask = Callable[[str, bytes], bytes]


@dataclass
class _Event:
    """Something that is not read yet.

    Attributes:
        time: seconds since the record of the connection began.
        kind: in or out (content: bytes), dropped (content: counts), header or other (content: the fields of the row).
        ends_whole: of in and dropped: whether the codec had no incomplete message after the last of the received bytes;
            None: not known yet.
    """

    time: float
    kind: str
    content: Any
    ends_whole: bool | None = None

    @property
    def size(self) -> int:
        return EVENT_BYTES + (len(self.content) if self.kind in (IN, OUT) else 0)


class _Queued:
    """How many bytes wait to be read, of all tracks of a recording."""

    bytes = 0


class _Track:
    """The events of one connection that are not read yet, in their order."""

    def __init__(self, conn: Connection, queued: _Queued, has_mask: bool) -> None:
        self.conn = conn
        self.id = conn.id
        self.is_open = True
        self._began = time.monotonic()
        self._events: deque[_Event] = deque()
        self._queued = queued
        self._has_mask = has_mask
        self._last_in: _Event | None = None
        # The next bytes continue a message whose beginning is not recorded: the mask could not recognize it.
        self._is_inside = has_mask and (_is_working(conn) or _is_partial(conn))

    def __len__(self) -> int:
        return len(self._events)

    def append(self, kind: str, content: Any) -> None:
        event = _Event(time.monotonic() - self._began, kind, content)
        self._events.append(event)
        self._queued.bytes += event.size
        if kind == IN:
            self._last_in = event

    def drop(self, kind: str, size: int) -> None:
        """Count data instead of keeping it."""
        if not self._events or self._events[-1].kind != DROPPED:
            self.append(DROPPED, {"events": 0, "in_bytes": 0, "out_bytes": 0})
        event = self._events[-1]
        event.content["events"] += 1
        event.content[f"{kind}_bytes"] += size
        if kind == IN:
            event.ends_whole, self._last_in = None, event

    def drop_all(self) -> None:
        """Count all data that is not read yet instead of keeping it."""
        events = self.take_all()
        for event in events:
            if event.kind in (IN, OUT):
                self.drop(event.kind, len(event.content))
            elif event.kind == DROPPED:
                self.append(DROPPED, event.content)
            else:
                self._put_back([event], last=True)

    def take_all(self) -> list[_Event]:
        events = list(self._events)
        while self._events:
            self._pop()
        return events

    def decoded(self) -> None:
        """All that was received so far is decoded."""
        last = self._last_in
        if last is not None and last.ends_whole is None:
            last.ends_whole = not _is_partial(self.conn)

    def next(self) -> _Event | None:
        """Remove and return the next event that can be written; None: there is none yet."""
        if not self._events:
            return None
        if not self._has_mask:
            return self._pop()
        if not _is_working(self.conn):
            self.decoded()
        if self._events[0].kind == IN:
            return self._next_message()
        event = self._pop()
        if event.kind == DROPPED and event.content["in_bytes"]:
            self._is_inside = not event.ends_whole
        return event

    def _next_message(self) -> _Event | None:
        """The received bytes up to the end of a message, as one event at the time of the first of them."""
        parts: list[_Event] = []
        others: list[_Event] = []
        is_whole = is_broken = False
        while self._events and not is_whole and not is_broken:
            event = self._pop()
            if event.kind == IN:
                parts.append(event)
                is_whole = bool(event.ends_whole)
            else:
                others.append(event)
                is_broken = event.kind == DROPPED and event.content["in_bytes"] > 0
        data = b"".join([part.content for part in parts])
        message = _Event(parts[0].time, IN, data, parts[-1].ends_whole)
        if not is_whole and not is_broken and self.is_open:
            if self._last_in is parts[-1]:
                self._last_in = message
            self._put_back([message, *others])
            return None
        self._put_back(others)
        was_inside, self._is_inside = self._is_inside, False
        if was_inside or is_broken:  # what was dropped comes next, and decides on what follows it
            return _Event(message.time, DROPPED, {"events": len(parts), "in_bytes": len(data), "out_bytes": 0})
        return message

    def _pop(self) -> _Event:
        event = self._events.popleft()
        self._queued.bytes -= event.size
        return event

    def _put_back(self, events: list[_Event], last: bool = False) -> None:
        if last:
            self._events.extend(events)
        else:
            self._events.extendleft(reversed(events))
        self._queued.bytes += sum(event.size for event in events)


def _is_partial(conn: Connection) -> bool:
    try:
        return bool(conn.codec.partial)
    except Exception:  # of the user's codec
        return True


def _is_working(conn: Connection) -> bool:
    """Whether received bytes may not be decoded yet: a turn runs, or a stream function does not wait for input."""
    if isinstance(conn, StreamConnection):
        return conn.is_handled and not conn.is_listening
    return conn.turn_replies is not None or conn.runner is not None


class Recording:
    """Records connections, from add() on until each is closed, or stop(). An Observer of gserver.connection.tap.

    Args:
        mask: see Mask; None: nothing is masked.
        seconds: after which it stops by itself; None: it does not.
        limit_bytes: how much data it returns at most; then it stops by itself.
        facts: returns what the header of a connection has beside the usual fields.
        is_for_one: it ends with its first connection.

    Attributes:
        done: set when its rows were read, or nobody reads them any more.
        ended: why it has ended: one of gserver.transcript.ENDS; None: it has not.
        connections: how many were recorded.
        skipped: how many were not, because there were too many at a time.
    """

    def __init__(
        self,
        mask: Mask | None,
        seconds: float | None,
        limit_bytes: int,
        facts: Callable[[Connection], dict[str, Any]],
        is_for_one: bool,
    ) -> None:
        self.done = Event()
        self.ended: str | None = None
        self.connections = self.skipped = 0
        self._mask = mask
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._left_bytes = limit_bytes
        self._facts = facts
        self._is_for_one = is_for_one
        self._tracks: dict[Connection, _Track] = {}
        self._queued = _Queued()

    def add(self, conn: Connection) -> None:
        """Record a connection from now on. Its handshakes are complete."""
        if self.ended is not None or conn in self._tracks or conn.state is State.CLOSED:
            return
        if len(self._tracks) >= MAX_CONNECTIONS or self._is_full:
            self.skipped += 1
            return
        self.connections += 1
        track = self._tracks[conn] = _Track(conn, self._queued, self._mask is not None)
        track.append(HEADER, self._header(conn))
        tap(conn, self)

    def _header(self, conn: Connection) -> dict[str, Any]:
        return header_row(
            conn.id,
            **self._facts(conn),
            peer=str(conn),
            tls=None if conn.tls is None else conn.tls.version,
            started_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            from_first_byte=not conn.has_spoken and conn.outbox is None,
            is_masked=self._mask is not None,
        )

    @property
    def _is_full(self) -> bool:
        return self._queued.bytes >= MAX_QUEUED_BYTES

    # What a connection calls

    def receiving(self, conn: Connection) -> None:
        self._tracks[conn].decoded()

    def received(self, conn: Connection, data: bytes) -> None:
        if data:
            self._append(conn, IN, data)
        else:
            self._tracks[conn].append(OTHER, {"eof": True})

    def sent(self, conn: Connection, data: bytes) -> None:
        if data:
            self._append(conn, OUT, data)

    def _append(self, conn: Connection, kind: str, data: bytes) -> None:
        if self._is_full:
            self._tracks[conn].drop(kind, len(data))
        else:
            self._tracks[conn].append(kind, data)

    def closed(self, conn: Connection, unsent_bytes: int) -> None:
        reason = None if conn.close_reason is None else conn.close_reason.value
        self._end_track(self._tracks[conn], END_CLOSED, close_reason=reason, unsent_bytes=unsent_bytes)

    # Ending

    def stop(self, reason: str = END_STOPPED) -> None:
        """Record nothing more. What was recorded can still be read, and then why it has ended."""
        if self.ended is None:
            self.ended = reason
            for track in self._tracks.values():
                if track.is_open:
                    self._end_track(track, reason)

    def _end_track(self, track: _Track, reason: str, **content: Any) -> None:
        untap(track.conn, self)
        track.is_open = False
        track.append(OTHER, {"end": reason, **content})

    def _limit_reached(self) -> None:
        for track in self._tracks.values():
            track.drop_all()
        self.stop(END_LIMIT)

    def _mask_failed(self, error: BaseException) -> None:
        """The connections go on. What was not masked yet is thrown away, also of those that are closed."""
        text = f"record_mask failed: {described(error)}"[:MAX_ERROR]
        log.error("Recording ended: %s", text, exc_info=error)
        self.ended = END_MASK_FAILED
        for track in self._tracks.values():
            headers = [event for event in track.take_all() if event.kind == HEADER]
            for event in headers:
                track.append(HEADER, event.content)
            self._end_track(track, END_MASK_FAILED, error=text)

    # Reading

    def rows(self) -> Iterator[Any]:
        """The rows of the transcript, until it has ended. PAUSE: there is none now. None: others may run."""
        try:
            while True:
                for conn, track in list(self._tracks.items()):
                    yield from self._rows_of(track)
                    if not track.is_open and not track:
                        del self._tracks[conn]
                if self.ended is None and time.monotonic() >= self._until:
                    self.stop(END_SECONDS)
                elif self.ended is None and self._is_for_one and self.connections and not self._tracks:
                    self.ended = END_CLOSED
                if self.ended is not None and not any(self._tracks.values()):
                    return
                yield PAUSE
        finally:
            self.ended = self.ended or END_STOPPED
            for track in self._tracks.values():
                untap(track.conn, self)
            self._tracks.clear()
            self.done.set()

    def _rows_of(self, track: _Track) -> Iterator[Any]:
        """The rows of one connection, as many as were there when it began: the others have a turn."""
        for _ in range(len(track)):
            event = track.next()
            if event is None:
                return
            if event.kind == HEADER:
                yield event.content
            elif event.kind == DROPPED:
                yield event_row(event.time, track.id, dropped=event.content)
            elif event.kind == OTHER:
                yield event_row(event.time, track.id, **event.content)
            else:
                yield from self._data_rows(track, event)
            yield None

    def _data_rows(self, track: _Track, event: _Event) -> Iterator[Any]:
        try:
            data = self._masked(event.kind, event.content)
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            self._mask_failed(error)
            return
        if len(data) <= self._left_bytes:
            self._left_bytes -= len(data)
            yield from data_rows(event.time, track.id, event.kind, data)
        else:
            counts = {"events": 1, "in_bytes": 0, "out_bytes": 0, f"{event.kind}_bytes": len(data)}
            yield event_row(event.time, track.id, dropped=counts)
            self._limit_reached()

    def _masked(self, kind: str, data: bytes) -> bytes:
        if self._mask is None:
            return data
        with gevent.Timeout(MASK_S, TimeoutError(f"it took more than {MASK_S:g} s")):
            masked: object = self._mask(kind, data)
        if not isinstance(masked, bytes):
            raise TypeError(f"it returned {type(masked).__name__}, must be bytes")
        return masked
