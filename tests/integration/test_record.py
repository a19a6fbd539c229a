"""gserverctl record with real servers: what it writes, how it ends, masks, and transcripts that are replayed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from gserver.control.client import ControlClient
from gserver.testing import replay
from gserver.transcript import Recorded, read_transcript
from tests.helpers.certificates import make_certificates
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

pytestmark = pytest.mark.long

APP = """
import os
import gevent
from gserver import JsonLines, JsonService, LengthPrefixed, Lines, Service, stream

def handle(line, conn):
    if line.startswith(b"wait"):
        gevent.sleep(3600)
    if line.startswith(b"exit"):
        os._exit(9)
    if line.startswith(b"block"):
        import time
        time.sleep = gevent.monkey.get_original("time", "sleep")
        time.sleep(3)
    if line.startswith(b"large"):
        return b"x" * 8_000_000
    return line.upper()

app = Service(handle, Lines)
swapped = Service(lambda line, conn: line.swapcase(), Lines)
reverse = Service(lambda message, conn: message[::-1], LengthPrefixed)
forward = Service(lambda message, conn: message, LengthPrefixed)

api = JsonService()

@api.on("ADD")
def add(request, conn):
    return {"sum": sum(request["numbers"])}

other_api = JsonService()

@other_api.on("ADD")
def add_more(request, conn):
    return {"sum": sum(request["numbers"]) + 1}

@stream(codec=Lines)
def talk(conn):
    conn.send(b"hello")
    for line in conn:
        conn.send(line * 2)
    conn.send(b"bye")

@stream(codec=Lines)
def other_talk(conn):
    conn.send(b"hello")
    for line in conn:
        conn.send(line * 2)

@stream
def raw_bytes(conn):
    while data := conn.recv(3):
        conn.write(data)

@stream
def other_bytes(conn):
    while data := conn.recv(3):
        conn.write(data.upper())

def bare(sock, address):
    while data := sock.recv(100):
        sock.sendall(data)
