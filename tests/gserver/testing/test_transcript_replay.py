"""replay(): what it accepts, what it finds, and what its messages name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from gserver.codecs import LengthPrefixed, Lines, Raw
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.service import Service, stream
from gserver.testing import replay
from gserver.transcript import data_rows, encode_row, event_row, header_row
from tests.helpers.services import make_echo_lines, make_lines

ID = "4712-18"
FACTS = {"from_first_byte": True, "peer": "127.0.0.1:5000"}
Write = Callable[..., Path]
EOF = "eof"


def rows_of(*events: Any, end: str | None = "closed", reason: str = "peer_eof", name: str = ID) -> list[dict[str, Any]]:
    """The rows of a connection; b"..." after "<" is received, and after ">" is sent."""
    rows = []
    for number, event in enumerate(events):
        time_s = 0.1 * number
        if event == EOF:
            rows.append(event_row(time_s, name, eof=True))
        elif isinstance(event, dict):
            rows.append(event_row(time_s, name, **event))
        else:
            rows += data_rows(time_s, name, "in" if event[:1] == b"<" else "out", event[1:])
    if end is not None:
        closed = {"close_reason": reason} if end == "closed" else {}
        rows.append(event_row(0.1 * len(events), name, end=end, **closed))
    return rows


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a transcript of events."""

    def made(*events: Any, facts: dict[str, Any] = FACTS, **options: Any) -> Path:
        path = tmp_path / "session.jsonl"
        path.write_bytes(b"".join(map(encode_row, [header_row(ID, **facts), *rows_of(*events, **options)])))
        return path

    return made


