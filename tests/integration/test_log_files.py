"""The log files of a whole server: rotation at any moment and by logrotate, a pipe that is not read, a full disk."""

from __future__ import annotations

import gzip
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from gserver.process.log_handler import QUEUE_BYTES
from tests.helpers.early_imports import EARLY_IMPORTS
from tests.helpers.processes import (
    PATIENCE_S,
    GserverProcess,
    children_of,
    is_running,
    wait_for,
)

ECHO_APP = "from gserver import Lines, Service\napp = Service(lambda line, conn: line, Lines, probe=b'probe')\n"
NAMES = ("errors", "access")
FILES = ("--log-file", "logs/errors", "--access-logfile", "logs/access")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can change the user")
needs_logrotate = pytest.mark.skipif(not shutil.which("logrotate"), reason="needs logrotate")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, with a folder for logs in it that only its owner may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "logs").mkdir(mode=0o700)
        (folder / "app.py").write_text(ECHO_APP)
        yield folder


def start(folder: Path, *arguments: str, workers: int = 1, ready: str = "Worker ready") -> GserverProcess:
    if "--user" in arguments:
        (folder / "gserver.conf.py").write_text(EARLY_IMPORTS)
    options = ("app:app", *FILES, "--pid", "gserver.pid", *arguments)
    return GserverProcess(folder, *options, workers=workers, log=folder / "logs" / "errors", ready=ready)


def exchange(address: tuple[str, int], line: bytes = b"x") -> None:
    with Client(address, Lines()) as client:
        assert client.call(line) == line


def move_away(folder: Path) -> None:
    for name in NAMES:
        (folder / "logs" / name).rename(folder / "logs" / f"{name}.1")


def rotate(folder: Path, server: GserverProcess) -> None:
    move_away(folder)
    server.signal(signal.SIGUSR1)
    wait_for(lambda: all((folder / "logs" / name).exists() for name in NAMES), "both logs are opened again")


def access(folder: Path, name: str = "access") -> str:
    return (folder / "logs" / name).read_text()


def pids_that_log(folder: Path) -> set[int]:
    """Return the processes that have the current access log open."""
    path = str(folder / "logs" / "access")
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) == path for fd in (process / "fd").iterdir()):
                found.add(int(process.name))
        except OSError:  # it has ended
            pass
    return found


def has_new_file(folder: Path, pids: set[int]) -> Callable[[], bool]:
    return lambda: pids <= pids_that_log(folder)


def everything(folder: Path, name: str) -> str:
    """Return the content of all files of a log, also of the compressed ones."""
    texts = []
    for path in (folder / "logs").glob(f"{name}*"):
        texts.append(gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text())
    return "".join(texts)


# Files that were moved away


@needs_root
@pytest.mark.parametrize("options", [(), ("--preload",), ("--capture-output",), ("--no-patch",)], ids="".join)
def test_workers_of_another_user_write_to_the_new_file(folder: Path, options: tuple[str, ...]) -> None:
    """The workers may not even enter the folder of the logs."""
    with start(folder, "--user", "nobody", *options, workers=2) as server:
        address, workers = server.address, set(server.serving_pids())
        exchange(address)
        wait_for(lambda: "peer_eof" in access(folder), "a line in the first file")
        rotate(folder, server)
        wait_for(has_new_file(folder, workers), "the workers have the new file")
        for _ in range(10):
            exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 10, "ten lines in the new file")
        assert access(folder, "access.1").count("peer_eof") == 1
    assert "logging continues in the old file" not in everything(folder, "errors")


