"""Which files are watched, and that a change is reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.reloader import WatchedFiles, check_engine, watch_files
from gserver.errors import ConfigError
from tests.helpers.processes import is_alive, wait_for

ALL = ("app.py", "package/module.py", "notes.txt", ".hidden/x.py", "package/__pycache__/x.py")
ALL += ("venv/pyvenv.cfg", "venv/lib/x.py", "lib/site-packages/x.py", "templates/a.html")


def make_files(folder: Path) -> None:
    for name in ALL:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def test_python_files_are_watched_but_not_those_of_caches_and_environments(tmp_path: Path) -> None:
    make_files(tmp_path)
    watched = WatchedFiles(str(tmp_path))

    assert {os.path.relpath(path, tmp_path) for path in watched.snapshot()} == {"app.py", "package/module.py"}


def test_the_config_file_and_what_patterns_match_are_watched_too(tmp_path: Path) -> None:
    make_files(tmp_path)
    config = tmp_path / "venv" / "gserver.conf.py"
    config.write_text("")
    watched = WatchedFiles(str(tmp_path / "package"), str(config), [str(tmp_path / "templates" / "*.html")])

    assert {os.path.relpath(path, tmp_path) for path in watched.snapshot()} == {
        *("package/module.py", "venv/gserver.conf.py", "templates/a.html")
    }
    for path in watched.snapshot():
        assert path in watched.snapshot()
        assert any(path.startswith(root) for root in watched.roots)


# A process that watches for its parent; the parent counts the signals.
PARENT = """
import os, signal, sys
from gserver.arbiter import reloader
reloader.POLL_S, reloader.CHECK_PARENT_MS = 0.05, 100
me = os.getpid()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
if os.fork() == 0:
    os._exit(reloader.watch_files(reloader.WatchedFiles(sys.argv[1]), sys.argv[2], me))
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
    signals_received = lambda: output.read_text().count("changed")  # noqa: E731
    try:
        wait_for(lambda: "begun" in output.read_text(), "the parent has begun")
        (tmp_path / "notes.txt").write_text("not watched")
        number = 0

        def touched() -> bool:  # the watcher may not have begun yet
            nonlocal number
            number += 1
            app.write_text("2" * number)
            return signals_received() >= 1

        wait_for(touched, "a change is reported")
        before = signals_received()
        (tmp_path / "new.py").write_text("")
        wait_for(lambda: signals_received() > before, "a new file is reported")
        before = signals_received()
        app.unlink()
        wait_for(lambda: signals_received() > before, "a deleted file is reported")
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the watcher ends with its parent")


# Which files are looked at, with hostile names


HOSTILE = (
    *ALL,
    *(".py", "x.pyc", "x.py.swp", "x.PY", "#x.py#", ".x.py", "name with space.py", "ünï.py"),
    *("..cache/x.py", "a.py/b.txt", "package/.hidden/deep/x.py", "node_modules/x/y.py", "__pycache__.py"),
    *("venv/bin/activate_this.py", "venv/deep/er/x.py", "package/inner/pyvenv.cfg", "package/inner/x.py"),
)


def make_hostile_files(folder: Path) -> None:
    for name in HOSTILE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


@pytest.mark.parametrize(
    ("name", "is_watched"),
    [
        *((".x.py", True), ("name with space.py", True), ("ünï.py", True), ("__pycache__.py", True)),
        *(("x.pyc", False), ("x.PY", False), ("x.py.swp", False), ("#x.py#", False), ("a.py/b.txt", False)),
        *(("..cache/x.py", False), ("package/.hidden/deep/x.py", False), ("node_modules/x/y.py", False)),
        *(("venv/bin/activate_this.py", False), ("package/inner/x.py", False)),
    ],
)
def test_only_python_files_of_the_user_are_looked_at(tmp_path: Path, name: str, is_watched: bool) -> None:
    make_hostile_files(tmp_path)

    assert (str(tmp_path / name) in WatchedFiles(str(tmp_path)).snapshot()) is is_watched


@pytest.mark.parametrize("name", ["other.py", "sub/other.py", "gserver.conf.py.bak"])
def test_what_stands_beside_a_config_file_outside_is_not_watched(tmp_path: Path, name: str) -> None:
    folder, config, beside = tmp_path / "app", tmp_path / "etc" / "gserver.conf.py", tmp_path / "etc" / name
    folder.mkdir()
    beside.parent.mkdir(parents=True)
    config.write_text("")
    beside.write_text("")
    watched = WatchedFiles(str(folder), str(config))

    assert set(watched.snapshot()) == {str(config)}
    assert str(config) in watched.snapshot()
    assert str(beside) not in watched.snapshot()


