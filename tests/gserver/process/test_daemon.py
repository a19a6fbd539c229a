"""The standard streams of a server, open or closed at its start; commands that cannot write their output."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gserver.cli import main
from gserver.client import Client
from gserver.codecs import JsonLines
from tests.helpers.processes import PATIENCE_S, GserverProcess, is_alive, wait_for

STREAMS = (0, 1, 2)
SOME_CLOSED = [closed for count in (1, 2, 3) for closed in itertools.combinations(STREAMS, count)]
SUM = {"type": "SUM", "a": 10, "b": 20}


def shell(closed: tuple[int, ...], *words: str) -> list[str]:
    """A command without some of its standard streams."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *words]


def gserver(*words: str) -> list[str]:
    return [sys.executable, "-m", "gserver", *words]


class Running:
    """A server with a pid file, a log file and a unix socket in `folder`; ended at the end."""

    def __init__(self, folder: Path, closed: tuple[int, ...], *options: str) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            shell(closed, *gserver("json", "-b", "unix:socket", "-p", "pid", "--log-file", "log", *options)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def arbiter(self) -> psutil.Process:
        return psutil.Process(int((self._folder / "pid").read_text()))

    def tree(self) -> list[psutil.Process]:
        return [self.arbiter, *self.arbiter.children(recursive=True)]

    def wait_for_log(self, text: str, count: int = 1) -> None:
        wait_for(lambda: self.log.count(text) >= count, f"{text} in the log")

    def answers(self) -> bool:
        with Client(str(self._folder / "socket"), JsonLines()) as client:
            return bool(client.call(SUM)["result"] == 30)

    def assert_streams_are_harmless(self) -> None:
        """The standard streams are open in every process, and are no sockets, pipes or files of the server."""
        for process in self.tree():
            for number in STREAMS:
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull

    def end(self) -> None:
        tree = self.tree()
        tree[0].terminate()
        wait_for(lambda: not any(is_alive(each) for each in tree), "all have ended")
        assert self.log.count("Stopped") >= 1


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[None]:
    """End the processes that a failed test has left."""
    yield
    for name in ("pid", "pid.2"):
        if (tmp_path / name).exists():
            arbiter = psutil.Process(int((tmp_path / name).read_text()))
            for each in [arbiter, *arbiter.children(recursive=True)]:
                each.kill()


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("closed", SOME_CLOSED)
def test_a_daemon_serves_whatever_is_closed_at_its_start(tmp_path: Path, closed: tuple[int, ...]) -> None:
    server = Running(tmp_path, closed, "-D", "--reload-settle", "0")
    assert server.process.wait(PATIENCE_S) == 0
    assert server.answers()
    server.assert_streams_are_harmless()
    server.arbiter.send_signal(signal.SIGHUP)
    server.wait_for_log("Reloaded")
    assert server.answers()
    server.end()
    assert "SIGABRT" not in server.log


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("closed", SOME_CLOSED)
def test_a_server_serves_whatever_is_closed_at_its_start(tmp_path: Path, closed: tuple[int, ...]) -> None:
    server = Running(tmp_path, closed)
    server.wait_for_log("Worker ready")
    assert server.answers()
    server.assert_streams_are_harmless()
    server.end()
    assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.usefixtures("ended")
def test_a_daemon_serves_though_its_starter_was_killed_while_it_waited(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nfrom gserver.handlers import json\n"
    )
    command = gserver("app:json", "-D", "-b", "unix:socket", "-p", "pid", "--log-file", "log")
    with subprocess.Popen(command, cwd=tmp_path) as starter:
        wait_for(lambda: (tmp_path / "pid").exists(), "the arbiter has its pid file")
        starter.kill()
    (tmp_path / "go").touch()
    wait_for(lambda: "Worker ready" in (tmp_path / "log").read_text(), "the worker is ready")
    with Client(str(tmp_path / "socket"), JsonLines()) as client:
        assert client.call(SUM)["result"] == 30
    arbiter = psutil.Process(int((tmp_path / "pid").read_text()))
    arbiter.terminate()
    wait_for(lambda: not is_alive(arbiter), "it has ended")
    assert "Stopped" in (tmp_path / "log").read_text()


def test_a_daemon_that_cannot_be_forked_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    pipes = [os.pipe()]
    monkeypatch.setattr(os, "pipe", lambda: pipes[0])

    assert main(["echo", "-D"]) == 1
    assert capsys.readouterr().err == "gserver: cannot go to the background: Resource temporarily unavailable\n"
    for descriptor in pipes[0]:
        os.close(descriptor)


@pytest.mark.usefixtures("ended")
def test_the_arbiter_leaves_the_terminal_and_printed_output_is_lost(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(
        "import sys\n"
        "def post_fork(server, worker):\n"
        "    print('printed', flush=True), print('printed', file=sys.stderr), sys.stdin.read()\n"
    )
    server = Running(tmp_path, STREAMS)
    server.wait_for_log("Worker ready")
    old = server.arbiter
    old.send_signal(signal.SIGUSR2)
    server.wait_for_log("Worker ready", 2)
    old.terminate()
    server.wait_for_log("The old arbiter has ended")
    assert server.process.wait(PATIENCE_S) == 0
    assert server.answers()
    server.assert_streams_are_harmless()
    server.end()


@pytest.mark.parametrize("number", STREAMS)
def test_a_listener_in_place_of_a_standard_stream_is_served_and_nothing_is_written_to_it(
    tmp_path: Path, number: int
) -> None:
    """inetd passes such a socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        passed = f"{number}<&{listener.fileno()}"
        words = gserver("json", "-b", f"fd://{number}", "--log-file", "log", "--access-logfile", "-")
        command = ["bash", "-c", f'exec "$@" {passed}', "bash", *words]
        with GserverProcess(tmp_path, command=command, log=tmp_path / "log", pass_fds=(listener.fileno(),)) as server:
            for _ in range(2):
                with Client(listener.getsockname(), JsonLines()) as client:
                    assert client.call(SUM)["result"] == 30
            assert os.readlink(f"/proc/{server.process.pid}/fd/{number}") == os.devnull


@pytest.fixture(scope="module")
def stats_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("stats")
    with GserverProcess(folder, "json", "--stats-socket", "stats"):
        yield str(folder / "stats")


PRINTING = ["--help", "--version", "--print-config", "--check-config", "--stats"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
@pytest.mark.parametrize("command", PRINTING)
def test_a_command_that_cannot_write_its_output_fails_with_one_line(
    stats_path: str, command: str, output: str, unbuffered: str
) -> None:
    words = [command, *([stats_path] if command == "--stats" else ["json"])]
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {output}', "sh", *gserver(*words)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    why = {">&-": "it is closed", ">/dev/full": "No space left on device"}[output]

    assert (ended.returncode, ended.stderr) == (1, f"gserver: cannot write to standard output: {why}\n")


def test_a_command_without_a_reader_fails_with_one_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        gserver("--print-config"), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False
    )
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (1, "gserver: cannot write to standard output: Broken pipe\n")


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("words", "status"), [(["nocolon"], 1), (["--wrokers"], 2), (["--stats", "nowhere"], 1), (["--version"], 0)]
)
def test_a_status_does_not_depend_on_whether_errors_can_be_written(
    tmp_path: Path, words: list[str], status: int, stream: str
) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {stream}', "sh", *gserver(*words)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        timeout=PATIENCE_S,
        check=False,
    )

    assert ended.returncode == status


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    ended = subprocess.run(
        gserver("--print-config", "-b", "unix:\udcff\N{SNOWMAN}"),
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=PATIENCE_S,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"bind = unix:\\udcff\\u2603\n" in ended.stdout