WAITING_APP = """
import os, time
from gserver import Lines, Service
open("importing", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
app = Service(lambda line, conn: line, Lines, probe=b"probe")
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preloaded"])
def test_a_worker_that_starts_during_a_rotation_writes_to_the_new_files(folder: Path, options: tuple[str, ...]) -> None:
    (folder / "app.py").write_text(WAITING_APP)
    with start(folder, *options, ready="Listening at") as server:
        address = server.address
        wait_for((folder / "importing").exists, "the application is being imported")
        rotate(folder, server)
        (folder / "go").touch()
        server.wait_for_log("Worker ready")
        exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 1, "a line in the new access log")
        assert access(folder, "access.1") == ""
        (pid,) = server.serving_pids()
        server.kill_worker(pid)
        exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 2, "a worker that is forked later writes there, too")


def test_a_worker_that_drains_writes_to_the_new_files(folder: Path) -> None:
    (folder / "app.py").write_text(
        "import os, time\nfrom gserver import Lines, Service\n"
        "def answer(line, conn):\n"
        "    open('waiting', 'w').close()\n"
        "    while not os.path.exists('go'):\n"
        "        time.sleep(0.01)\n"
        "    return line\n"
        "app = Service(answer, Lines)\n"
    )
    with start(folder) as server, Client(server.address, Lines()) as client:
        client.send(b"wait")
        workers = set(server.serving_pids())
        wait_for((folder / "waiting").exists, "the handler runs")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        rotate(folder, server)
        wait_for(has_new_file(folder, workers), "the old worker has the new file")
        (folder / "go").touch()
        assert client.recv() == b"wait"
        wait_for(lambda: "drained" in access(folder), "the end of its connection stands in the new file")
        assert access(folder, "access.1") == ""


def test_the_process_that_watches_the_code_writes_to_the_new_file(folder: Path) -> None:
    with start(folder, "--reload", "--reload-engine", "poll") as server:
        rotate(folder, server)
        (folder / "app.py").write_text(ECHO_APP + "# changed\n")
        server.wait_for_log("Changed: ")
        server.wait_for_log("Reloaded")


def test_a_new_arbiter_reopens_files_that_were_rotated_before_it_took_over(folder: Path) -> None:
    """The signal was sent to the old arbiter, because its pid was in the pid file."""
    with start(folder) as server:
        address = server.address
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        new = int((folder / "gserver.pid.2").read_text())
        rotate(folder, server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        wait_for(lambda: new in pids_that_log(folder), "the new arbiter has the new file")
        wait_for(lambda: children_of(new) <= pids_that_log(folder), "its worker has it as well")
        exchange(address)
        wait_for(lambda: "peer_eof" in access(folder), "a line of the new worker")
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not is_running(new), "the new arbiter has ended")


# logrotate


def run_logrotate(folder: Path, config: str | None = None) -> None:
    """Run logrotate with the example's configuration, or with `config`."""
    example = Path(__file__).parents[2] / "examples" / "logrotate" / "gserver"
    text = (config or example.read_text()).replace(
        "/var/log/gserver/*.log", f"{folder}/logs/errors {folder}/logs/access"
    )
    path = folder / "logrotate.conf"
    path.write_text(text.replace("/run/gserver", str(folder)))
    path.chmod(0o644)
    command = ["logrotate", "--force", "--state", str(folder / "state"), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


USERS = [
    pytest.param((), id="same user"),
    pytest.param(("--user", "nobody", "--group", "nogroup"), id="another user", marks=needs_root),
]


@needs_logrotate
@pytest.mark.parametrize("options", USERS)
def test_logrotate_by_renaming_loses_no_line(folder: Path, options: tuple[str, ...]) -> None:
    with start(folder, *options, workers=2) as server:
        address, workers, asked = server.address, set(server.serving_pids()), 0
        for round_ in range(1, 4):
            for _ in range(10):
                exchange(address)
                asked += 1
            run_logrotate(folder)
            wait_for(lambda: all((folder / "logs" / name).exists() for name in NAMES), f"new files, round {round_}")
            wait_for(has_new_file(folder, workers), "the workers have them")
        exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 1, "the last line")
        wait_for(lambda: everything(folder, "access").count("peer_eof") == asked + 1, "every line, once")
    assert sorted(path.name for path in (folder / "logs").glob("access*")) == [
        "access",
        "access.1",
        "access.2.gz",
        "access.3.gz",
    ]


@needs_logrotate
@pytest.mark.parametrize("options", USERS)
def test_logrotate_with_copytruncate_continues_in_the_same_file(folder: Path, options: tuple[str, ...]) -> None:
    config = "/var/log/gserver/*.log {\n    rotate 5\n    copytruncate\n}\n"
    with start(folder, *options, workers=2) as server:
        address = server.address
        for _ in range(10):
            exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 10, "ten lines")
        run_logrotate(folder, config)
        assert access(folder) == ""
        exchange(address)
        wait_for(lambda: access(folder).count("peer_eof") == 1, "a line at the beginning of the file")
        assert "\0" not in access(folder)
        assert access(folder, "access.1").count("peer_eof") == 10


# Log pipes that are not read, and log files that cannot be written


class PipedServer:
    """A server with one pipe as its standard output and error; in the `with`, it serves."""

    def __init__(self, folder: Path, *arguments: str, before: Callable[[], None] | None = None) -> None:
        """before: called in the child process before it executes gserver."""
        self._reader, writer = os.pipe()
        command = [sys.executable, "-m", "gserver", "app:app", "-b", "unix:socket", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
            preexec_fn=before,
        )
        os.close(writer)
        self._address = str(folder / "socket")
        self.text = ""

    def __enter__(self) -> PipedServer:
        wait_for(self._serves, "it serves")
        return self

    def _serves(self) -> bool:
        try:
            self.exchange(b"")
        except OSError:
            return False
        return True

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._reader)

    def read(self) -> str:
        """Return everything that was logged so far."""
        while select.select([self._reader], [], [], 0)[0] and (data := os.read(self._reader, 65536)):
            self.text += data.decode()
        return self.text

    def exchange(self, line: bytes) -> None:
        with Client(self._address, Lines(), PATIENCE_S) as client:
            assert client.call(line) == line


