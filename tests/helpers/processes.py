"""Start and stop the real gserver executable, for end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["GserverProcess", "children_of", "is_alive", "is_running", "run_gserver", "wait_for"]

PATIENCE_S = 60.0
#: How long a server may drain at the end of a test before its handlers get one second.
DRAIN_S = 3.0


def wait_for(fact: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until `fact` is true; after `patience_s` raise AssertionError with `what`."""
    deadline = time.monotonic() + patience_s
    while not fact():
        assert time.monotonic() < deadline, f"did not happen within {patience_s:g} s: {what}"
        time.sleep(0.01)


def run_gserver(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `gserver` and wait until it ends by itself."""
    command = [sys.executable, "-m", "gserver", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, check=False)


def children_of(pid: int) -> set[int]:
    """Return the children of a process from the kernel's list: 0.05 ms; psutil reads all processes of the machine."""
    threads = Path(f"/proc/{pid}/task")
    try:
        return {int(child) for thread in threads.iterdir() for child in (thread / "children").read_text().split()}
    except OSError:  # a thread has just ended, or the kernel has no such list
        return {child.pid for child in psutil.Process(pid).children()}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls
        return False


def is_running(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def assert_totals_balance(log: str) -> None:
    """Check each line of totals in the log: every accepted connection was closed, with one reason."""
    totals = re.findall(r"Totals: .* accepted (\d+), open (\d+), closed: ([\w, ]*)", log)  # in text or in JSON
    for accepted, still_open, closed in totals:
        ended = sum(int(part.rpartition(" ")[2]) for part in closed.split(", ") if part != "none")
        assert (int(still_open), ended) == (0, int(accepted)), log


class GserverProcess:
    """A gserver process for use in `with`. Leaving it stops the server and checks that all its processes have ended.

    `folder` is its working directory and holds its log.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        bind: str | None = "127.0.0.1:0",
        workers: int | None = 1,
        command: Sequence[str] | None = None,
        ready: str = "Worker ready",
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the server.

        bind, workers: None if they are set in a config file. command: a command instead of gserver itself. ready: the
        log line after which the server can be used; "Worker ready" is expected once for each worker, any other line
        once. log: the log file, if the server does not log to standard error.
        """
        output = folder / f"gserver-{time.monotonic_ns()}.log"
        self._log = log or output
        self._ready = (ready, (workers or 1) if ready == "Worker ready" else 1)
        own = [sys.executable, "-m", "gserver", *arguments]
        own += ["-b", bind] if bind is not None else []
        own += ["-w", str(workers)] if workers is not None else []
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command or own,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
            )

    def __enter__(self) -> GserverProcess:
        try:
            self.wait_for_log(*self._ready)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tree = self.tree()
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(DRAIN_S)
            if self.process.poll() is None:  # a handler still waits: do not wait for graceful_timeout
                self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE_S)
            if error is None:
                assert not any(is_alive(one) for one in tree), self.log
                assert_totals_balance(self.log)
            else:
                print(self.log)
        finally:
            for one in tree:
                if one.is_running():
                    one.kill()
            self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def address(self) -> tuple[str, int]:
        found = re.search(r"Listening at: .*?(?:\[(.+?)\]|([\d.]+)):(\d+)", self.log)
        assert found, self.log
        return found[1] or found[2], int(found[3])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def tree(self) -> list[psutil.Process]:
        """Return the running processes: the arbiter first, then its workers."""
        try:
            arbiter = psutil.Process(self.process.pid)
            return [arbiter, *arbiter.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def arbiter(self) -> psutil.Process:
        """The arbiter; after a binary upgrade it is the process in the pid file."""
        pidfile = self._log.parent / "gserver.pid"
        return psutil.Process(int(pidfile.read_text()) if pidfile.exists() else self.process.pid)

    def serving_pids(self) -> list[int]:
        """Return the pids of the arbiter's workers that have logged that they are ready."""
        ready = {int(pid) for pid in re.findall(r"Worker ready \(pid: (\d+)\)", self.log)}
        return [pid for pid in sorted(children_of(self.arbiter.pid) & ready) if is_running(pid)]

    def workers(self) -> list[psutil.Process]:
        return self.tree()[1:]

    def wait_for_log(self, pattern: str, count: int = 1) -> None:
        """Wait until `pattern` is in the log `count` times; fail at once if the server has ended."""

        def seen() -> bool:
            if len(re.findall(pattern, self.log)) >= count:
                return True
            assert self.process.poll() is None, self.log
            return False

        wait_for(seen, f"{pattern!r} {count} times in the log:\n{self.log}")

    def unread_bytes(self) -> int:
        """Return the number of received bytes that the server has not read yet, over all connections."""
        port = f":{self.address[1]:04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(port) and row[3] == "01")

    def kill_worker(self, pid: int) -> None:
        """Kill a worker with SIGKILL, and wait until another one is ready."""
        ready = len(re.findall("Worker ready", self.log))
        os.kill(pid, signal.SIGKILL)
        self.wait_for_log("Worker ready", ready + 1)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        return self.process.wait(PATIENCE_S)
