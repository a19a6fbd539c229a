"""replay(): a recorded connection as a regression test of a service.

The service runs in a Conversation, so the clock is virtual: a recording of an hour is replayed at once. What the client
sent is sent again, with the same cuts. Before each of these sends, and at the end, the service must have sent what it
had sent by then in the recording, and nothing more: so how replies are cut does not matter, and a reply that comes
before the end of its request is found.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gserver.codecs import Raw
from gserver.connection.connection import Address
from gserver.errors import CloseReason
from gserver.testing.conversation import Conversation
from gserver.transcript import END_CLOSED, END_MASK_FAILED, IN, OUT, Event, Recorded, read_transcript
from gserver.user_errors import described

__all__ = ["replay"]

# How much longer than in the recording a reply may take, in seconds of the virtual clock.
LATE_S = 5.0
# Data in a message: the bytes around the first difference, and the lines of a diff.
SHOWN_BYTES = 40
SHOWN_LINES = 30
#: Close reasons that follow from what the client has sent. The others come from the server's life.
_OF_THE_SERVICE = {
    *(CloseReason.FINISHED, CloseReason.PROTOCOL_ERROR, CloseReason.HANDLER_ERROR),
    *(CloseReason.EOF_IN_MESSAGE, CloseReason.PEER_EOF),
}
#: With timing, these are due at their time too.
_OF_TIME = {
    *(CloseReason.FIRST_BYTE_TIMEOUT, CloseReason.IDLE_TIMEOUT, CloseReason.READ_IDLE_TIMEOUT),
    *(CloseReason.MESSAGE_TIMEOUT, CloseReason.HANDLER_TIMEOUT, CloseReason.DEADLINE),
}


def replay(
    file: str | os.PathLike[str],
    app: Any,
    *,
    connection: str | None = None,
    timing: bool = False,
    normalize: Callable[[bytes], bytes] | None = None,
    **settings: Any,
) -> None:
    """Send a service what a recorded client sent, and check that it answers as it did in the recording.

        replay("ping.jsonl", app)

    Args:
        file: a transcript of `gserverctl record`.
        app: a Service, a JsonService, a @stream function, or the text of one: "MODULE:NAME". It runs in a
            gserver.testing.Conversation, with a clock of its own.
        connection: the id of the connection to replay; default: the only one in the file.
        timing: True: the same time passes between the events as in the recording, for a service that sends by itself or
            whose deadlines matter. False (default): only the time passes that the service needs for its replies.
        normalize: called with the bytes of the recording and with those of the service, before they are compared; it
            returns them without what differs each time, such as times and ids. It gets the replies to one or more
            messages, from one send of the client to the next.
        settings: settings of gserver by their names, as for Conversation.

    It compares the bytes of the replies, whether each came after all of its request, and how the service closed the
    connection.

    Raises:
        AssertionError: the service answers differently. The text has the line of the transcript, and the difference.
        ValueError: the transcript cannot be replayed: it is not valid, has another schema, does not begin with the
            first byte of the connection, or lacks data; or `connection` must be given.
        OSError: the file cannot be read.
        ConfigError: as Conversation.
    """
    __tracebackhide__ = True
    recorded = _chosen(os.fspath(file), connection)
    with Conversation(app, peer=_peer_of(recorded), codec=Raw(), raise_errors=False, **settings) as conversation:
        _Replay(os.fspath(file), recorded, conversation, timing, normalize).run()


def _chosen(file: str, connection: str | None) -> Recorded:
    try:
        found = read_transcript(Path(file).read_bytes())
        if connection is None and len(found) > 1:
            raise ValueError(f"it has several connections, choose one with connection=: {_names(found)}")
        chosen = next(iter(found.values())) if connection is None else found.get(connection)
        if chosen is None:
            raise ValueError(f"it has no connection {connection!r}, must be one of: {_names(found)}")
        _check(chosen)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return chosen


def _names(found: dict[str, Recorded]) -> str:
    shown = list(found)[:20]
    return ", ".join(shown) + (f" and {len(found) - 20} more" if len(found) > 20 else "")


def _check(recorded: Recorded) -> None:
    """ValueError if something of the connection is missing."""
    if recorded.header.get("from_first_byte") is not True:
        raise ValueError(
            f"line {recorded.line}: the recording began in the middle of connection {recorded.connection}; to replay "
            "one, begin with gserverctl record --addr before the client connects"
        )
    for event in recorded.events:
        if event.kind == "dropped":
            raise ValueError(f"line {event.line}: data of connection {recorded.connection} was dropped here")
        if event.kind == "end" and event.row["end"] == END_MASK_FAILED:
            raise ValueError(f"line {event.line}: the recording ended here: {event.row.get('error')}")


def _peer_of(recorded: Recorded) -> Address | None:
    """The recorded address of the client, as conn.peer had it."""
    peer = str(recorded.header.get("peer", ""))
    if peer.startswith("unix:"):
        return peer.removeprefix("unix:")
    host, _, port = peer.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        return None
    return (host[1:-1], int(port), 0, 0) if host.startswith("[") else (host, int(port))


class _Replay:
    def __init__(
        self,
        file: str,
        recorded: Recorded,
        conversation: Conversation,
        timing: bool,
        normalize: Callable[[bytes], bytes] | None,
    ) -> None:
        self._file = file
        self._recorded = recorded
        self._conversation = conversation
        self._timing = timing
        self._normalize = normalize or bytes
        self._now = 0.0  # how much time has passed on the clock of the conversation
        self._compared = 0  # bytes of the service that were compared
        self._sent: list[Event] = []  # what the client sent since the last comparison
        self._replies: list[Event] = []  # what the service sent in the recording since then

    def run(self) -> None:
        __tracebackhide__ = True
        end: Event | None = None
        for event in self._recorded.events:
            if event.kind == OUT:
                self._replies.append(event)
            elif event.kind == "end":
                end = event
                break
            else:
                self._compare(event)
                self._send(event)
        self._compare(end, may_have_more=not _is_complete(end))
        if end is not None:
            self._compare_end(end)

    def _send(self, event: Event) -> None:
        """What the client did at this event."""
        __tracebackhide__ = True
        conversation = self._conversation
        if conversation.close_reason is not None:
            reason = conversation.close_reason.value
            raise self._failure(event.line, f"the service has closed the connection before this was sent: {reason}")
        self._sent.append(event)
        if event.kind == IN:
            conversation.send(event.data)
        elif event.kind == "eof":
            conversation.finish()

    # Comparing

    def _compare(self, following: Event | None, may_have_more: bool = False) -> None:
        """Wait for the replies that were recorded before an event; AssertionError if there are others.

        Args:
            following: the event; None: the recording ends.
            may_have_more: whether the service may have sent more than was recorded.
        """
        __tracebackhide__ = True
        expected = self._normalize(b"".join(event.data for event in self._replies))
        if self._timing and following is not None:
            self._advance(following.time - self._now)
        until = self._now + self._recorded_wait() + LATE_S
        while not self._is_same(expected, may_have_more) and self._now < until:
            if self._timing and following is not None and following.kind != "end":
                break
            self._now += self._conversation.advance_to_timer(until - self._now)
        if not self._is_same(expected, may_have_more):
            raise self._difference(following)
        self._compared = len(self._conversation.received_bytes)
        self._sent, self._replies = [], []

    def _recorded_wait(self) -> float:
        """How long the service took for the replies that are awaited, in the recording."""
        if not self._replies:
            return 0.0
        return self._replies[-1].time - (self._sent[0].time if self._sent else 0.0)

    def _answered(self) -> bytes:
        return self._conversation.received_bytes[self._compared :]

    def _is_same(self, expected: bytes, may_have_more: bool) -> bool:
        answered = self._normalize(self._answered())
        return answered.startswith(expected) if may_have_more else answered == expected

    def _advance(self, seconds: float) -> None:
        __tracebackhide__ = True
        if seconds > 0:
            self._conversation.advance(seconds)
            self._now += seconds

    def _compare_end(self, end: Event) -> None:
        __tracebackhide__ = True
        checked = _OF_THE_SERVICE | _OF_TIME if self._timing else _OF_THE_SERVICE
        recorded = _reason_of(end)
        if recorded not in checked:
            return
        until = self._now + LATE_S
        while self._conversation.close_reason is None and self._now < until:
            self._now += self._conversation.advance_to_timer(until - self._now)
        reason = self._conversation.close_reason
        if reason is not recorded:
            now = "leaves it open" if reason is None else f"closes it with {reason.value}"
            raise self._failure(end.line, f"in the recording the service closed with {recorded.value}, now it {now}")

    # Failures

    def _difference(self, following: Event | None) -> AssertionError:
        expected = self._normalize(b"".join(event.data for event in self._replies))
        answered = self._normalize(self._answered())
        at = _first_difference(expected, answered)
        if at == len(expected) and following is not None and following.kind in (IN, "eof"):
            line, what = following.line, "the service has sent this before the client sent what is in this line"
            if expected:
                what = "the service has sent more than in the recording, before the client sent what is in this line"
        elif at == len(expected):
            line = self._recorded.line if following is None else following.line
            what = "the service has sent more than in the recording"
        else:
            line = self._line_at(at)
            what = "the service has not sent this" if at == len(answered) else "the service has sent something else"
        return self._failure(line, what, _differing(expected, answered, at))

    def _line_at(self, offset: int) -> int:
        """The line of the transcript with this byte of the replies; with normalize, that of the first of them."""
        if self._normalize is not bytes:
            return self._replies[0].line
        for event in self._replies:
            if offset < len(event.data):
                return event.line
            offset -= len(event.data)
        return self._replies[-1].line

    def _failure(self, line: int, what: str, details: Sequence[str] = ()) -> AssertionError:
        text = [f"{self._file}:{line}: {what}"]
        if self._sent:
            last = self._sent[-1]
            text.append(
                f"  the client:   line {last.line}: {_shown(last.data) if last.kind == IN else 'closes its side'}"
            )
        text += [f"  {each}" for each in details]
        errors = self._conversation.errors
        text += [f"  the service has raised: {described(error)}" for error in errors[:3]]
        failure = AssertionError("\n".join(text))
        failure.__cause__ = errors[0] if errors else None
        return failure


def _reason_of(end: Event) -> CloseReason | None:
    try:
        return CloseReason(end.row.get("close_reason"))
    except ValueError:
        return None


def _is_complete(end: Event | None) -> bool:
    """Whether the service had sent all its replies at the end: not if the recording was ended before, for example."""
    return end is not None and end.row["end"] == END_CLOSED and _reason_of(end) in _OF_THE_SERVICE


def _first_difference(one: bytes, other: bytes) -> int:
    both = min(len(one), len(other))
    return next((at for at in range(both) if one[at] != other[at]), both)


def _differing(expected: bytes, answered: bytes, at: int) -> list[str]:
    """The two sides in lines: a diff if they are text of several lines, else the bytes around the difference."""
    recorded, now = _lines_of(expected), _lines_of(answered)
    if recorded != now and max(len(recorded), len(now)) > 1:
        lines = list(difflib.unified_diff(recorded, now, "recorded", "now", lineterm="", n=2))
        return lines if len(lines) <= SHOWN_LINES else [*lines[:SHOWN_LINES], f"... {len(lines) - SHOWN_LINES} more"]
    where = f"the first difference is at byte {at}"
    return [f"recorded:     {_shown(expected, at)}", f"now:          {_shown(answered, at)}", where]


def _lines_of(data: bytes) -> list[str]:
    """The lines of text; none if it is no text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return []
    lines = [line if line.isprintable() else ascii(line)[1:-1] for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _shown(data: bytes, at: int = 0) -> str:
    """Bytes around a place, as a literal of Python."""
    start, end = max(0, at - SHOWN_BYTES), at + SHOWN_BYTES
    before, after = "..." if start else "", "..." if end < len(data) else ""
    return f"{before}{data[start:end]!r}{after}"
