"""The recorder of a worker: which connections it finds, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gserver.config.addresses import parse_bind
from gserver.config.listener_settings import Listener
from gserver.config.settings import Settings
from gserver.connection import tap as tap_module
from gserver.connection.connection import Connection
from gserver.counters import Counters
from gserver.service import Service
from gserver.tls.contexts import Tls, TlsConfig
from gserver.worker.inspection import PAUSE
from gserver.worker.recorder import Recorder
from gserver.worker.worker_server import WorkerServer
from tests.helpers.certificates import make_certificates
from tests.helpers.services import make_echo_lines, make_lines
from tests.helpers.serving import Peer
from tests.helpers.tls_client import TlsClient
from tests.helpers.waiting import wait_until

ADDRESS = "127.0.0.1:7000"


class Worker:
    """A server and its recorder."""

    def __init__(self, service: Any = None, tls: Tls | None = None, **settings: Any) -> None:
        service = service or make_echo_lines()
        checked = Settings.checked(settings)
        listener = Listener(parse_bind(ADDRESS), ADDRESS)
        self.server = WorkerServer(
            ("127.0.0.1", 0), service, checked, Counters(), None, "the worker", listener=listener, tls=tls
        )
        self.server.start()
        self.recorder = Recorder(lambda: [(ADDRESS, self.server)], [service], {ADDRESS: "app:app"}, None)
        self.rows: list[Any] = []
        self.peers: list[Peer] = []
        self._reading: Any = None

    def connect(self, host: str = "127.0.0.1") -> Peer:
        self.peers.append(Peer(self.server.address, host=host))
        return self.peers[-1]

    def begin(self, **arguments: Any) -> None:
        """Record, and read the rows."""
        generator = self.recorder.subjects["record"]({"limit": 1 << 30, "recording": 1, **arguments})
        self._reading = gevent.spawn(self._read, generator)
        gevent.sleep(0)

    def _read(self, generator: Any) -> None:
        with contextlib.closing(generator):
            for row in generator:
                if row is PAUSE:
                    gevent.sleep(0.001)
                elif row is not None:
                    self.rows.append(row)

    def end(self) -> Any:
        """End the recording; return its last row."""
        list(self.recorder.subjects["end record"]({"recording": 1}))
        return self.last()

    def last(self) -> Any:
        wait_until(lambda: self._reading.dead)
        return self.rows[-1]

    def headers(self) -> list[Any]:
        return [row for row in self.rows if "format" in row]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        if self._reading is not None:
            self._reading.kill()
        self.server.drain(0.5)
        assert tap_module._tapped == {}
        assert self.server.on_opened is None


@pytest.fixture
def make() -> Iterator[Callable[..., Worker]]:
    workers = []

    def begin(*arguments: Any, **settings: Any) -> Worker:
        workers.append(Worker(*arguments, **settings))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


def test_those_of_an_address_now_and_later(make: Callable[..., Worker]) -> None:
    worker = make()
    before, other = worker.connect(), worker.connect("127.0.0.2")
    assert before.is_served
    assert other.is_served
    worker.begin(address="127.0.0.1")
    after = worker.connect()
    for peer in (before, other, after, worker.connect("127.0.0.3")):
        assert peer.is_served
    summary = worker.end()

    assert summary == {"ended": "stopped", "connections": 2, "skipped": 0}
    headers = worker.headers()
    assert [header["from_first_byte"] for header in headers] == [False, True]
    assert {header["listener"] for header in headers} == {ADDRESS}
    assert {header["app"] for header in headers} == {"app:app"}


def test_one_by_its_id(make: Callable[..., Worker]) -> None:
    worker = make()
    peers = [worker.connect() for _ in range(3)]
    for peer in peers:
        assert peer.is_served
    conn = next(conn for conn in worker.server.connections if conn.peer[1] == peers[1].sock.getsockname()[1])
    worker.begin(connection=conn.id)
    for peer in peers:
        assert peer.is_served
    peers[1].close()

    assert worker.last() == {"ended": "closed", "connections": 1, "skipped": 0}
    assert [header["connection"] for header in worker.headers()] == [conn.id]


@pytest.mark.parametrize("name", ["1-1", "nonsense", "-", "", "PID-999999", "PID-²", "9" * 200])
def test_there_is_no_such_connection(make: Callable[..., Worker], name: str) -> None:
    worker = make()
    assert worker.connect().is_served
    worker.begin(connection=name.replace("PID", str(os.getpid())))

    assert worker.last() == {"refused": None}


def test_bare_handlers_are_refused(make: Callable[..., Worker]) -> None:
    def bare(sock: Any, address: Any) -> None:
        sock.close()

    worker = make(bare)
    worker.begin(address="127.0.0.1")

    assert "cannot be recorded" in worker.last()["refused"]


def test_what_on_open_sends_is_recorded(make: Callable[..., Worker]) -> None:
    worker = make(make_lines(lambda line, conn: line, on_open=lambda conn: conn.send(b"ready")))
    worker.begin(address="127.0.0.0/8")
    assert worker.connect().read_line() == b"ready"
    worker.end()

    assert [row["out"] for row in worker.rows if "out" in row] == ["ready\n"]
    assert worker.headers()[0]["from_first_byte"] is True


def test_a_proxys_client_is_meant(make: Callable[..., Worker]) -> None:
    worker = make(proxy_protocol="v1")
    worker.begin(address="10.0.0.1")
    peer = worker.connect()
    peer.send(b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 7000\r\nhello\n")
    assert peer.read_line() == b"hello"
    worker.end()

    assert worker.headers()[0]["peer"] == "10.0.0.1:5000"
    assert [row["in"] for row in worker.rows if "in" in row] == ["hello\n"]


@pytest.mark.parametrize("is_completed", [True, False])
def test_a_connection_in_its_handshake(make: Callable[..., Worker], tmp_path: Path, is_completed: bool) -> None:
    """It is recorded once it is complete, with TLS as plaintext."""
    files = make_certificates(tmp_path)
    worker = make(None, Tls(TlsConfig(files.combined)), certfile=files.combined)
    peer, client = worker.connect(), TlsClient(files.client_context())
    wait_until(lambda: worker.server.connections)
    worker.begin(connection=worker.server.connections[0].id)
    gevent.sleep(0.01)
    assert worker.rows == []
    if is_completed:
        peer.send(client.handshake())
        while not client.is_complete:
            peer.send(client.handshake(peer.read()))
        peer.send(client.encrypt(b"hello\n"))
        wait_until(lambda: [row for row in worker.rows if "out" in row])
    peer.close()

    if is_completed:
        wait_until(lambda: [row for row in worker.rows if "end" in row])
        assert worker.headers()[0]["from_first_byte"] is True
    assert worker.last()["connections"] == is_completed


def test_a_reader_that_goes_leaves_nothing_behind(make: Callable[..., Worker]) -> None:
    worker = make()
    peer = worker.connect()
    assert peer.is_served
    worker.begin(address="127.0.0.1")
    wait_until(lambda: worker.rows)
    worker._reading.kill()

    assert worker.server.on_opened is None
    assert type(worker.server.connections[0]) is Connection
    assert peer.is_served


def test_at_the_end_of_the_worker_the_rest_is_read(make: Callable[..., Worker]) -> None:
    worker = make()
    assert worker.connect().is_served
    worker.begin(address="127.0.0.1")
    wait_until(lambda: worker.rows)
    worker.server.drain(1)
    worker.recorder.finish()

    assert worker.last()["ended"] == "stopped"
    assert worker.rows[-2]["close_reason"] == "drained"


def test_several_recordings_of_one_connection(make: Callable[..., Worker]) -> None:
    worker = make(Service(lambda data, conn: data, make_echo_lines().codec))
    peer = worker.connect()
    assert peer.is_served
    readers = []
    for number in (1, 2):
        rows: list[Any] = []
        arguments = {"address": "127.0.0.1", "limit": 1 << 20, "recording": number}
        generator = worker.recorder.subjects["record"](arguments)
        while next(generator) is not PAUSE:
            pass
        readers.append((generator, rows))
    assert peer.is_served
    found = []
    for generator, _ in readers:
        found.append([row["in"] for row in iter(generator.__next__, PAUSE) if row and "in" in row])
        generator.close()  # type: ignore[attr-defined]

    assert found == [["hello\n"]] * 2
