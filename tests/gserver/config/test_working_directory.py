"""The working directory and paths with symbolic links in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gserver.config.working_directory import absolute, enter, name_entries, place_of, working_folder
from gserver.errors import ConfigError


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a link to a folder elsewhere."""
    (tmp_path / "releases" / "r1" / "lib").mkdir(parents=True)
    link = tmp_path / "srv" / "current"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "releases" / "r1")
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    return link


def test_a_name_with_a_link_is_kept(link: Path) -> None:
    assert working_folder() == str(link)
    assert absolute("a/./b") == f"{link}/a/b"
    assert absolute(".") == str(link)
    assert absolute("/a//b") == "/a/b"
    assert absolute("a", "/x") == "/x/a"


@pytest.mark.parametrize("name", ["", "/nowhere", "current", "/", "{srv}", "{srv}/current/../current"])
def test_any_other_name_is_not_believed(link: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PWD", name.format(srv=link.parent))

    assert working_folder() == (str(link) if ".." in name else os.getcwd())


def test_a_parent_is_that_of_the_folder_and_not_of_the_link(link: Path, tmp_path: Path) -> None:
    """The kernel resolves `..` after a link in the same way."""
    (tmp_path / "releases" / "shared").write_text("here")

    assert Path(absolute("../shared")).read_text() == "here"
    assert absolute("lib/../x") == f"{link}/x"
    assert absolute("../r1/x").endswith("/../r1/x")


def test_a_folder_is_entered_by_its_name(link: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    enter(str(link))

    assert (os.getcwd(), os.environ["PWD"]) == (str(tmp_path / "releases" / "r1"), str(link))
    with pytest.raises(ConfigError, match=f"^cannot change to the directory '{link}/x': No such file or directory$"):
        enter(f"{link}/x")
    assert working_folder() == str(link)


def test_a_place_does_not_move_with_the_link(link: Path, tmp_path: Path) -> None:
    (link / "alias").symlink_to("file")

    assert place_of("file") == f"{tmp_path}/releases/r1/file"
    assert place_of("alias") == f"{tmp_path}/releases/r1/alias"


def test_a_folder_that_was_removed_has_its_last_name(link: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    enter(str(gone))
    gone.rmdir()

    assert working_folder() == str(gone)
    os.chdir(tmp_path)


def test_resolved_entries_get_the_users_name_again(link: Path, tmp_path: Path) -> None:
    entries = [f"{tmp_path}/releases/r1", f"{tmp_path}/releases/r1/lib", f"{tmp_path}/releases/r1/venv", "/usr/lib"]
    name_entries(entries, f"lib{os.pathsep}/usr/lib")

    assert entries == [str(link), f"{link}/lib", f"{tmp_path}/releases/r1/venv", "/usr/lib"]
