"""Where control sockets are."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gserver.control import socket_path
from gserver.control.socket_path import default_folder, make_folder, path_for, sockets_in, sweep


@pytest.mark.parametrize(
    ("environ", "user", "folder"),
    [
        ({}, 0, "/run/gserver"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/gserver"),
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/gserver"),
        ({"XDG_RUNTIME_DIR": "relative"}, 1000, None),
        ({"XDG_RUNTIME_DIR": ""}, 1000, None),
        ({}, 1000, None),
    ],
)
def test_the_folder_of_a_user(environ: dict[str, str], user: int, folder: str | None) -> None:
    assert default_folder(environ, user) == folder


def test_the_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        make_folder(str(tmp_path / "gserver"))
        make_folder(str(tmp_path / "gserver"))
    finally:
        os.umask(umask)

    assert (tmp_path / "gserver").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("what", ["open", "a file", "a link"])
def test_a_folder_that_others_may_use_is_refused(tmp_path: Path, what: str) -> None:
    """Another user may have made it before, to be asked instead of the server."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "a file").touch(mode=0o600)
    (tmp_path / "a link").symlink_to("closed")

    with pytest.raises(PermissionError, match=f"^.*/{what} is not a folder of this user alone$"):
        make_folder(str(tmp_path / what))


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(str(tmp_path / "gserver"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(PermissionError):
        make_folder(str(tmp_path / "gserver"))


def make_socket(path: str, age_s: float = 60.0) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    at = os.stat(path).st_mtime - age_s
    os.utime(path, (at, at))
    return made


def test_only_sockets_of_servers_that_have_ended_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "*[a]"
    folder.mkdir()
    living, young = make_socket(path_for(str(folder), 1)), make_socket(path_for(str(folder), 2), 0.0)
    dead, dead_link = make_socket(path_for(str(folder), 3)), folder / "4.ctl"
    living.listen()
    dead_link.symlink_to("nowhere")
    (folder / "5.ctl").touch()
    os.utime(folder / "5.ctl", (1, 1))
    (folder / "notes").touch()
    young.close()
    dead.close()
    assert [Path(path).name for path in sockets_in(str(folder))] == [f"{pid}.ctl" for pid in (1, 2, 3, 4, 5)]
    sweep(str(folder))

    assert {path.name for path in folder.iterdir()} == {"1.ctl", "2.ctl", "4.ctl", "5.ctl", "notes"}
    assert socket_path.YOUNG_S > 1.0
    living.close()


def test_a_folder_that_is_missing_has_no_sockets(tmp_path: Path) -> None:
    assert sockets_in(str(tmp_path / "missing")) == []
    sweep(str(tmp_path / "missing"))
