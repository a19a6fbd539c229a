"""Sockets from a service manager, of every kind; abstract unix sockets; addresses in use."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.arbiter import listeners as module
from gserver.arbiter.listeners import Listeners
from gserver.client import Client
from gserver.codecs import Lines
from gserver.config.addresses import FdBind, TcpBind, UnixBind
from gserver.errors import ConfigError
from tests.helpers.processes import GserverProcess, wait_for
from tests.helpers.swarm import LINE_APP

ECHO_LINES = """
from gserver import Lines, Service
app = Service(lambda line, conn: line + b" " + repr(conn.peer).encode(), Lines, on_open=lambda conn: None)
"""
# Passes a descriptor as systemd does, with systemd's variables.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="x")
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(listener: socket.socket, *options: str) -> list[str]:
    own = [sys.executable, "-m", "gserver", "app:app", *options]
    return [sys.executable, "-c", ACTIVATE, str(listener.fileno()), *own]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners(10)
    yield made
    made.close()


@pytest.fixture
def abstract() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0gserver-test-{os.getpid()}")
        listener.listen(64)
        yield listener


def ask(address: str | bytes, own: str | None = None) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        if own is not None:
            client.bind(own)
        client.connect(address)
        client.sendall(b"hello\n")
        return client.makefile("rb").readline()


def test_an_abstract_socket_is_kept_at_a_reload_and_an_upgrade(tmp_path: Path, abstract: socket.socket) -> None:
    address = abstract.getsockname()
    (tmp_path / "app.py").write_text(ECHO_LINES)
    options = ("-p", "gserver.pid", "--reload-settle", "0", "--max-connections-per-ip", "9", "--deny", "127.0.0.2")
    command = activated(abstract, *options, "--access-logfile", "access")
    with GserverProcess(tmp_path, command=command, pass_fds=(abstract.fileno(),)) as server:
        name = address[1:].decode()
        assert f"Listening at: unix:@{name} (" in server.log
        assert ask(address) == b"hello ''\n"
        assert ask(address, f"\0{name}-client") == b"hello b'\\x00%b-client'\n" % name.encode()
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"Reloaded; listening at: unix:@{name}")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 3)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        new = server.arbiter
        assert ask(address) == b"hello ''\n"
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")
        assert server.log.count("Traceback") == 0
    assert (tmp_path / "access").read_text().count("unix:") == 3


def test_an_abstract_name_that_is_not_utf8_is_served_and_logged(tmp_path: Path) -> None:
    address = b"\0gserver-\xff\0\n-%d" % os.getpid()
    (tmp_path / "app.py").write_text(ECHO_LINES)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        with GserverProcess(tmp_path, command=activated(listener), pass_fds=(listener.fileno(),)) as server:
            assert ask(address) == b"hello ''\n"
            assert f"Listening at: unix:@gserver-\\udcff\\x00\\n-{os.getpid()} (" in server.log


def test_bind_accepts_an_abstract_socket(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    name = f"gserver-asked-{os.getpid()}"
    with GserverProcess(tmp_path, "app:app", "-p", "gserver.pid", bind=f"unix:@{name}") as server:
        assert f"Listening at: unix:@{name} (" in server.log
        with Client(f"\0{name}", Lines()) as client:
            assert int(client.recv()) in server.serving_pids()
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        new = server.arbiter
        with Client(f"\0{name}", Lines()) as client:
            assert int(client.recv()) in server.serving_pids()
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")
        assert [path.name for path in tmp_path.iterdir() if name in path.name] == []


def test_an_abstract_socket_does_not_remove_a_file_of_the_same_name(
    listeners: Listeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bind = UnixBind(f"@gserver-file-{os.getpid()}")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(bind.path)
        listeners.open([bind])
        listeners.keep([])
        assert listeners.descriptors == {}
        assert (tmp_path / bind.path).exists()


def unusable() -> Iterator[tuple[str, socket.socket]]:
    """Yield sockets that systemd can pass but that accept no connections, with their description."""
    kinds = [
        ("AF_NETLINK", socket.AF_NETLINK, socket.SOCK_RAW),
        ("AF_PACKET", socket.AF_PACKET, socket.SOCK_RAW),
        ("AF_VSOCK", socket.AF_VSOCK, socket.SOCK_STREAM),
        ("SOCK_DGRAM of AF_INET, protocol 17", socket.AF_INET, socket.SOCK_DGRAM),
        ("SOCK_DGRAM of AF_UNIX, protocol 0", socket.AF_UNIX, socket.SOCK_DGRAM),
        ("SOCK_SEQPACKET of AF_UNIX, protocol 0", socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ("SOCK_RAW of AF_INET, protocol 1", socket.AF_INET, socket.SOCK_RAW),
    ]
    for words, family, kind in kinds:
        try:
            yield words, socket.socket(family, kind, 1 if "SOCK_RAW of AF_INET" in words else 0)
        except OSError:  # this machine has no such family, or it needs root
            continue


def test_an_unusable_socket_is_named_in_the_error_and_stays_open(listeners: Listeners) -> None:
    tried = []
    for words, given in unusable():
        with given:
            with pytest.raises(ConfigError) as caught:
                listeners.open([FdBind(given.fileno())])
            assert f"descriptor {given.fileno()} is not a listening stream socket" in str(caught.value)
            assert words in str(caught.value)
            assert os.fstat(given.fileno())
            tried.append(words)
    assert tried


def test_a_link_local_address_is_bound_with_its_scope(listeners: Listeners) -> None:
    links = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines() if line.startswith("fe80")]
    if not links:
        pytest.skip("no interface has a link-local address")
    host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(links[0][0])) + f"%{links[0][5]}"
    listeners.open([TcpBind(host, 0)])

    assert listeners.describe().startswith(f"[{host}]:")


# Addresses in use


def test_an_address_in_use_is_logged_once_during_the_retries(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(logging.getLogger("gserver"), "propagate", True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            listeners.open([TcpBind("127.0.0.1", port)])

    assert pauses == [1.0] * 4
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [f"Address 127.0.0.1:{port} is in use: retrying for 4 s"]


def test_there_are_no_retries_at_a_reload(listeners: Listeners, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError):
        listeners.open([TcpBind(*taken.getsockname())], patient=False)

    assert caplog.records == []
