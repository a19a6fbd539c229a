"""Releases in separate folders: `current` is a symbolic link that is moved from one release to the next."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.stats_socket import read_stats
from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.certificates import make_certificates
from tests.helpers.processes import PATIENCE_S, GserverProcess, is_alive, run_gserver, wait_for

APP = """
from gserver import Lines, Service
import part
app = Service(lambda line, conn: b"{release} " + part.NAME, Lines)
"""


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """A folder with two releases; the first one is current."""
    for release in ("r1", "r2"):
        (tmp_path / release / "lib").mkdir(parents=True)
        (tmp_path / release / "app.py").write_text(APP.format(release=release))
        (tmp_path / release / "lib" / "part.py").write_text(f"NAME = b'{release}'")
        (tmp_path / release / "gserver.conf.py").write_text(
            "raw_env = ['RELEASE=' + open('name').read()]\nreload_settle = 0.0\ndrain_spread = 0.0\n"
        )
        (tmp_path / release / "name").write_text(release)
        same_time(tmp_path / release)
    (tmp_path / "current").symlink_to("r1")
    return tmp_path


def same_time(folder: Path) -> None:
    """Set the same time for all files, as tools for reproducible archives do."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (1e9, 1e9))


def flip(srv: Path, release: str = "r2") -> None:
    (srv / "next").symlink_to(release)
    (srv / "next").replace(srv / "current")


def started(srv: Path, where: str, *options: str) -> GserverProcess:
    """Start a server from a shell in a folder."""
    words = [sys.executable, "-m", "gserver", "app:app", "-b", f"unix:{srv}/socket", "-p", f"{srv}/pid", *options]
    command = ["sh", "-c", f"cd '{srv / where}' && exec \"$@\"", "sh", *words]
    return GserverProcess(srv, command=command, environment={"PYTHONPATH": "lib"})


def ask(srv: Path) -> bytes:
    with Client(str(srv / "socket"), Lines()) as client:
        answer: bytes = client.call(b"?")
    return answer


def reload(srv: Path) -> subprocess.CompletedProcess[str]:
    return run_gserver("--reload-pid", str(srv / "pid"), cwd=srv)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_reload_serves_the_release_that_is_current(srv: Path, preload: tuple[str, ...]) -> None:
    with started(srv, "current", *preload):
        assert ask(srv) == b"r1 r1"
        flip(srv)
        assert ask(srv) == b"r1 r1"
        assert reload(srv).returncode == 0
        assert ask(srv) == b"r2 r2"
        flip(srv, "r1")
        assert reload(srv).returncode == 0
        assert ask(srv) == b"r1 r1"


def test_the_old_release_can_be_removed(srv: Path) -> None:
    (srv / "r1" / "name").rename(srv / "name")  # the test shows that no file of r1 is needed
    (srv / "r1" / "gserver.conf.py").unlink()
    with started(srv, "current", "--reload-settle", "0") as server:
        flip(srv)
        for path in sorted((srv / "r1").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (srv / "r1").rmdir()
        server.signal(signal.SIGUSR1)
        assert reload(srv).returncode == 0
        assert ask(srv) == b"r2 r2"
        old = server.arbiter
        old.send_signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 3)
        old.terminate()
        assert server.wait() == 0
        assert ask(srv) == b"r2 r2"
        end(srv)


def end(srv: Path) -> None:
    """End the arbiter that runs after an upgrade."""
    new = psutil.Process(int((srv / "pid").read_text()))
    new.terminate()
    wait_for(lambda: not is_alive(new), "the new arbiter has ended")


@pytest.mark.parametrize(("where", "chdir"), [("", "current"), ("r2", "../current"), ("", "./r1/../current/")])
def test_chdir_follows_the_symbolic_link_again_at_a_reload(srv: Path, where: str, chdir: str) -> None:
    for release in ("r1", "r2"):
        (srv / release / "lib" / "part.py").rename(srv / release / "part.py")
    with started(srv, where, "--chdir", chdir, "-c", os.devnull, "--reload-settle", "0") as server:
        (worker,) = server.workers()
        assert Path(f"/proc/{worker.pid}/cwd").resolve() == srv / "r1"
        flip(srv)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        wait_for(lambda: len(server.workers()) == 1, "the old worker has ended")
        (worker,) = server.workers()
        assert Path(f"/proc/{worker.pid}/cwd").resolve() == srv / "r2"


def test_the_config_file_of_the_current_release_is_read(srv: Path) -> None:
    (srv / "r2" / "gserver.conf.py").write_text("workers = 1 + (open('name').read() == 'r2')\n")
    with started(srv, "current") as server:
        flip(srv)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        wait_for(lambda: len(server.workers()) == 2, "there are two workers")


