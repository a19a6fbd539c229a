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


@pytest.mark.parametrize("text", ["", "garbage", "-", "12 34"])
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

    with pytest.raises(ConfigError, match=f"belongs to process {os.getppid()}, which runs"):
        Pidfile(str(path)).write()

    Pidfile(str(path)).remove()

    assert read_pid(str(path)) == os.getppid()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        Pidfile(str(tmp_path / "nowhere" / "pid")).write()


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