"""
COMMAND = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]


class Recorder:
    """A gserverctl record that runs."""

    def __init__(self, server: Server, *arguments: str, output: Path | None = None, **options: Any) -> None:
        self.path = output or server.folder / f"{len(list(server.folder.glob('*.jsonl')))}.jsonl"
        command = [*COMMAND, "-s", server.path, "record", *arguments, "-o", str(self.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def wait_for(self, text: str) -> None:
        wait_for(lambda: self.path.exists() and text in self.path.read_text(), f"{text!r} is recorded", 20)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and what it has printed on standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    @property
    def recorded(self) -> dict[str, Recorded]:
        return read_transcript(self.path.read_bytes())

    @property
    def only(self) -> Recorded:
        (recorded,) = self.recorded.values()
        return recorded


class Server(GserverProcess):
    def __init__(self, folder: Path, app: str = "app:app", *arguments: str, **options: Any) -> None:
        (folder / "app.py").write_text(APP)
        self.folder = folder
        self.path = str(folder / "ctl")
        super().__init__(folder, app, "--control-socket", self.path, *arguments, **options)
        self.recorders: list[Recorder] = []

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for recorder in self.recorders:
            recorder.process.kill()
            recorder.process.communicate()
        super().__exit__(*error)

    def record(self, *arguments: str, **options: Any) -> Recorder:
        self.recorders.append(Recorder(self, *arguments, **options))
        return self.recorders[-1]

    def record_all(self, **options: Any) -> Recorder:
        """Record everything from 127.0.0.1, from now on."""
        recorder = self.record("--addr", "127.0.0.1", **options)
        wait_for(recorder.path.exists, "the recording has begun")
        return recorder

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        with ControlClient(self.path) as client:
            return client.call(command, **arguments)

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call("connections").get("rows", [])
        return rows

    def id_of(self, client: socket.socket) -> str:
        def found() -> list[str]:
            return [row["id"] for row in self.rows() if row["peer"].endswith(f":{client.getsockname()[1]}")]

        wait_for(lambda: bool(found()), "the connection is listed")
        return found()[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as made:
        wait_for(lambda: made.call("status")["state"] == "serving", "it serves")
        yield made


def ask(client: socket.socket, data: bytes, reply: bytes) -> None:
    client.sendall(data)
    assert read(client, len(reply)) == reply


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def events(recorded: Recorded) -> list[tuple[str, bytes]]:
    return [(event.kind, event.data) for event in recorded.events]


def test_one_connection_until_it_is_closed(server: Server) -> None:
    with server.connect() as client:
        ask(client, b"a\n", b"A\n")
        name = server.id_of(client)
        recorder = server.record(name)
        recorder.wait_for("gserver-transcript")
        ask(client, b"b\n", b"B\n")
    status, errors = recorder.end()

    assert status == 0, errors
    assert recorder.only.connection == name
    assert events(recorder.only) == [("in", b"b\n"), ("out", b"B\n"), ("eof", b""), ("end", b"")]
    assert "secrets too" in errors
    assert f"recorded 1 connection to {recorder.path}: 3 events, 4 B; ended: closed" in errors
    assert stat.S_IMODE(recorder.path.stat().st_mode) == 0o600


def test_an_address_with_several_workers_until_ctrl_c(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server, contextlib.ExitStack() as stack:
        wait_for(lambda: server.call("status")["workers"]["serving"] == 2, "both serve")
        before = stack.enter_context(server.connect())
        ask(before, b"a\n", b"A\n")
        recorder = server.record_all()
        recorder.wait_for("gserver-transcript")
        clients = [stack.enter_context(server.connect()) for _ in range(8)]
        for client in clients:
            ask(client, b"b\n", b"B\n")
        clients[0].close()
        ask(before, b"c\n", b"C\n")
        recorder.wait_for('"C\\n"')
        recorder.interrupt()
        status, errors = recorder.end()

        assert status == 0, errors
        assert "recorded 9 connections" in errors
        assert "ended: stopped" in errors
        assert [each.header["from_first_byte"] for each in recorder.recorded.values()].count(False) == 1
        ends = [each.events[-1].row["end"] for each in recorder.recorded.values()]
        assert sorted(ends) == ["closed"] + ["stopped"] * 8
        assert len({name.partition("-")[0] for name in recorder.recorded}) == 2
        ask(before, b"d\n", b"D\n")


@pytest.mark.parametrize("arguments", [("--for", "0.3"), ("--limit", "3")])
def test_it_ends_by_itself(server: Server, arguments: tuple[str, str]) -> None:
    with server.connect() as client:
        recorder = server.record(server.id_of(client), *arguments)
        recorder.wait_for("gserver-transcript")
        ask(client, b"a\n", b"A\n")
        status, errors = recorder.end()

        assert status == 0, errors
        assert recorder.only.events[-1].row["end"] == {"--for": "seconds", "--limit": "limit"}[arguments[0]]
        ask(client, b"b\n", b"B\n")


def test_the_limit_holds_for_all_workers(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server, contextlib.ExitStack() as stack:
        wait_for(lambda: server.call("status")["workers"]["serving"] == 2, "both serve")
        recorder = server.record("--addr", "127.0.0.1", "--limit", "100")
        wait_for(recorder.path.exists, "the recording has begun")
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for _ in range(10):
            for client in clients:
                ask(client, b"aaaa\n", b"AAAA\n")
        status, errors = recorder.end()

        assert status == 0, errors
        assert sum(len(event.data) for each in recorder.recorded.values() for event in each.events) <= 200


# How it ends


def test_a_worker_that_is_killed(server: Server) -> None:
    with server.connect() as client, server.connect() as other:
        name = server.id_of(client)
        server.id_of(other)
        recorder = server.record(name)
        recorder.wait_for("gserver-transcript")
        ask(client, b"a\n", b"A\n")
        recorder.wait_for("A")
        client.sendall(b"exit\n")
        status, errors = recorder.end()

    assert status == 4, errors
    end = recorder.only.events[-1].row
    assert (end["end"], end["error"]) == ("lost", f"worker {name.partition('-')[0]}: the worker has ended")


def test_an_address_is_recorded_by_the_next_worker_too(server: Server) -> None:
    """Of a crash, and of a reload."""
    recorder = server.record_all()
    with server.connect() as client:
        client.sendall(b"exit\n")
        assert client.recv(10) == b""
    wait_for(lambda: server.call("status")["workers"]["serving"] == 1, "it is replaced")
    with server.connect() as client:
        ask(client, b"a\n", b"A\n")
        recorder.wait_for('"A\\n"')
        server.call("restart_worker", pid=server.call("workers")["rows"][0]["pid"])
        assert client.recv(10) == b""
    with server.connect() as client:
        ask(client, b"b\n", b"B\n")
        recorder.wait_for('"B\\n"')
        recorder.interrupt()
        status, errors = recorder.end()

    assert status == 4, errors
    (drained,) = [each for each in recorder.recorded.values() if ("out", b"A\n") in events(each)]
    assert drained.events[-1].row["close_reason"] == "drained"


def test_a_drain_is_recorded_to_its_end(server: Server) -> None:
    with server.connect() as client:
        ask(client, b"a\n", b"A\n")
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        ask(client, b"b\n", b"B\n")
        server.process.send_signal(signal.SIGTERM)
        status, errors = recorder.end()

    assert status == 0, errors
    assert recorder.only.events[-1].row["close_reason"] == "drained"
    assert events(recorder.only)[:2] == [("in", b"b\n"), ("out", b"B\n")]


def test_an_arbiter_that_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect() as client:
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        server.process.kill()
        status, errors = recorder.end()

    assert status == 3, errors
    assert recorder.only.events[-1].row["end"] == "lost"


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_gserverctl_that_is_killed(server: Server, is_stuck: bool) -> None:
    with server.connect() as client:
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        if is_stuck:
            recorder.process.send_signal(signal.SIGSTOP)
            client.settimeout(20)
            ask(client, b"large\n", b"x" * 8_000_000 + b"\n")
        recorder.process.kill()
        recorder.process.wait()
        again = server.record("--addr", "127.0.0.1", "--for", "0.2")
        status, errors = again.end()
        assert status == 0, errors
        ask(client, b"a\n", b"A\n")
        server.wait_for_log("Recording 1 has ended", 1)


def test_a_reader_that_is_stuck_costs_events_and_delays_nobody(server: Server) -> None:
    with server.connect() as client:
        client.settimeout(20)
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        recorder.process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            ask(client, b"large\n", b"x" * 8_000_000 + b"\n")
        recorder.process.send_signal(signal.SIGCONT)
        wait_for(lambda: recorder.path.stat().st_size > 8_000_000, "the first one is written")

        def follows() -> bool:  # until there is room, it is dropped too
            ask(client, b"a\n", b"A\n")
            return '"A\\n"' in recorder.path.read_text()

        wait_for(follows, "what comes later is recorded")
        recorder.interrupt()
        status, errors = recorder.end()

    assert status == 0, errors
    assert "were dropped" in errors
    kinds = [event.kind for event in recorder.only.events]
    assert "dropped" in kinds
    assert kinds[-3:] == ["in", "out", "end"]
    with pytest.raises(ValueError, match=r"line \d+: data of connection \S+ was dropped here"):
        replay(recorder.path, "app:app")


def test_a_worker_that_is_blocked_for_some_time(server: Server) -> None:
    """Its answer is late, and nothing is lost."""
    with server.connect() as client:
        client.settimeout(20)
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        ask(client, b"block\n", b"BLOCK\n")
        recorder.wait_for("BLOCK")
        recorder.interrupt()
        assert recorder.end()[0] == 0


# Output


def test_standard_output(server: Server) -> None:
    with server.connect() as client:
        name = server.id_of(client)
        command = [*COMMAND, "-s", server.path, "record", name, "-o", "-"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
        ) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["connection"] == name
            ask(client, "grüße\n".encode(), "GR\u00fcßE\n".encode())
            assert json.loads(process.stdout.readline())["in"] == "grüße\n"
            client.close()
            _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    assert b"recorded 1 connection to standard output" in errors


def test_a_closed_pipe_is_one_line(server: Server) -> None:
    with server.connect() as client:
        name = server.id_of(client)
        command = [*COMMAND, "-s", server.path, "record", name, "-o", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            ask(client, b"a\n", b"A\n")
            assert process.stderr is not None
            errors = process.stderr.read()
        server.wait_for_log("Recording 1 has ended", 1)

    assert process.returncode == 1
    assert errors.splitlines()[-1] == "gserverctl: cannot write to standard output: Broken pipe"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line(server: Server) -> None:
    with server.connect() as client:
        recorder = server.record(server.id_of(client), "--force", output=Path("/dev/full"))
        status, errors = recorder.end()

        assert status == 1
        assert errors.splitlines()[-1] == "gserverctl: cannot write to /dev/full: No space left on device"
        ask(client, b"a\n", b"A\n")


def test_a_file_is_replaced_only_by_force(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("mine")
    path.chmod(0o644)
    with server.connect() as client:
        name = server.id_of(client)
        status, errors = server.record(name, output=path).end()
        assert (status, errors) == (1, f"gserverctl: {path} exists: choose another file, or replace it with --force\n")
        assert path.read_text() == "mine"
        recorder = server.record(name, "--force", "--for", "0.1", output=path)
        assert recorder.end()[0] == 0

    assert recorder.only.connection == name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("1-1",), 1, "there is no connection '1-1'"),
        (("nonsense",), 1, "there is no connection 'nonsense'"),
        ((), 2, "record needs an ID or --addr"),
        (("1-1", "--addr", "::1"), 2, "record needs an ID or --addr"),
        (("--addr", "nonsense"), 1, "argument address is"),
        (("1-1", "--limit", "0"), 2, "no number of bytes above 0"),
        (("1-1", "--for", "-1"), 2, "no number of seconds above 0"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(
    server: Server, tmp_path: Path, arguments: tuple[str, ...], status: int, error: str
) -> None:
    recorder = server.record(*arguments)
    found, errors = recorder.end()

    assert (found, error in errors) == (status, True), errors
    assert not recorder.path.exists()


def test_a_connection_of_the_past(server: Server) -> None:
    with server.connect() as client:
        name = server.id_of(client)
    wait_for(lambda: not server.rows(), "it is closed")
    status, errors = server.record(name).end()

    assert (status, errors) == (1, f"gserverctl: there is no connection {name!r}\n")


def test_bare_handlers_cannot_be_recorded(tmp_path: Path) -> None:
    with Server(tmp_path, "app:bare") as server:
        status, errors = server.record("--addr", "127.0.0.1").end()

    text = "the application is a function handle(socket, address), whose connections cannot be recorded"
    assert (status, errors) == (1, f"gserverctl: {text}\n")


# Masks

MASKS = """
import re

