"""The transcript of recorded connections: lines of JSON, as `gserverctl record` writes them. Pure.

    {"format": "gserver-transcript", "schema": 1, "connection": "4712-18", "from_first_byte": true, ...}
    {"time": 0.000512, "connection": "4712-18", "in": "ping\\n"}
    {"time": 0.000731, "connection": "4712-18", "out": "pong\\n"}
    {"time": 2.104377, "connection": "4712-18", "eof": true}
    {"time": 2.104402, "connection": "4712-18", "end": "closed", "close_reason": "peer_eof", "unsent_bytes": 0}

docs/recording.md describes it. A connection has a header, then its events in order. The lines of several connections
may be mixed. Data is text where it is UTF-8, else base64 (`in_base64`, `out_base64`). Long data is several lines, all
but the last of them with `"more": true`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ENDS",
    "END_CLOSED",
    "END_LIMIT",
    "END_LOST",
    "END_MASK_FAILED",
    "END_SECONDS",
    "END_STOPPED",
    "FORMAT",
    "IN",
    "OUT",
    "SCHEMA",
    "Event",
    "Recorded",
    "data_rows",
    "encode_row",
    "event_row",
    "header_row",
    "read_transcript",
]

FORMAT = "gserver-transcript"
SCHEMA = 1
IN, OUT = "in", "out"
#: Why the record of a connection ends. closed: the connection was closed. The others end the recording, and the
#: connection went on: the operator ended it, its time or its limit was reached, the function record_mask failed, or the
#: worker or the server ended without its last lines.
ENDS = END_CLOSED, END_STOPPED, END_SECONDS, END_LIMIT, END_MASK_FAILED, END_LOST = (
    "closed",
    "stopped",
    "seconds",
    "limit",
    "mask_failed",
    "lost",
)
# A row must fit into a page of gserver.worker.inspection. In JSON a byte may take six.
MAX_ROW_CHARACTERS = 24 * 1024
FIRST_PIECE_BYTES = 16 * 1024
_TIME_DIGITS = 6

Row = dict[str, Any]


# Writing


def header_row(connection: str, **facts: Any) -> Row:
    """The first line of a connection."""
    return {"format": FORMAT, "schema": SCHEMA, "connection": connection, **facts}


def event_row(time_s: float, connection: str, **content: Any) -> Row:
    """A line that has no data."""
    return {"time": round(time_s, _TIME_DIGITS), "connection": connection, **content}


def data_rows(time_s: float, connection: str, direction: str, data: bytes) -> Iterator[Row]:
    """The lines of bytes that were received (IN) or sent (OUT): one, or several if they are long."""
    pieces = _pieces(data)
    piece = next(pieces, None)
    while piece is not None:
        following = next(pieces, None)
        name, content = _as_json(direction, piece)
        more = {} if following is None else {"more": True}
        yield event_row(time_s, connection, **{name: content}, **more)
        piece = following


def _pieces(data: bytes) -> Iterator[bytes]:
    """Parts that are short enough for one line each, and not cut inside a character if the data is text."""
    start, is_text = 0, _text_of(data) is not None
    while start < len(data):
        end = start + FIRST_PIECE_BYTES
        while True:
            if is_text and end < len(data):
                while data[end] & 0xC0 == 0x80:  # a byte that continues a character of UTF-8
                    end -= 1
            piece = data[start:end]
            if len(json.dumps(_as_json(IN, piece)[1])) <= MAX_ROW_CHARACTERS:
                break
            end = start + (end - start) // 2
        yield piece
        start = start + len(piece)


def _as_json(direction: str, data: bytes) -> tuple[str, str]:
    text = _text_of(data)
    if text is None:
        return f"{direction}_base64", base64.b64encode(data).decode("ascii")
    return direction, text


def _text_of(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of a transcript, in UTF-8. What cannot be printed is escaped: it could control a terminal."""
    text = json.dumps(row, ensure_ascii=False)
    if not text.isprintable():
        text = "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
        text = text.replace("\x7f", "\\u007f")  # the only one that JSON leaves as it is
    return text.encode("utf-8") + b"\n"