#: An access log line of 2,000 bytes with the number of bytes that the connection has sent.
LONG_LINES = ("--access-logfile", "-", "--access-logformat", f"bytes %(I)s {'x' * 2000}")
MORE_THAN_FITS = (QUEUE_BYTES + 64 * 1024) // 2000 + 30


@pytest.mark.parametrize("options", [(), ("--no-patch",), ("--preload",)], ids="".join)
def test_an_unread_log_pipe_blocks_neither_service_nor_stop(folder: Path, options: tuple[str, ...]) -> None:
    """A blocked process would delay the stop by the graceful timeout."""
    with PipedServer(folder, *LONG_LINES, *options, "--graceful-timeout", "60") as server:
        for number in range(MORE_THAN_FITS):
            server.exchange(b"x" * number)
        server.process.send_signal(signal.SIGTTIN)
        server.exchange(b"x")
        server.process.terminate()

        assert server.process.wait(PATIENCE_S) == 0


def test_a_log_pipe_that_is_read_again_continues_in_order_and_reports_lost_lines(folder: Path) -> None:
    with PipedServer(folder, *LONG_LINES, "--workers", "1") as server:
        for number in range(1, MORE_THAN_FITS):  # the empty line was the first exchange
            server.exchange(b"x" * number)
        last = MORE_THAN_FITS

        def is_written() -> bool:
            """The worker retries after each connection, and once a second."""
            nonlocal last
            server.exchange(b"x" * last)
            last += 1
            return f"bytes {last} " in server.read()

        wait_for(is_written, "the last line is written")
        server.process.terminate()
        wait_for(lambda: bool(server.read()) and server.process.poll() is not None, "it has ended")
        written = [int(found) for found in re.findall(r"^bytes (\d+) ", server.read(), re.M)]
        lost = sum(int(found) for found in re.findall(r"The access log lost lines: (\d+)", server.text))

        assert written == sorted(set(written))
        assert len(written) + lost == last
        assert lost > 0
        assert "Traceback" not in server.text


def test_lines_of_many_workers_in_one_slow_pipe_are_not_split(folder: Path) -> None:
    with PipedServer(folder, *LONG_LINES, "--workers", "4") as server:
        for number in range(200):
            server.exchange(b"x" * number)
        server.process.terminate()
        wait_for(lambda: bool(server.read()) and server.process.poll() is not None, "it has ended")
        lines = [line for line in server.read().splitlines() if not re.match(r"\[\d+-", line)]

        assert [line for line in lines if not re.fullmatch(r"bytes \d+ x{2000}", line)] == []
        assert len(lines) > 30


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("full", ["access", "error", "both"])
def test_a_full_disk_loses_lines_and_logs_no_tracebacks(folder: Path, full: str) -> None:
    access_path = "logs/access" if full == "error" else "/dev/full"
    error_path = "logs/errors" if full == "access" else "/dev/full"
    with PipedServer(folder, "--access-logfile", access_path, "--error-logfile", error_path) as server:
        for number in range(1, 50):
            server.exchange(b"x" * number)
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
        said = [line for line in (server.read() + everything(folder, "errors")).splitlines() if "lost lines" in line]

        assert "Traceback" not in server.text + everything(folder, "errors")
        assert 0 < len(said) < 10
        assert all("(No space left on device)" in line for line in said)


def test_a_log_that_reached_its_size_limit_continues_after_a_rotation(folder: Path) -> None:
    """The file has reached RLIMIT_FSIZE; a new file can grow again."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    files = ("--access-logfile", "logs/access")
    with PipedServer(folder, *files, before=limit) as server:
        for number in range(1, 100):
            server.exchange(b"x" * number)
        assert len(access(folder)) == 4096
        (folder / "logs" / "access").rename(folder / "logs" / "access.1")
        server.process.send_signal(signal.SIGUSR1)

        def is_written() -> bool:
            server.exchange(b"again")
            return "peer_eof" in access(folder)

        wait_for((folder / "logs" / "access").exists, "the new file")
        wait_for(is_written, "a line in the new file")
        assert server.read().count("lost lines") == 1
        assert access(folder).startswith("unix:")
