"""The pid file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gserver.errors import ConfigError
from gserver.process.pidfile import Pidfile, read_pid


def test_it_holds_the_id_of_this_process_until_it_is_removed(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.write()

    assert read_pid(str(tmp_path / "pid")) == os.getpid()

    pidfile.remove()

    assert list(tmp_path.iterdir()) == []


NOT_IDS = ["0", "-1", str(-(2**31)), str(2**31), str(2**63), "9" * 32]


@pytest.mark.parametrize("text", ["", "garbage", "-", "12 34", "\0", *NOT_IDS])
def test_a_file_without_an_id_has_none_and_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pid"
    path.write_text(text)

    assert read_pid(str(path)) is None

    Pidfile(str(path)).write()

    assert read_pid(str(path)) == os.getpid()


def test_that_of_a_process_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **PIPED).stdout)

    Pidfile(str(path)).write()

    assert read_pid(str(path)) == os.getpid()


PIPED = {"capture_output": True, "text": True, "check": True, "timeout": 30}


def test_that_of_a_process_that_runs_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")

    with pytest.raises(ConfigError, match=f"belongs to process {os.getppid()}, which is running"):
        Pidfile(str(path)).write()

    Pidfile(str(path)).remove()

    assert read_pid(str(path)) == os.getppid()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        Pidfile(str(tmp_path / "nowhere" / "pid")).write()


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()

    with pytest.raises(ConfigError, match="cannot be written: "):
        Pidfile(str(tmp_path / "pid")).write()
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_bytes_that_are_no_text_are_no_id(tmp_path: Path) -> None:
    (tmp_path / "pid").write_bytes(b"\xff\xfe1")

    assert read_pid(str(tmp_path / "pid")) is None


def test_space_around_an_id_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("  12\n\n")

    assert read_pid(str(tmp_path / "pid")) == 12


def test_all_users_may_read_it_with_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    Pidfile(str(tmp_path / "pid")).write()
    os.umask(before)

    assert (tmp_path / "pid").stat().st_mode & 0o777 == 0o644


def test_a_relative_path_stays_valid_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pidfile = Pidfile("pid")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pidfile.write()

    assert read_pid(str(tmp_path / "pid")) == os.getpid()


def test_removing_a_missing_file_is_no_error(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.write()
    (tmp_path / "pid").unlink()
    pidfile.remove()

    assert list(tmp_path.iterdir()) == []


def test_only_its_own_file_is_moved(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid.2"))
    (tmp_path / "pid.2").write_text(str(os.getppid()))
    pidfile.rename(str(tmp_path / "pid"))

    assert [path.name for path in tmp_path.iterdir()] == ["pid.2"]


def test_it_can_stand_elsewhere(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid.2"))
    pidfile.write()
    pidfile.rename(str(tmp_path / "pid"))

    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_without_a_path_it_does_nothing() -> None:
    pidfile = Pidfile(None)
    pidfile.write()
    pidfile.rename(None)
    pidfile.remove()
