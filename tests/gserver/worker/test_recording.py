"""Recordings in a worker: rows, order, bounds, masks, and that a recording disturbs no connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gserver.codecs import LengthPrefixed, Lines
from gserver.connection import tap as tap_module
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, stream
from gserver.worker import recording as recording_module
from gserver.worker.inspection import PAUSE
from gserver.worker.recording import Mask, Recording
from tests.helpers.certificates import make_certificates
from tests.helpers.services import Gate, make_echo_lines, make_lines
from tests.helpers.serving import Peer, Serving
from tests.helpers.tls_client import TlsClient
from tests.helpers.waiting import wait_until

LIMIT = 1 << 30
SECRET = re.compile(rb"secret=\w+")


class Reader:
    """Reads the rows of a recording in a greenlet of its own."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.rows: list[dict[str, Any]] = []
        self._greenlet = gevent.spawn(self._read)

    def _read(self) -> None:
        for row in self.recording.rows():
            if row is PAUSE:
                gevent.sleep(0.001)
            elif row is not None:
                self.rows.append(row)

    @property
    def data(self) -> list[tuple[str, Any]]:
        """What the rows hold beside the header, without times."""
        return [next((name, row[name]) for name in row if name not in ("time", "connection")) for row in self.rows[1:]]

    def wait(self, count: int) -> list[tuple[str, Any]]:
        wait_until(lambda: len(self.data) >= count)
        return self.data

    def end(self) -> list[tuple[str, Any]]:
        """Stop the recording, and return all."""
        self.recording.stop()
        self._greenlet.join(5)
        assert self._greenlet.dead
        return self.data

    def close(self) -> None:
        self._greenlet.kill()


@pytest.fixture
def record() -> Iterator[Callable[..., Reader]]:
    """A function that records a connection, or those that it is given."""
    readers = []

    def begin(
        *conns: Connection,
        mask: Mask | None = None,
        seconds: float | None = None,
        limit: int = LIMIT,
        is_read: bool = True,
    ) -> Any:
        recording = Recording(mask, seconds, limit, lambda conn: {"app": "app"}, is_for_one=len(conns) == 1)
        for conn in conns:
            recording.add(conn)
        if not is_read:
            return recording
        readers.append(Reader(recording))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.close()
    assert tap_module._tapped == {}


def only(server: TcpServer) -> Connection:
    wait_until(lambda: server.connections)
    (conn,) = server.connections
    return conn


def met(serving: Serving, service: Any, **options: Any) -> tuple[Peer, Connection]:
    server = serving.start(service, **options)
    peer = serving.meet(server)
    return peer, only(server)


def test_a_connection_from_its_first_byte_to_its_end(serving: Serving, record: Any, greenlets: Any) -> None:
    peer, conn = met(serving, make_echo_lines(), greenlets=greenlets)
    reader = record(conn)
    assert peer.ask(b"a") == b"a"
    peer.send(b"b")
    reader.wait(3)
    peer.send(b"\n")
    assert peer.read_line() == b"b"
    peer.close()
    wait_until(lambda: reader.recording.done.is_set())

    header = reader.rows[0]
    assert (header["connection"], header["peer"], header["tls"]) == (conn.id, str(conn), None)
    assert (header["app"], header["from_first_byte"], header["is_masked"]) == ("app", True, False)
    assert reader.data == [
        *[("in", "a\n"), ("out", "a\n"), ("in", "b"), ("in", "\n"), ("out", "b\n")],
        *[("eof", True), ("end", "closed")],
    ]
    times = [row["time"] for row in reader.rows[1:]]
    assert times == sorted(times)
    assert reader.rows[-1]["close_reason"] == "peer_eof"
    assert reader.recording.ended == "closed"


def test_a_connection_from_its_middle(serving: Serving, record: Any) -> None:
    gate = Gate()
    peer, conn = met(serving, gate.service())
    peer.send(b"wait\n")
    wait_until(lambda: gate.waiting)
    reader = record(conn)
    gate.opened.set()
    assert peer.read_line() == b"did wait"

    assert reader.end() == [("out", "did wait\n"), ("end", "stopped")]
    assert reader.rows[0]["from_first_byte"] is False
    assert peer.ask(b"a") == b"did a"


def test_length_prefixed_messages(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, Service(lambda message, conn: message[::-1], LengthPrefixed))
    reader = record(conn)
    peer.send(b"\0\0\0\3abc\0\0\0\2\xff\0")
    assert peer.read_exactly(13) == b"\0\0\0\3cba\0\0\0\2\0\xff"

    assert reader.end()[:2] == [("in_base64", "AAAAA2FiYwAAAAL/AA=="), ("out_base64", "AAAAA2NiYQAAAAIA/w==")]


