from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loadtests.servers.git_build import build
from loadtests.servers.toolchain import Missing
from tests.helpers.peers import need, path_of

#: A build backend that needs no network: an editable install with one command, which says its version.
BACKEND = """
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    if VERSION == "bad":
        raise SystemExit("error: it cannot be built")
    name = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("toy.py", f"def main(): print({VERSION!r})")
        wheel.writestr("toy-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\n")
        wheel.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("toy-1.dist-info/entry_points.txt", f"[console_scripts]\\n{COMMAND} = toy:main\\n")
        wheel.writestr("toy-1.dist-info/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def commit(folder: Path, version: str, command: str = "gserver") -> str:
    (folder / "backend.py").write_text(f"VERSION, COMMAND = {version!r}, {command!r}\n{BACKEND}")
    (folder / "pyproject.toml").write_text(PROJECT)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", version)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if path_of("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_each_commit_is_built_once_and_runs_its_own_version(repository: Path, tmp_path: Path) -> None:
    first, second = commit(repository, "one"), commit(repository, "two")
    said: list[str] = []
    old = build(repository, "HEAD~1", tmp_path / "cache", said.append)
    new = build(repository, "main", tmp_path / "cache", said.append)

    assert (old.commit, new.commit) == (first[:12], second[:12])
    assert [subprocess.check_output([each.gserver], text=True) for each in (old, new)] == ["one\n", "two\n"]
    assert said == [f"building HEAD~1 ({old.commit}), once", f"building main ({new.commit}), once"]
    assert build(repository, first, tmp_path / "cache", said.append) == old
    assert len(said) == 2
    assert git(repository, "status", "--porcelain") == ""


def test_an_error_of_pip_is_one_line_with_the_log(repository: Path, tmp_path: Path) -> None:
    commit(repository, "bad")
    with pytest.raises(Missing, match=r"^pip cannot install commit [0-9a-f]{12}: .*; its log is .*/log$"):
        build(repository, "main", tmp_path / "cache", print)

    assert not list((tmp_path / "cache").glob("*/ready"))


def test_an_unknown_commit_is_one_line(repository: Path, tmp_path: Path) -> None:
    for ref in ("nowhere", "--help", "HEAD"):
        with pytest.raises(Missing, match=f"^git finds no commit '{ref}' here"):
            build(repository, ref, tmp_path / "cache", print)


@need("git")
def test_outside_of_a_repository_there_are_no_commits(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"is not a git repository, so it has no commit 'main'$"):
        build(tmp_path, "main", tmp_path / "cache", print)


def test_without_git_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"^git is not installed$"):
        build(tmp_path, "main", tmp_path / "cache", print)
