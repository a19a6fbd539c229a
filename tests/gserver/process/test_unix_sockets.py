"""Paths of unix sockets. When a socket file is removed is tested in arbiter/test_listeners.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gserver.process.unix_sockets import identity, remove_stale, short_path


def test_a_socket_can_stand_at_a_path_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server, short_path(str(folder / "socket")) as address:
        server.bind(address)

    assert (folder / "socket").is_socket()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), short_path(str(tmp_path / "nowhere" / "socket")):
        pass


def test_only_the_socket_of_a_dead_server_is_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as dead:
        live.bind(str(tmp_path / "live"))
        live.listen()
        dead.bind(str(tmp_path / "dead"))
        dead.close()
        for name in ("file", "live", "dead", "nothing"):
            remove_stale(str(tmp_path / name))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "live"]


def test_another_socket_of_the_same_name_is_another(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    found = []
    for _ in range(2):
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        found.append((identity(path), made))
        Path(path).rename(f"{path}.before") if len(found) == 1 else None
    for _, each in found:
        each.close()

    assert found[0][0] != found[1][0]