def record_mask(direction, data):
    if b"fail" in data.lower():
        raise ValueError("no mask for this")
    return re.sub(rb"(?i)secret=\\w+", b"secret=***", data)
"""


def test_a_mask_of_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(MASKS)
    with Server(tmp_path, "app:app", "-c", "conf.py") as server, server.connect() as client:
        recorder = server.record(server.id_of(client))
        recorder.wait_for("gserver-transcript")
        client.sendall(b"secret=hun")
        wait_for(lambda: server.rows()[0]["received_bytes"] == 10, "a part has arrived")
        ask(client, b"ter2\n", b"SECRET=HUNTER2\n")
        recorder.wait_for("out")
        client.sendall(b"fail\n")
        status, errors = recorder.end()
        assert read(client, 5) == b"FAIL\n"
        ask(client, b"b\n", b"B\n")

    assert status == 1
    assert "secrets too" not in errors
    assert "gserverctl: record_mask failed: ValueError: no mask for this" in errors
    assert "unter" not in recorder.path.read_text().lower()
    assert events(recorder.only)[:2] == [("in", b"secret=***\n"), ("out", b"secret=***\n")]
    assert recorder.only.events[-1].row["end"] == "mask_failed"
    assert "no mask for this" in server.log


# Replay


TALKS: dict[str, tuple[str, list[tuple[bytes, bytes]]]] = {
    "app": ("swapped", [(b"aB\ncd\n", b"AB\nCD\n"), (b"e", b""), (b"f\n", b"EF\n")]),
    "api": ("other_api", [(b'{"type": "ADD", "numbers": [1, 2]}\n', b'{"sum":3}\n'), (b"nonsense\n", b"{")]),
    "reverse": ("forward", [(b"\0\0\0\3abc", b"\0\0\0\3cba"), (b"\0\0\0\2\xff\0", b"\0\0\0\2\0\xff")]),
    "talk": ("other_talk", [(b"", b"hello\n"), (b"a\nb\n", b"aa\nbb\n"), (b"c\n", b"cc\n")]),
    "raw_bytes": ("other_bytes", [(b"abcdef", b"abcdef"), (b"g", b"g")]),
}


@pytest.mark.parametrize("environment", [{}, {"GSERVER_PURE": "1"}], ids=["compiled", "pure"])
@pytest.mark.parametrize("name", TALKS)
def test_a_recorded_session_is_replayed(
    tmp_path: Path, name: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same service it succeeds, with a changed one it fails."""
    changed, talk = TALKS[name]
    with Server(tmp_path, f"app:{name}", environment=environment) as server:
        recorder = server.record_all()
        with server.connect() as client:
            for data, reply in talk:
                client.sendall(data)
                assert read(client, len(reply)) == reply
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
        recorder.wait_for('"end"')
        recorder.interrupt()
        assert recorder.end()[0] == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "app", raising=False)
    replay(recorder.path, f"app:{name}")
    replay(recorder.path, f"app:{name}", timing=True)
    with pytest.raises(AssertionError, match=str(recorder.path)):
        replay(recorder.path, f"app:{changed}")
    del sys.modules["app"]


def test_a_recorded_tls_session_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_certificates(tmp_path / "tls")
    with Server(tmp_path, "app:app", "--certfile", files.combined) as server:
        recorder = server.record_all()
        with files.client_context().wrap_socket(server.connect(), server_hostname="localhost") as client:
            ask(client, b"a\n", b"A\n")
        recorder.wait_for('"end"')
        recorder.interrupt()
        assert recorder.end()[0] == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "app", raising=False)

    assert recorder.only.header["tls"] == "TLSv1.3"
    assert recorder.only.header["from_first_byte"] is True
    replay(recorder.path, "app:app")
    del sys.modules["app"]