# Reading


@dataclass(frozen=True)
class Event:
    """Something that happened on a connection.

    Attributes:
        line: its line in the transcript, from 1; of data in several lines, the first one.
        time: seconds since the record of the connection began.
        kind: in, out, eof, dropped or end.
        data: the bytes of in and out.
        row: the fields of the line.
    """

    line: int
    time: float
    kind: str
    data: bytes = b""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Recorded:
    """The record of one connection.

    Attributes:
        line: the line of its header.
        header: the fields of its header.
        events: in their order.
    """

    line: int
    header: Mapping[str, Any]
    events: list[Event] = field(default_factory=list)

    @property
    def connection(self) -> str:
        return str(self.header["connection"])


def read_transcript(text: bytes) -> dict[str, Recorded]:
    """Parse a transcript; return its connections by their ids, in their order.

    ValueError names the line that is wrong. Fields and kinds of events that a later version may add are ignored.
    """
    found: dict[str, Recorded] = {}
    unfinished: dict[str, list[Event]] = {}  # pieces of data, by connection
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip():
            try:
                _read_line(number, line, found, unfinished)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    if not found:
        raise ValueError("it has no recorded connection")
    for pieces in unfinished.values():
        if pieces:
            raise ValueError(f"line {pieces[-1].line}: the data that follows it is missing")
    return found


def _read_line(number: int, line: bytes, found: dict[str, Recorded], unfinished: dict[str, list[Event]]) -> None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("this is no line of JSON; was the recording cut off?") from None
    if not isinstance(row, dict):
        raise ValueError(f"this is {type(row).__name__}, must be an object")
    if "format" in row:
        _check_header(row)
        if row["connection"] in found:
            raise ValueError(f"there is a header of connection {row['connection']!r} already")
        found[row["connection"]] = Recorded(number, row)
        return
    recorded = found.get(row.get("connection", ""))
    if recorded is None:
        raise ValueError(f"connection {row.get('connection')!r} has no header before this line")
    event = _event(number, row)
    if event is None:
        return
    pieces = unfinished.setdefault(recorded.connection, [])
    if pieces and pieces[0].kind != event.kind:
        raise ValueError(f"the data of line {pieces[-1].line} goes on, and this is something else")
    pieces.append(event)
    if not row.get("more"):
        first, data = pieces[0], b"".join(each.data for each in pieces)
        recorded.events.append(Event(first.line, first.time, first.kind, data, event.row))
        pieces.clear()


def _check_header(row: Mapping[str, Any]) -> None:
    if row["format"] != FORMAT:
        raise ValueError(f"the format is {row['format']!r:.80}, must be {FORMAT!r}")
    schema = row.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"the schema is {schema!r:.20}, this version of gserver reads {SCHEMA}")
    if not isinstance(row.get("connection"), str):
        raise ValueError("the header has no connection")


def _event(number: int, row: Mapping[str, Any]) -> Event | None:
    time_s = row.get("time")
    if not isinstance(time_s, int | float) or isinstance(time_s, bool):
        raise ValueError(f"the time is {time_s!r:.80}, must be a number of seconds")
    for kind in (IN, OUT):
        if kind in row:
            return Event(number, time_s, kind, _text_data(row[kind]), row)
        if f"{kind}_base64" in row:
            return Event(number, time_s, kind, _base64_data(row[f"{kind}_base64"]), row)
    kinds = [kind for kind in ("eof", "dropped", "end") if kind in row]
    return Event(number, time_s, kinds[0], b"", row) if kinds else None


def _text_data(content: Any) -> bytes:
    try:
        return str.encode(content, "utf-8")
    except (TypeError, UnicodeEncodeError):
        raise ValueError(f"the data is {content!r:.80}, must be text of Unicode characters") from None


def _base64_data(content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError(f"the data is {content!r:.80}, must be base64") from None