@pytest.mark.parametrize("is_stream", [False, True])
def test_tls_is_recorded_as_plaintext(serving: Serving, record: Any, tmp_path: Path, is_stream: bool) -> None:
    files = make_certificates(tmp_path)

    @stream
    def echo(conn: StreamConnection) -> None:
        while data := conn.recv():
            conn.write(data)

    server = serving.start(echo if is_stream else make_echo_lines(), certfile=files.certfile, keyfile=files.keyfile)
    peer, client = serving.connect(server), TlsClient(files.client_context())
    peer.send(client.handshake())
    while not client.is_complete:
        peer.send(client.handshake(peer.read()))
    conn = only(server)
    wait_until(lambda: conn.tls is not None)
    reader = record(conn)
    peer.send(client.encrypt(b"hello\n"))
    assert reader.wait(2) == [("in", "hello\n"), ("out", "hello\n")]
    assert reader.rows[0]["tls"] == "TLSv1.3"
    assert reader.end()[2:] == [("end", "stopped")]
    peer.send(client.encrypt(b"again\n"))
    answer = b""
    while answer != b"hello\nagain\n":
        answer += client.decrypt(peer.read())
    assert conn.is_sealed


def test_several_connections_have_each_an_end(serving: Serving, record: Any) -> None:
    server = serving.start(make_echo_lines())
    peers = [serving.meet(server) for _ in range(3)]
    conns = server.connections
    reader = record(*conns)
    for peer in peers:
        assert peer.ask(b"a") == b"a"
    peers[0].close()
    wait_until(lambda: len(server.connections) == 2)
    reader.end()

    for conn in conns:
        names = [[*row][2] for row in reader.rows if row["connection"] == conn.id and "time" in row]
        assert [name for name in names if name != "eof"] == ["in", "out", "end"]
    assert reader.recording.connections == 3


# Bounds


def test_without_a_reader_the_memory_is_bounded_and_no_peer_waits(serving: Serving, record: Any) -> None:
    peer, conn = met(
        serving,
        make_lines(lambda line, conn: b"x" * 10_000),
    )
    recording = record(conn, is_read=False)
    for _ in range(400):
        peer.send(b"a\n")
        peer.read_exactly(10_001)
    assert recording._queued.bytes < recording_module.MAX_QUEUED_BYTES + 20_000
    reader = Reader(recording)
    reader.wait(3)
    assert peer.ask(b"b") == b"x" * 10_000
    rows = reader.end()

    dropped = [content for name, content in rows if name == "dropped"]
    assert len(dropped) == 1
    kept_in = sum(len(content) for name, content in rows if name == "in")
    assert kept_in + dropped[0]["in_bytes"] == 802
    assert dropped[0]["out_bytes"] > 2_000_000
    assert [name for name, _ in rows[-3:]] == ["in", "out", "end"]
    reader.close()


def test_the_limit_is_kept(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, make_echo_lines())
    reader = record(conn, limit=10)
    assert peer.ask(b"abcd") == b"abcd"
    assert peer.ask(b"abcd") == b"abcd"
    wait_until(lambda: reader.recording.done.is_set())

    assert reader.recording.ended == "limit"
    assert reader.data[0:2] == [("in", "abcd\n"), ("out", "abcd\n")]
    assert reader.data[-1] == ("end", "limit")
    assert sum(content["in_bytes"] + content["out_bytes"] for name, content in reader.data if name == "dropped") <= 10
    assert peer.ask(b"c") == b"c"


def test_it_ends_by_itself(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, make_echo_lines())
    reader = record(conn, seconds=0.1)
    wait_until(lambda: reader.recording.done.is_set())

    assert reader.data == [("end", "seconds")]
    assert peer.ask(b"c") == b"c"


def test_a_reader_that_goes_ends_it(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, make_echo_lines())
    reader = record(conn)
    assert peer.ask(b"c") == b"c"
    reader.close()
    wait_until(lambda: reader.recording.done.is_set())

    assert type(conn) is Connection
    assert peer.ask(b"c") == b"c"


def test_too_many_connections_are_counted(serving: Serving, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "MAX_CONNECTIONS", 2)
    server = serving.start(make_echo_lines())
    for _ in range(3):
        serving.meet(server)
    reader = record(*server.connections)
    reader.end()

    assert (reader.recording.connections, reader.recording.skipped) == (2, 1)


# Masks


def hide(direction: str, data: bytes) -> bytes:
    return SECRET.sub(b"secret=***", data)


def test_a_mask_gets_whole_messages(serving: Serving, record: Any, greenlets: Any) -> None:
    """However the bytes of the client are cut, also by a reply between two parts of a message."""
    peer, conn = met(serving, make_echo_lines(), greenlets=greenlets)
    reader = record(conn, mask=hide)
    peer.send(b"first\nsecret=hun")
    assert peer.read_line() == b"first"
    gevent.sleep(0.05)
    assert "hun" not in str(reader.rows)
    peer.send(b"ter")
    gevent.sleep(0.05)
    assert "ter" not in str(reader.rows)
    peer.send(b"2\n")
    assert peer.read_line() == b"secret=hunter2"
    rows = reader.end()

    assert rows == [("in", "first\nsecret=***\n"), ("out", "first\n"), ("out", "secret=***\n"), ("end", "stopped")]
    assert reader.rows[0]["is_masked"] is True


