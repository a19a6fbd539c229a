"""Which files are watched, and that a change is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gserver.arbiter.code_watch import Watched
from tests.helpers.processes import wait_for

ALL = ("app.py", "package/module.py", "notes.txt", ".hidden/x.py", "package/__pycache__/x.py")
ALL += ("venv/pyvenv.cfg", "venv/lib/x.py", "lib/site-packages/x.py", "templates/a.html")


def make_files(folder: Path) -> None:
    for name in ALL:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def test_python_files_are_watched_but_not_those_of_caches_and_environments(tmp_path: Path) -> None:
    make_files(tmp_path)
    watched = Watched(str(tmp_path))

    assert {os.path.relpath(path, tmp_path) for path in watched.snapshot()} == {"app.py", "package/module.py"}


def test_the_config_file_and_what_patterns_match_are_watched_too(tmp_path: Path) -> None:
    make_files(tmp_path)
    config = tmp_path / "venv" / "gserver.conf.py"
    config.write_text("")
    watched = Watched(str(tmp_path / "package"), str(config), [str(tmp_path / "templates" / "*.html")])

    assert {os.path.relpath(path, tmp_path) for path in watched.snapshot()} == {
        *("package/module.py", "venv/gserver.conf.py", "templates/a.html")
    }
    for path in watched.snapshot():
        assert path in watched
        assert any(path.startswith(root) for root in watched.roots)


@pytest.mark.parametrize(
    ("name", "is_watched"), [("a.py", True), ("a/b.py", True), ("a.txt", False), (".a/b.py", False)]
)
def test_a_file_that_is_not_there_yet_is_known_by_its_name(tmp_path: Path, name: str, is_watched: bool) -> None:
    assert (str(tmp_path / name) in Watched(str(tmp_path))) is is_watched


# A process that watches for its parent, which counts what it hears.
PARENT = """
import os, signal, sys
from gserver.arbiter.code_watch import Watched, watch_code
me = os.getpid()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
if os.fork() == 0:
    os._exit(watch_code(Watched(sys.argv[1]), sys.argv[2], me))
print("begun", flush=True)
while signal.sigwait([signal.SIGHUP]):
    print("changed", flush=True)
"""


@pytest.mark.parametrize("engine", ["poll", "watchfiles"])
def test_a_new_a_changed_and_a_deleted_file_are_told_and_nothing_else(tmp_path: Path, engine: str) -> None:
    output = tmp_path / "output.txt"
    app = tmp_path / "app.py"
    app.write_text("1")
    with output.open("wb") as file:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), engine], stdout=file)
    heard = lambda: output.read_text().count("changed")  # noqa: E731
    try:
        wait_for(lambda: "begun" in output.read_text(), "the parent has begun")
        (tmp_path / "notes.txt").write_text("not watched")
        number = 0

        def touched() -> bool:  # the watcher may not have begun yet
            nonlocal number
            number += 1
            app.write_text("2" * number)
            return heard() >= 1

        wait_for(touched, "a change is told")
        before = heard()
        (tmp_path / "new.py").write_text("")
        wait_for(lambda: heard() > before, "a new file is told")
        before = heard()
        app.unlink()
        wait_for(lambda: heard() > before, "a deleted file is told")
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the watcher ends with its parent")