@pytest.mark.parametrize(
    ("pattern", "name", "is_watched"),
    [
        *(("data/*.yaml", "data/a.yaml", True), ("data/*.yaml", "data/a.json", False)),
        *(("data/?.yaml", "data/ab.yaml", False), ("data/[ab].yaml", "data/b.yaml", True)),
        *(("data/**/*.yaml", "data/x/y/a.yaml", True), ("data/*.yaml", "data/x/a.yaml", False)),
        *(("data/**/*.yaml", "data/a.yaml", True), ("data/*", "data/.secret", False)),
    ],
)
def test_patterns_mean_the_same_to_both_engines(tmp_path: Path, pattern: str, name: str, is_watched: bool) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    watched = WatchedFiles(str(tmp_path), None, [str(tmp_path / pattern)])

    assert (str(file) in watched.snapshot()) is is_watched


def test_a_relative_pattern_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.html").write_text("")
    watched = WatchedFiles(str(tmp_path), None, ["*.html"])

    assert str(tmp_path / "a.html") in watched.snapshot()


@pytest.mark.parametrize("pattern", ["", "[", "no/such/folder/*", "***", "*" * 100])
def test_patterns_that_match_nothing_harm_nothing(tmp_path: Path, pattern: str) -> None:
    watched = WatchedFiles(
        str(tmp_path / "app"), None, [str(tmp_path / "x" / pattern) if pattern else str(tmp_path / "x")]
    )

    assert watched.snapshot() == {}
    assert all(Path(root).is_dir() for root in watched.roots if root != watched.folder)


def test_a_file_that_is_named_twice_is_there_once(tmp_path: Path) -> None:
    make_files(tmp_path)
    pattern = str(tmp_path / "*.py")
    watched = WatchedFiles(str(tmp_path), str(tmp_path / "app.py"), [pattern, pattern])

    assert {os.path.relpath(path, tmp_path) for path in watched.snapshot()} == {"app.py", "package/module.py"}
    assert watched.roots == [str(tmp_path)]


# Snapshots


@pytest.mark.parametrize("kind", ["folder", "config"])
def test_what_is_not_there_is_not_in_the_snapshot(tmp_path: Path, kind: str) -> None:
    gone = str(tmp_path / "gone" / "x.py")
    watched = WatchedFiles(os.path.dirname(gone)) if kind == "folder" else WatchedFiles(str(tmp_path), gone)

    assert watched.snapshot() == {}


def test_files_that_vanish_while_it_looks_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path)
    stat = os.stat

    def racing(path: str) -> os.stat_result:
        if path.endswith("module.py"):
            Path(path).unlink()
        return stat(path)

    monkeypatch.setattr("gserver.arbiter.reloader.os.stat", racing)
    found = WatchedFiles(str(tmp_path)).snapshot()
    monkeypatch.undo()

    assert list(found) == [str(tmp_path / "app.py")]


def test_a_link_to_nothing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".#app.py").symlink_to("nobody@nowhere")

    assert WatchedFiles(str(tmp_path)).snapshot() == {}


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    make_files(tmp_path)
    (tmp_path / "package" / "again").symlink_to(tmp_path)

    assert len(WatchedFiles(str(tmp_path)).snapshot()) == 2


def write_same_size(path: Path) -> None:
    path.write_text("2")
    os.utime(path, ns=(10**18, 10**18))


def write_same_time(path: Path) -> None:
    status = path.stat()
    path.write_text("22")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [write_same_size, write_same_time, Path.unlink])