def failure(path: Path, app: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        replay(path, app, **options)
    return str(raised.value)


ECHO = make_echo_lines()


@pytest.mark.parametrize(
    "events",
    [
        [b"<a\n", b">a\n", EOF],
        [b"<a", b"<\nb\n", b">a\n", b">b", b">\n", EOF],
        [b"<a\nb\n", b">a\nb\n", b"<c\n", b">c\n", EOF],
        [EOF],
    ],
)
@pytest.mark.parametrize("timing", [False, True])
def test_the_same_answers(write: Write, events: list[Any], timing: bool) -> None:
    replay(write(*events), ECHO, timing=timing)


def test_another_answer_is_shown_with_its_line(write: Write) -> None:
    path = write(b"<a\n", b">a\n", b"<bc\n", b">bc\n", EOF)
    text = failure(path, make_lines(lambda line, conn: line.replace(b"c", b"d")))

    assert text.splitlines() == [
        f"{path}:5: the service has sent something else",
        r"  the client:   line 4: b'bc\n'",
        r"  recorded:     b'bc\n'",
        r"  now:          b'bd\n'",
        "  the first difference is at byte 1",
    ]


def test_text_of_several_lines_is_shown_as_a_diff(write: Write) -> None:
    path = write(b"<a\nb\nc\n", b">a\nb\nc\n", EOF)
    text = failure(path, make_lines(lambda line, conn: line.replace(b"b", b"x")))

    assert [line.strip() for line in text.splitlines()[4:]] == ["@@ -1,3 +1,3 @@", "a", "-b", "+x", "c"]


def test_bytes_are_shown_around_the_difference(write: Write) -> None:
    path = write(b"<\0\0\x03\xe8" + bytes(1000), b">\0\0\x03\xe8" + bytes(1000), EOF)
    text = failure(path, Service(lambda message, conn: message[:500] + b"\xff" + message[501:], LengthPrefixed))

    assert "the first difference is at byte 504" in text
    assert max(map(len, text.splitlines())) < 400


def test_an_answer_that_is_missing(write: Write) -> None:
    path = write(b"<a\n", b">a\n", b"<b\n", b">b\n", EOF)

    assert f"{path}:5: the service has not sent this" in failure(
        path, make_lines(lambda line, conn: line if line == b"a" else None)
    )


def test_an_answer_before_its_request_is_complete(write: Write) -> None:
    path = write(b"<a", b"<b\n", b">ab\n", EOF)

    assert f"{path}:3: the service has sent this before the client sent" in failure(
        path, Service(lambda data, conn: data, Raw)
    )


def test_answers_that_were_not_recorded(write: Write) -> None:
    path = write(b"<a\n", b">a\n", b"<b\n", b">b\n", EOF)

    def twice_sent(line: bytes, conn: Connection) -> bytes:
        conn.send(line)
        return line

    twice = failure(path, make_lines(twice_sent))
    assert f"{path}:4: the service has sent more than in the recording, before the client sent" in twice


def test_an_exception_is_named(write: Write) -> None:
    path = write(b"<a\n", b">a\n", EOF)

    def broken(line: bytes, conn: Connection) -> bytes:
        raise ValueError("no such account")

    with pytest.raises(AssertionError, match="the service has raised: ValueError: no such account") as raised:
        replay(path, make_lines(broken))
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_close_that_comes_too_early(write: Write) -> None:
    path = write(b"<a\n", b">a\n", b"<b\n", b">b\n", EOF)

    def leave(line: bytes, conn: Connection) -> bytes:
        conn.close()
        return line

    text = failure(path, make_lines(leave))
    assert f"{path}:4: the service has closed the connection before this was sent: finished" in text


def test_the_close_is_compared(write: Write) -> None:
    path = write(b"<a\n", b">a\n", reason="finished")

    assert f"{path}:4: in the recording the service closed with finished, now it leaves it open" in failure(path, ECHO)


def test_the_close_reason_is_compared(write: Write) -> None:
    path = write(b"<a\n", b">a\n", reason="protocol_error")

    def leave(line: bytes, conn: Connection) -> bytes:
        conn.close()
        return line

    assert "now it closes it with finished" in failure(path, make_lines(leave))


@pytest.mark.parametrize("reason", ["drained", "administrative", "killed", "idle_timeout", "peer_reset"])
def test_a_close_by_the_server_is_not_compared(write: Write, reason: str) -> None:
    replay(write(b"<a\n", b">a\n", reason=reason), ECHO)


def test_a_deadline_is_compared_with_timing(write: Write) -> None:
    path = write(b"<a\n", b">a\n", {"unknown": 1}, reason="idle_timeout")

    replay(path, ECHO, timing=True, idle_timeout=0.2)
    assert "now it leaves it open" in failure(path, ECHO, timing=True, idle_timeout=60)


@pytest.mark.parametrize("end", ["stopped", "seconds", "limit", "lost", None])
def test_a_recording_that_ended_before_the_connection(write: Write, end: str | None) -> None:
    """The last answer may be missing in it."""
    path = write(b"<a\n", b">a\n", b"<b\n", end=end)

    replay(path, ECHO)
    assert "something else" in failure(path, make_lines(lambda line, conn: line.upper()))


def test_a_slow_service_takes_no_time(write: Write) -> None:
    def wait(line: bytes, conn: Connection) -> bytes:
        gevent.sleep(50)
        return line

    path = write(b"<a\n", *[{"unknown": 1}] * 500, b">a\n", EOF)
    replay(path, make_lines(wait))
    replay(path, make_lines(wait), timing=True)


def test_news_of_the_service_by_a_timer(write: Write) -> None:
    @stream(codec=Lines)
    def news(conn: StreamConnection) -> None:
        conn.send(b"hello")
        for line in conn:
            conn.send(line)
            gevent.sleep(0.2)
            conn.send(b"news")

    path = write(b">hello\n", b"<a\n", b">a\n", {"unknown": 1}, b">news\n", EOF)
    replay(path, news)
    replay(path, news, timing=True)


def test_what_differs_each_time_is_removed(write: Write) -> None:
    path = write(b"<a\n", b">a at 12:00\n", b"<b\n", b">b at 12:01\n", EOF)

    def without_times(data: bytes) -> bytes:
        return b"\n".join(line.partition(b" at ")[0] for line in data.split(b"\n"))

    replay(path, make_lines(lambda line, conn: line + b" at 1:30"), normalize=without_times)
    assert f"{path}:3:" in failure(path, make_lines(lambda line, conn: b"c at 1:30"), normalize=without_times)


def test_the_service_sees_the_recorded_peer(write: Write) -> None:
    app = make_lines(lambda line, conn: str(conn).encode())
    for peer in ("10.0.0.1:77", "[2001:db8::1]:77", "unix:/tmp/a"):
        replay(write(b"<a\n", b">" + peer.encode() + b"\n", EOF, facts={**FACTS, "peer": peer}), app)


def test_several_connections(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    rows = [header_row("1-1", **FACTS), header_row("1-2", **FACTS)]
    one, two = rows_of(b"<a\n", b">a\n", EOF, name="1-1"), rows_of(b"<a\n", b">A\n", EOF, name="1-2")
    rows += [row for pair in zip(one, two, strict=True) for row in pair]
    path.write_bytes(b"".join(map(encode_row, rows)))

    replay(path, ECHO, connection="1-1")
    assert f"{path}:6: the service has sent something else" in failure(path, ECHO, connection="1-2")
    with pytest.raises(ValueError, match=r"several connections, choose one with connection=: 1-1, 1-2"):
        replay(path, ECHO)
    with pytest.raises(ValueError, match=r"no connection '1-3', must be one of: 1-1, 1-2"):
        replay(path, ECHO, connection="1-3")


def test_what_cannot_be_replayed(write: Write) -> None:
    for path, message in (
        (write(b"<a\n", facts={**FACTS, "from_first_byte": False}), "line 1: the recording began in the middle of"),
        (write(b"<a\n", facts={}), "line 1: the recording began in the middle of"),
    ):
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            replay(path, ECHO)
    path = write(b"<a\n", {"dropped": {"events": 1}}, b">a\n")
    with pytest.raises(ValueError, match=f"^{path}: line 3: data of connection {ID} was dropped here"):
        replay(path, ECHO)
    path = write(b"<a\n", {"end": "mask_failed", "error": "record_mask failed: ValueError"}, end=None)
    with pytest.raises(ValueError, match="line 3: the recording ended here: record_mask failed: ValueError"):
        replay(path, ECHO)
    path.write_text("nonsense")
    with pytest.raises(ValueError, match=f"^{path}: line 1: this is no line of JSON"):
        replay(path, ECHO)
    with pytest.raises(FileNotFoundError):
        replay(path.with_name("other"), ECHO)