def test_logs_pid_file_and_stats_socket_move_to_the_current_release(srv: Path) -> None:
    files = ("-p", "my.pid", "--stats-socket", "stats", "--log-file", "log", "-b", "unix:sock")
    current = srv / "current"
    with GserverProcess(
        srv,
        command=[
            *("sh", "-c", f"cd '{current}' && exec \"$@\"", "sh"),
            *(sys.executable, "-m", "gserver", "app:app", *files),
        ],
        log=current / "log",
        environment={"PYTHONPATH": "lib"},
    ) as server:
        pid = (srv / "r1" / "my.pid").read_text()
        flip(srv)
        server.signal(signal.SIGHUP)
        wait_for(lambda: (srv / "r2" / "log").exists() and "Reloaded" in server.log, "the log is in the new release")
        assert (srv / "r2" / "my.pid").read_text() == pid
        assert read_stats(str(current / "stats"))["pid"] == server.process.pid
        ended = run_gserver("--reload-pid", "my.pid", cwd=current)
        assert (ended.returncode, ended.stderr) == (0, "")
    left = {str(path.relative_to(srv)) for release in ("r1", "r2") for path in (srv / release).iterdir()}
    assert {name for name in left if Path(name).name in ("my.pid", "stats", "sock")} == set()


def test_a_reload_of_a_broken_release_changes_nothing_and_the_next_one_works(srv: Path) -> None:
    (srv / "r2" / "gserver.conf.py").write_text("1 / 0")
    with started(srv, "current"):
        flip(srv)
        assert reload(srv).returncode == 1
        assert ask(srv) == b"r1 r1"
        (srv / "r2" / "gserver.conf.py").write_text("reload_settle = 0.0")
        assert reload(srv).returncode == 0
        assert ask(srv) == b"r2 r2"


def test_a_missing_link_fails_the_reload(srv: Path) -> None:
    with started(srv, "current"):
        (srv / "current").unlink()
        assert reload(srv).returncode == 1
        assert ask(srv) == b"r1 r1"
        (srv / "current").symlink_to("r2")
        assert reload(srv).returncode == 0
        assert ask(srv) == b"r2 r2"


def test_certificates_of_the_current_release_are_loaded(srv: Path) -> None:
    made = {release: make_certificates(srv / release, "localhost") for release in ("r1", "r2")}
    names = [os.path.relpath(name, srv / "r1") for name in (made["r1"].certfile, made["r1"].keyfile)]
    files = ("--certfile", names[0], "--keyfile", names[1])

    def is_trusted(release: str) -> bool:
        context = made[release].client_context()
        try:
            with socket.socket(socket.AF_UNIX) as plain:
                plain.settimeout(PATIENCE_S)
                plain.connect(str(srv / "socket"))
                with context.wrap_socket(plain, server_hostname="localhost"):
                    return True
        except ssl.SSLCertVerificationError:
            return False

    with started(srv, "current", *files):
        assert (is_trusted("r1"), is_trusted("r2")) == (True, False)
        flip(srv)
        assert reload(srv).returncode == 0
        assert (is_trusted("r1"), is_trusted("r2")) == (False, True)


def test_an_upgrade_starts_the_current_release(srv: Path) -> None:
    with started(srv, "current") as server:
        flip(srv)
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert ask(srv) == b"r2 r2"
        end(srv)


@pytest.mark.parametrize("engine", ["poll", "watchfiles"])
def test_a_moved_link_triggers_a_reload(srv: Path, engine: str) -> None:
    """Although all files have the same size and time."""
    with started(srv, "current", "--reload", "--reload-engine", engine) as server:
        flip(srv)
        server.wait_for_log("Reloaded")
        assert ask(srv) == b"r2 r2"


@pytest.mark.parametrize("pwd", ["", "/nowhere", "relative", "{srv}"])
def test_a_pwd_that_names_another_directory_is_ignored(srv: Path, pwd: str) -> None:
    own = [sys.executable, "-m", "gserver", "--print-config"]
    environment = {**os.environ, "PWD": pwd.format(srv=srv)}
    ended = subprocess.run(
        own, cwd=srv / "current", env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert f"chdir = {srv / 'r1'}\n" in ended.stdout


def test_pwd_is_passed_on_with_the_symbolic_link(srv: Path) -> None:
    program = "import os; print(os.environ['PWD'])"
    (srv / "r1" / "gserver.conf.py").write_text(f"def on_starting(server):\n    {program}\n    raise SystemExit")
    own = [sys.executable, "-m", "gserver", "app:app", "--chdir", "lib", "-b", "127.0.0.1:0"]
    environment = {**os.environ, "PWD": str(srv / "current")}
    ended = subprocess.run(
        own, cwd=srv / "current", env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert ended.stdout == f"{srv / 'current' / 'lib'}\n"


def test_a_command_in_a_removed_directory_prints_one_line(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        remove = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
        command = ["sh", "-c", remove, "sh", sys.executable, "-m", "gserver", *words]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return ended.returncode, ended.stderr

    assert run("echo", "-b", "127.0.0.1:0") == (1, "gserver: setting chdir is '.', must be a directory\n")
    assert run("--version") == (0, "")
