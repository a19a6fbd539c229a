"""The limit of open files: raised if possible, else a warning; and a worker that has reached it."""

from __future__ import annotations

import logging
import resource
import socket
import ssl
import sys
import time
from pathlib import Path

import pytest

from gserver.arbiter.stats_socket import read_stats
from gserver.connection import lingering_close
from gserver.process import open_files
from gserver.process.open_files import BESIDE_CONNECTIONS, raise_open_files_limit
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

INFINITE = resource.RLIM_INFINITY
LIMIT, CLIENTS = 160, 260
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
APP = """
from gserver import Lines, Service, stream

service = Service(lambda line, conn: line, codec=Lines)

@stream(codec=Lines)
def lines(conn):
    for line in conn:
        conn.send(line)

def bare(sock, address):
    while data := sock.recv(1000):
        sock.sendall(data)
"""


class Limits:
    """Replaces the kernel's limits: records the values that are set, and checks them against the hard limit."""

    def __init__(self, soft: int, hard: int, refuses: bool = False) -> None:
        self.now = soft, hard
        self._refuses = refuses

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if self._refuses:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("before", "after", "is_warned"),
    [
        ((1024, 524_288), (2000 + BESIDE_CONNECTIONS, 524_288), False),
        ((1024, INFINITE), (2000 + BESIDE_CONNECTIONS, INFINITE), False),
        ((INFINITE, INFINITE), (INFINITE, INFINITE), False),
        ((100_000, 524_288), (100_000, 524_288), False),  # never lowered
        ((1024, 3000), (3000, 3000), True),
        ((1024, 1024), (1024, 1024), True),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_needed(
    before: tuple[int, int],
    after: tuple[int, int],
    is_warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(*before)
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(resource, name, getattr(limits, name))
    raise_open_files_limit(2000)

    assert limits.now == after
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == is_warned
    assert all("worker_connections = 2000" in text and f"the limit is {after[0]}" in text for text in warnings)


def test_a_limit_that_cannot_be_set_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(256, 524_288, refuses=True)
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(resource, name, getattr(limits, name))
    raise_open_files_limit(2000)

    assert "the limit is 256" in caplog.text


def test_there_is_room_for_those_that_linger() -> None:
    assert open_files.BESIDE_CONNECTIONS >= lingering_close.MAX_WAITING + 200


def limited(app: str, *options: str, soft: int, hard: int) -> list[str]:
    """The command that starts a server with these limits, as a shell does."""
    ulimit = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    return ["/bin/sh", "-c", ulimit, "sh", sys.executable, "-m", "gserver", "-b", "127.0.0.1:0", *options, app]


def test_workers_and_their_reloads_get_the_limit(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    config = tmp_path / "gserver.conf.py"
    config.write_text("worker_connections = 300\n")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = limited("app:service", "-c", str(config), soft=256, hard=hard)
    with GserverProcess(tmp_path, command=command) as server:
        assert soft_limit_of(server.serving_pids()[0]) == 300 + BESIDE_CONNECTIONS
        config.write_text("worker_connections = 500\n")
        server.signal(1)
        server.wait_for_log("Reloaded")
        (worker,) = server.serving_pids()
        wait_for(lambda: soft_limit_of(worker) == 500 + BESIDE_CONNECTIONS, "the worker has the other limit")
        assert "WARNING" not in server.log


def soft_limit_of(pid: int) -> int:
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("Max open files")).split()[3])


@pytest.mark.parametrize("kind", ["service", "lines", "bare", "proxy", "tls", "dedicated"])
def test_a_connection_is_closed_and_counted_if_no_descriptor_is_free(
    kind: str, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """In a real, patched worker. No connection stays in the accept queue."""
    (tmp_path / "app.py").write_text(APP)
    options = {
        "proxy": ["--proxy-protocol", "v1", "--proxy-allow-from", "127.0.0.1"],
        "tls": ["--certfile", str(certificate[0]), "--keyfile", str(certificate[1])],
        "dedicated": ["--greenlets", "dedicated"],
    }.get(kind, [])
    app = f"app:{kind if kind in ('lines', 'bare') else 'service'}"
    stats = str(tmp_path / "stats")
    command = limited(app, "--stats-socket", stats, *options, soft=LIMIT, hard=LIMIT)
    with GserverProcess(tmp_path, command=command) as server:
        assert f"the limit is {LIMIT}" in server.log
        head = PROXY if kind == "proxy" else b""
        first = sealed(server.connect(), certificate) if kind == "tls" else server.connect()
        first.sendall(head + b"first\n")
        assert first.recv(100) == b"first\n"

        clients = [server.connect() for _ in range(CLIENTS)]
        wait_for(lambda: read_stats(stats)["totals"]["accepted"] == CLIENTS + 1, "everybody is accepted")
        served = read_stats(stats)["totals"]["open"] - 1
        assert 0 < served < LIMIT
        assert read_stats(stats)["totals"]["closed"] == {"full": CLIENTS - served}
        assert number_of_closed(clients) == CLIENTS - served
        first.sendall(b"still\n")
        assert first.recv(100) == b"still\n"

        for client in clients:
            client.close()
        wait_for(lambda: read_stats(stats)["totals"]["open"] == 1, "the clients' descriptors are free again")
        with server.connect() as late:
            if kind != "tls":
                late.sendall(head + b"late\n")
                assert late.recv(100) == b"late\n"
        first.close()


def sealed(sock: socket.socket, certificate: tuple[Path, Path]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    return context.wrap_socket(sock, server_hostname="localhost")


def number_of_closed(clients: list[socket.socket]) -> int:
    """Return how many clients have read the end, or a reset."""
    closed = 0
    for client in clients:
        client.setblocking(False)
        try:
            closed += not client.recv(10)
        except BlockingIOError:
            pass
        except OSError:
            closed += 1
    return closed


def test_a_worker_without_a_spare_descriptor_goes_on_when_one_is_free(tmp_path: Path) -> None:
    """The application has opened the last descriptors: clients wait, and are served after it closes them."""
    (tmp_path / "app.py").write_text(
        "import os, gevent\n"
        "from gserver import Lines, Service\n"
        "taken = []\n"
        "def take(line, conn):\n"
        "    if line == b'free':\n"
        "        while taken: taken.pop().close()\n"
        "        return b'freed'\n"
        "    while True:\n"
        "        try: taken.append(open('/dev/null'))\n"
        "        except OSError: return b'taken'\n"
        "app = Service(take, codec=Lines)\n"
    )
    command = limited("app:app", soft=LIMIT, hard=LIMIT)
    with GserverProcess(tmp_path, command=command) as server, server.connect() as greedy:
        greedy.sendall(b"take\n")
        assert greedy.recv(100) == b"taken\n"
        with server.connect() as refused:
            assert refused.recv(10) == b""
        greedy.sendall(b"free\n")
        assert greedy.recv(100) == b"freed\n"
        began = time.monotonic()
        with server.connect() as late:
            late.sendall(b"free\n")
            assert late.recv(100) == b"freed\n"
        assert time.monotonic() - began < PATIENCE_S
