"""Transcripts: what is written is read again, reads well, and a wrong line is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gserver.transcript import (
    ENDS,
    IN,
    MAX_ROW_CHARACTERS,
    OUT,
    SCHEMA,
    Recorded,
    data_rows,
    encode_row,
    event_row,
    header_row,
    read_transcript,
)

ID = "4712-18"
PAGE = Path(__file__).parents[2] / "docs/recording.md"
HEADER = header_row(ID, from_first_byte=True)
END = event_row(9, ID, end="closed", close_reason="peer_eof")


def written(*rows: dict[str, Any]) -> bytes:
    return b"".join(map(encode_row, rows))


def read(*rows: dict[str, Any]) -> Recorded:
    return read_transcript(written(HEADER, *rows))[ID]


def test_a_line_of_text_is_readable() -> None:
    (row,) = data_rows(0.1234567, ID, IN, "grüße\n".encode())

    assert encode_row(row).decode() == '{"time": 0.123457, "connection": "4712-18", "in": "grüße\\n"}\n'


def test_bytes_that_are_no_text_are_base64() -> None:
    assert list(data_rows(0, ID, OUT, b"\xff\x00")) == [{"time": 0, "connection": ID, "out_base64": "/wA="}]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x7f", "\x9b2J", "\u202e", "\u2028", "\U000e0001"])
def test_nothing_in_a_line_controls_a_terminal(text: str) -> None:
    line = encode_row(next(data_rows(0, ID, IN, text.encode())))

    assert line.decode().removesuffix("\n").isprintable()
    assert json.loads(line)["in"] == text


@given(some.binary(max_size=300) | some.text(max_size=200).map(str.encode))
def test_data_is_read_as_it_was_written(data: bytes) -> None:
    events = read(*data_rows(1.5, ID, IN, data)).events

    assert b"".join(event.data for event in events) == data


@pytest.mark.parametrize(
    "data",
    [
        bytes(100_000),
        b"a" * 100_000,
        b"\xff" * 100_000,
        "€".encode() * 50_000,
        "\U0001f600".encode() * 30_000,
        b'"' * 90_000,
    ],
    ids=["nul", "ascii", "binary", "euro", "emoji", "quotes"],
)
def test_long_data_is_several_lines_that_are_read_as_one_event(data: bytes) -> None:
    rows = list(data_rows(1, ID, OUT, data))

    assert [row.get("more", False) for row in rows] == [True] * (len(rows) - 1) + [False]
    assert max(len(json.dumps(row)) for row in rows) < MAX_ROW_CHARACTERS + 200
    assert len({tuple(sorted(row)) for row in rows}) <= 2, "text stays text"
    (event,) = read(*rows, END).events[:-1]
    assert (event.kind, event.data, event.line) == ("out", data, 2)


def test_connections_may_be_mixed() -> None:
    rows = [header_row("1-1"), header_row("1-2"), event_row(0, "1-2", eof=True), event_row(1, "1-1", eof=True)]
    found = read_transcript(written(*rows))

    assert list(found) == ["1-1", "1-2"]
    assert [event.line for each in found.values() for event in each.events] == [4, 3]


def test_what_a_later_version_adds_is_ignored() -> None:
    recorded = read({**event_row(1, ID, news=1)}, {**next(data_rows(2, ID, IN, b"a")), "extra": 1})

    assert [event.kind for event in recorded.events] == ["in"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it has no recorded connection"),
        (b"\n\n", "it has no recorded connection"),
        (written(HEADER)[:-9], "line 1: this is no line of JSON; was the recording cut off?"),
        (b"[]\n", "line 1: this is list, must be an object"),
        (written(END), "line 1: connection '4712-18' has no header before this line"),
        (written({**HEADER, "schema": SCHEMA + 1}), "line 1: the schema is 2, this version of gserver reads 1"),
        (written({**HEADER, "format": "har"}), "line 1: the format is 'har', must be 'gserver-transcript'"),
        (written({**HEADER, "connection": 5}), "line 1: the header has no connection"),
        (written(HEADER, HEADER), "line 2: there is a header of connection '4712-18' already"),
        (written(HEADER, {**END, "time": "1"}), "line 2: the time is '1', must be a number of seconds"),
        (written(HEADER, event_row(1, ID, **{"in": 5})), "line 2: the data is 5, must be text of Unicode characters"),
        (written(HEADER, event_row(1, ID, in_base64="*")), "line 2: the data is '*', must be base64"),
        (written(HEADER, event_row(1, ID, out="\ud800")), "line 2: the data is '\\ud800', must be text of Unicode"),
        (written(HEADER, event_row(1, ID, out="a", more=True)), "line 2: the data that follows it is missing"),
        (written(HEADER, event_row(1, ID, out="a", more=True), END), "line 3: the data of line 2 goes on"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(text: bytes, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_transcript(text)

    assert str(raised.value).startswith(message)


def test_the_example_of_the_page() -> None:
    page = PAGE.read_text("utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, re.M | re.S)
    (recorded,) = read_transcript(example.encode()).values()

    assert [event.kind for event in recorded.events] == ["in", "out", "in", "out", "eof", "end"]
    assert recorded.events[2].data == b"\0\xff"
    assert b"".join(encode_row(json.loads(line)) for line in example.splitlines()) == example.encode()
    for name in recorded.header:
        assert f"`{name}`" in page
    for end in ENDS:
        assert f"`{end}`" in page


def test_the_mask_of_the_page() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    exec(code, names)

    assert names["record_mask"]("in", b"user=a Password=b\xff c") == b"user=a Password=*** c"
