"""Listening sockets: binding, refusing, and cleaning up."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gserver.arbiter import listeners
from gserver.bind import TcpBind, UnixBind
from gserver.errors import ConfigError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "RETRY_S", 0.0)


def test_every_bind_gets_a_listener_that_does_not_block(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    bound = listeners.bind_all([TcpBind("127.0.0.1", 0), TcpBind("::1", 0), UnixBind(path)], 10)
    try:
        described = [listeners.describe(listener) for listener in bound]
        families = [listener.family for listener in bound]

        assert families == [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]
        assert described[0].startswith("127.0.0.1:")
        assert described[1].startswith("[::1]:")
        assert described[2] == f"unix:{path}"
        for listener in bound:
            with pytest.raises(BlockingIOError):
                listener.accept()
    finally:
        listeners.close_all(bound)

    assert not os.path.exists(path)


def test_an_address_in_use_is_one_clear_error_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            listeners.bind_all([TcpBind("127.0.0.1", 0), TcpBind("127.0.0.1", port)], 10)


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    bound = listeners.bind_all([UnixBind(path)], 10)

    listeners.close_all(bound)


def test_a_live_unix_socket_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()

        with pytest.raises(ConfigError, match="Address already in use"):
            listeners.bind_all([UnixBind(path)], 10)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")

    with pytest.raises(ConfigError, match="Address already in use"):
        listeners.bind_all([UnixBind(str(path))], 10)
    assert path.read_text() == "keep me"


def test_a_host_that_does_not_exist_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on host\.invalid:80: "):
        listeners.bind_all([TcpBind("host.invalid", 80)], 10)
