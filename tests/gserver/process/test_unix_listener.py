"""A listening unix socket of the arbiter, with its path."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from gserver.config.addresses import UnixBind
from gserver.errors import ConfigError
from gserver.process.unix_listener import UnixListener
from gserver.process.unix_sockets import short_path


def listener_at(path: Path, **options: str | int | None) -> UnixListener:
    return UnixListener("test socket", UnixBind(str(path), **options))  # type: ignore[arg-type]


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, short_path(str(path)) as address:
        client.connect(address)


def test_it_listens_without_blocking_and_leaves_nothing(tmp_path: Path) -> None:
    listener = listener_at(tmp_path / "a")
    assert listener.open()
    connect(tmp_path / "a")
    assert listener.socket is not None
    assert listener.fileno() == listener.socket.fileno()
    listener.socket.accept()[0].close()
    with pytest.raises(BlockingIOError):
        listener.socket.accept()
    listener.close()
    listener.close()

    assert list(tmp_path.iterdir()) == []


def test_without_a_path_there_is_no_socket() -> None:
    listener = UnixListener("test socket", None)

    assert not listener.open()
    listener.rename(None)
    listener.follow()
    listener.close()


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o660, 0o660), (0o222, 0o222)])
def test_its_permissions_are_those_given_whatever_the_umask(tmp_path: Path, mode: int | None, expected: int) -> None:
    umask = os.umask(0)
    try:
        listener = listener_at(tmp_path / "a", mode=mode)
        listener.open()
    finally:
        os.umask(umask)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == expected
    listener.close()


def test_its_owner_is_the_one_given(tmp_path: Path) -> None:
    owner = (os.getuid() or 65534, os.getgid() or 65534)
    listener = listener_at(tmp_path / "a", user=str(owner[0]), group=str(owner[1]))
    listener.open()
    found = (tmp_path / "a").stat()
    listener.close()

    assert (found.st_uid, found.st_gid) == owner


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files away")
def test_an_owner_that_cannot_be_given_leaves_nothing(tmp_path: Path) -> None:
    listener = listener_at(tmp_path / "a", user="0")
    with pytest.raises(ConfigError, match=r"^test socket '.*/a' cannot be made: Operation not permitted$"):
        listener.open()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a file", "a living socket", "missing/a"])
def test_what_is_in_its_place_stays_and_is_one_line(tmp_path: Path, what: str) -> None:
    (tmp_path / "a file").write_text("keep me")
    living = listener_at(tmp_path / "a living socket")
    living.open()
    before = len(os.listdir("/proc/self/fd"))
    listener = listener_at(tmp_path / what)
    with pytest.raises(ConfigError, match=rf"^test socket '.*/{what}' cannot be made: [A-Z][a-z ]+$"):
        listener.open()
    listener.close()

    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "a file").read_text() == "keep me"
    connect(tmp_path / "a living socket")
    living.close()


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "a"))
    listener = listener_at(tmp_path / "a")
    listener.open()
    connect(tmp_path / "a")
    listener.close()


def test_a_path_that_another_process_has_taken_is_left_to_it(tmp_path: Path) -> None:
    old, new = listener_at(tmp_path / "a"), listener_at(tmp_path / "a")
    old.open()
    (tmp_path / "a").unlink()
    new.open()
    old.close()
    connect(tmp_path / "a")
    new.close()


def test_a_new_listener_stands_beside_the_old_one_and_takes_its_place(tmp_path: Path) -> None:
    old, new = listener_at(tmp_path / "a"), listener_at(tmp_path / "a")
    old.open()
    new.open(".2")
    new.rename(UnixBind(str(tmp_path / "a")))
    assert new.path == str(tmp_path / "a")
    old.close()  # its path is another's now
    connect(tmp_path / "a")
    new.close()

    assert list(tmp_path.iterdir()) == []


def test_it_follows_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "current").symlink_to("1")
    listener = listener_at(tmp_path / "current" / "a")
    listener.open()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("2")
    listener.follow()
    connect(tmp_path / "2" / "a")
    listener.close()

    assert not list((tmp_path / "1").iterdir()) + list((tmp_path / "2").iterdir())


def test_a_child_closes_its_socket_and_leaves_the_path(tmp_path: Path) -> None:
    listener = listener_at(tmp_path / "a")
    listener.open()
    pid = os.fork()
    if pid == 0:
        listener.leave_to_child()
        os._exit(0 if listener.socket is None and (tmp_path / "a").exists() else 1)
    _, status = os.waitpid(pid, 0)
    connect(tmp_path / "a")
    listener.close()

    assert status == 0


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    listener = listener_at(folder / "a")
    listener.open()
    connect(folder / "a")
    listener.close()

    assert list(folder.iterdir()) == []