def test_every_change_shows_in_the_snapshot(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "app.py"
    path.write_text("1")
    watched = WatchedFiles(str(tmp_path))
    before = watched.snapshot()

    assert watched.snapshot() == before

    change(path)

    assert watched.snapshot() != before


def test_reading_a_file_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("1")
    before = WatchedFiles(str(tmp_path)).snapshot()
    os.utime(path, ns=(0, path.stat().st_mtime_ns))

    assert WatchedFiles(str(tmp_path)).snapshot() == before


# The engines, by the names of the files that they report


# Its log goes to standard output, where the parent also prints each signal that it gets.
NAMING_PARENT = """
import json, logging, os, signal, sys
from gserver.arbiter import reloader
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
logging.getLogger("watchfiles").setLevel(logging.WARNING)
reloader.POLL_S, reloader.CHECK_PARENT_MS = 0.02, 100
folder, config, patterns, engine = json.loads(sys.argv[1])
me = os.getpid()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
pid = os.fork()
if pid == 0:
    status = reloader.watch_files(reloader.WatchedFiles(folder, config, patterns), engine, me)
    print(f"ended with {status}", flush=True)
    os._exit(status)
print(f"watcher {pid}", flush=True)
while signal.sigwait([signal.SIGHUP]):
    print("HUP", flush=True)
"""


class Watching:
    """A process that watches `folder`/app, and its parent; it has begun, in `with`."""

    def __init__(self, folder: Path, engine: str, config: Path | None = None, patterns: Sequence[str] = ()) -> None:
        self.output = folder / "output.txt"
        self._prime = folder / "app" / "prime.py"
        self._prime.parent.mkdir(exist_ok=True)
        arguments = json.dumps([str(folder / "app"), config and str(config), patterns, engine])
        with self.output.open("wb") as file:
            self.parent = subprocess.Popen([sys.executable, "-c", NAMING_PARENT, arguments], stdout=file)

    def __enter__(self) -> Watching:
        try:
            wait_for(self._is_primed, "it watches")
            self._watcher = psutil.Process(int(re.findall(r"watcher (\d+)", self.text)[0]))
        except BaseException:
            self.end_parent()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self.end_parent()
        wait_for(lambda: not is_alive(self._watcher), "the watcher ends with its parent")

    def _is_primed(self) -> bool:
        assert self.parent.poll() is None
        self._prime.write_text(str(time.monotonic()))
        return "prime.py" in self.text and "HUP" in self.text

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for_name(self, name: str) -> None:
        """Wait until a change of this file was logged, and HUP has arrived."""
        reported = re.compile(rf"Changed: [^\n]*{re.escape(name)}.*HUP", re.DOTALL)
        wait_for(lambda: bool(reported.search(self.text)), f"{name} is reported")

    def end_parent(self) -> None:
        self.parent.kill()
        self.parent.wait()


@pytest.fixture(params=["poll", "watchfiles"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "watchfiles":
        pytest.importorskip("watchfiles")
    return str(request.param)


def test_only_what_is_watched_is_told(tmp_path: Path, engine: str) -> None:
    make_hostile_files(tmp_path / "app")
    unwatched = ["notes.txt", ".hidden/x.py", "lib/site-packages/x.py", "venv/lib/x.py", "package/__pycache__/x.py"]
    with Watching(tmp_path, engine) as watching:
        for name in unwatched:
            (tmp_path / "app" / name).write_text("changed")
            (tmp_path / "app" / name).with_name("unwanted.txt").write_text("new")
        (tmp_path / "app" / "package" / "module.py").write_text("changed")
        watching.wait_for_name("package/module.py")
        reported = [line for line in watching.text.splitlines() if line.startswith("Changed: ")]

    names = {Path(path).name for line in reported for path in line.removeprefix("Changed: ").split(", ")}
    assert names == {"prime.py", "module.py"}


@pytest.mark.parametrize("name", ["late/er.py", "package/late.py", "ünï.py"])
def test_files_of_folders_old_and_new_are_told(tmp_path: Path, engine: str, name: str) -> None:
    (tmp_path / "app" / "package").mkdir(parents=True)
    with Watching(tmp_path, engine) as watching:
        path = tmp_path / "app" / name
        path.parent.mkdir(exist_ok=True)

        def written() -> bool:  # a new folder is not watched from its first moment
            path.write_text(str(time.monotonic()))
            return name in watching.text

        wait_for(written, f"{name} is reported")


def test_a_file_that_replaces_another_is_reported(tmp_path: Path, engine: str) -> None:
    """As many editors save."""
    app = tmp_path / "app" / "saved.py"
    app.parent.mkdir()
    app.write_text("1")
    with Watching(tmp_path, engine) as watching:
        app.with_name("saved.tmp").write_text("2")
        app.with_name("saved.tmp").rename(app)
        watching.wait_for_name("saved.py")


def test_a_config_file_outside_is_told(tmp_path: Path, engine: str) -> None:
    config = tmp_path / "etc" / "gserver.conf.py"
    config.parent.mkdir()
    config.write_text("")
    with Watching(tmp_path, engine, config) as watching:
        config.write_text("workers = 2")
        watching.wait_for_name("gserver.conf.py")


def test_a_new_file_of_a_pattern_is_told_even_if_there_was_none_before(tmp_path: Path, engine: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Watching(tmp_path, engine, None, [str(folder / "*.yaml")]) as watching:
        (folder / "first.yaml").write_text("1")
        watching.wait_for_name("first.yaml")


def test_it_ends_in_order_when_its_parent_is_gone(tmp_path: Path, engine: str) -> None:
    with Watching(tmp_path, engine) as watching:
        (tmp_path / "app" / "last.py").write_text("")
        watching.wait_for_name("last.py")
        watching.end_parent()
        wait_for(lambda: "ended with" in watching.text, "the watcher has ended")

    assert "ended with 0" in watching.text


def test_a_change_in_the_moment_in_which_its_parent_goes_ends_it_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr("gserver.arbiter.reloader.os.getppid", lambda: parent.pid if parent.poll() is None else 1)

    def change_and_let_go(seconds: float) -> None:
        (tmp_path / "app.py").write_text("")
        parent.communicate()

    monkeypatch.setattr("gserver.arbiter.reloader.time.sleep", change_and_let_go)

    assert watch_files(WatchedFiles(str(tmp_path)), "poll", parent.pid) == 0


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("asked", ["auto", "poll", "watchfiles"])
def test_only_an_engine_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, installed: bool
) -> None:
    monkeypatch.setattr("gserver.arbiter.reloader.has_watchfiles", lambda: installed)
    if asked == "watchfiles" and not installed:
        with pytest.raises(ConfigError, match="reload_engine is 'watchfiles', which is not installed"):
            check_engine(asked)
    else:
        check_engine(asked)
