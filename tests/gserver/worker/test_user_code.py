"""What the application of a real worker raises, in handlers and elsewhere, ends neither the worker nor its timers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.processes import GserverProcess, wait_for

APP = """
import asyncio, gevent, sys
from gserver import Lines, Service

def leave(*arguments):
    sys.exit(3)

def cancel(*arguments):
    raise asyncio.CancelledError

def handle(line, conn):
    word = line.decode()
    hub = gevent.get_hub()
    if word == "greenlet":
        gevent.spawn(leave)
    elif word == "callback":
        hub.loop.run_callback(leave)
    elif word == "timer":
        hub.loop.timer(0.001).start(leave)
    elif word == "later":
        gevent.spawn_later(0.001, cancel)
    elif word == "thread":
        hub.threadpool.spawn(leave)
    elif word == "handler":
        leave()
    return line

def bare(sock, address):
    if sock.recv(100) == b"leave\\n":
        sys.exit(3)
    sock.sendall(b"bare\\n")

app = Service(handle, codec=Lines, on_error=lambda fault, conn: type(fault).__name__.encode())
"""


def ask(server: GserverProcess, line: bytes) -> bytes:
    with server.connect() as client:
        client.sendall(line + b"\n")
        client.settimeout(20)
        return client.recv(100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_whatever_the_application_raises_a_worker_serves_on(folder: Path) -> None:
    with GserverProcess(folder, "app:app", "--first-byte-timeout", "1", workers=1) as server:
        pid = server.workers()[0].pid
        with server.connect() as other:
            other.sendall(b"hello\n")
            assert other.recv(100) == b"hello\n"
            for word in (b"greenlet", b"callback", b"timer", b"later", b"thread"):
                assert ask(server, word) == word + b"\n"
            assert ask(server, b"handler") == b"SystemExit\n"
            wait_for(lambda: server.log.count("failed") >= 5, "all of it is logged")
            other.sendall(b"still here\n")
            assert other.recv(100) == b"still here\n"
        with server.connect() as silent:  # deadlines go on
            silent.settimeout(20)
            assert silent.recv(100) == b""
        assert [worker.pid for worker in server.workers()] == [pid]
    assert "handler failed for 127.0.0.1" in server.log
    assert "Stopped" in server.log


def test_a_bare_handler_that_exits_ends_its_connection_alone(folder: Path) -> None:
    with GserverProcess(folder, "app:bare", workers=1) as server:
        pid = server.workers()[0].pid
        with server.connect() as other:
            assert ask(server, b"leave") == b""
            other.sendall(b"hello\n")
            other.settimeout(20)
            assert other.recv(100) == b"bare\n"
        assert [worker.pid for worker in server.workers()] == [pid]
    assert "handler failed for 127.0.0.1" in server.log
    assert "SystemExit: 3" in server.log