def test_a_message_that_had_begun_before_is_not_written(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, make_echo_lines())
    peer.send(b"a\nsecret=hun")
    assert peer.read_line() == b"a"
    reader = record(conn, mask=hide)
    peer.send(b"ter2\n")
    assert peer.read_line() == b"secret=hunter2"
    assert peer.ask(b"secret=3") == b"secret=3"

    assert reader.end() == [
        ("dropped", {"events": 1, "in_bytes": 5, "out_bytes": 0}),
        *[("out", "secret=***\n"), ("in", "secret=***\n"), ("out", "secret=***\n"), ("end", "stopped")],
    ]


def test_a_mask_in_a_stream_of_messages(serving: Serving, record: Any) -> None:
    @stream(codec=Lines)
    def echo(conn: StreamConnection) -> None:
        for line in conn:
            conn.send(line)

    peer, conn = met(serving, echo)
    assert peer.is_served
    reader = record(conn, mask=hide)
    peer.send(b"secret=hun")
    wait_until(lambda: conn.received_bytes == 16)
    gevent.sleep(0.05)
    assert reader.data == []
    peer.send(b"ter2\n")
    assert peer.read_line() == b"secret=hunter2"

    assert reader.wait(2) == [("in", "secret=***\n"), ("out", "secret=***\n")]


def test_a_message_without_an_end_goes_to_the_mask_at_the_end(serving: Serving, record: Any) -> None:
    peer, conn = met(serving, make_echo_lines())
    reader = record(conn, mask=hide)
    peer.send(b"secret=h")
    peer.close()
    wait_until(lambda: reader.recording.done.is_set())

    assert reader.data == [("in", "secret=***"), ("eof", True), ("end", "closed")]


def test_a_message_of_which_a_part_was_dropped_is_not_written(
    serving: Serving, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "MAX_QUEUED_BYTES", 2000)
    peer, conn = met(serving, make_echo_lines())
    recording = record(conn, is_read=False, mask=hide)
    for part in (b"secret=" + b"a" * 3000, b"b" * 100, b"c\n"):
        before = conn.received_bytes
        peer.send(part)
        wait_until(lambda before=before, part=part: conn.received_bytes == before + len(part))  # type: ignore[misc]
    peer.read_line()
    reader = Reader(recording)
    wait_until(lambda: recording._queued.bytes == 0)
    assert peer.ask(b"d") == b"d"

    assert "aaa" not in str(reader.rows)
    assert reader.data[0] == ("dropped", {"events": 1, "in_bytes": 3007, "out_bytes": 0})
    assert reader.end()[-3:] == [("in", "d\n"), ("out", "d\n"), ("end", "stopped")]


def test_the_rest_of_a_message_that_was_dropped_is_not_written(
    serving: Serving, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, conn = met(serving, make_echo_lines())
    recording = record(conn, is_read=False, mask=hide)
    monkeypatch.setattr(recording_module, "MAX_QUEUED_BYTES", 0)
    peer.send(b"secret=hun")
    wait_until(lambda: conn.received_bytes == 10)
    monkeypatch.undo()
    reader = Reader(recording)
    reader.wait(1)
    peer.send(b"ter2\n")
    assert peer.read_line() == b"secret=hunter2"
    assert peer.ask(b"d") == b"d"

    assert [name for name, _ in reader.end()] == ["dropped", "dropped", "out", "in", "out", "end"]
    assert "ter2" not in str(reader.rows)


def fails(direction: str, data: bytes) -> bytes:
    if direction == "out":
        raise KeyError("password")
    return data


def exits(direction: str, data: bytes) -> bytes:
    raise SystemExit(3)


def waits(direction: str, data: bytes) -> bytes:
    gevent.sleep(3600)
    return data


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (fails, "KeyError: 'password'"),
        (exits, "SystemExit: 3"),
        (lambda direction, data: None, "TypeError: it returned NoneType, must be bytes"),
        (lambda direction, data: data.decode(), "TypeError: it returned str, must be bytes"),
        (waits, "TimeoutError: it took more than 0.1 s"),
    ],
)
def test_a_mask_that_fails_ends_the_recording_and_not_the_connection(
    serving: Serving, record: Any, monkeypatch: pytest.MonkeyPatch, mask: Any, error: str
) -> None:
    monkeypatch.setattr(recording_module, "MASK_S", 0.1)
    server = serving.start(make_echo_lines())
    peers = [serving.meet(server) for _ in range(2)]
    reader = record(*server.connections, mask=mask)
    for peer in peers:
        assert peer.ask(b"secret=1") == b"secret=1"
    wait_until(lambda: reader.recording.done.is_set())
    for peer in peers:
        assert peer.ask(b"secret=2") == b"secret=2"

    assert reader.recording.ended == "mask_failed"
    ends = [row for row in reader.rows if "end" in row]
    assert [row["end"] for row in ends] == ["mask_failed"] * 2
    assert ends[0]["error"].startswith(f"record_mask failed: {error}")
    assert "secret=1" not in str([row for row in reader.rows if "out" in row])
    assert {row["connection"] for row in reader.rows} == {conn.id for conn in server.connections}
