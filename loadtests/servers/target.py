"""The server under test: started by the run on a free port and separate cores, or already running."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.host.environment import RESERVED_DESCRIPTORS, hard_nofile_limit
from loadtests.host.subprocesses import START_PATIENCE_S, NotAnswering, free_port, python_module, running
from loadtests.servers.readiness import Probe
from loadtests.workloads.profiles import Profile

__all__ = ["RAN_ALREADY", "Server", "Target", "local_target", "server_words", "try_out", "workers_for"]

#: In run.json, the command of a server that the run did not start.
RAN_ALREADY = "was running already"

# For a server that is already running: it may be slow, but needs no time to start.
RUNNING_PATIENCE_S = 3.0
# Connections are not spread evenly over workers, so none is planned to be full.
SPREAD = 0.9
BACKLOG = 4096
# Lines of a log that are searched for an error, and characters that are quoted.
LOG_LINES, QUOTED = 20, 200
_ERROR = re.compile(r"(error|exception|fatal|panic)\b|cannot|denied|not found|in use", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A server to test.

    Attributes:
        address: (host, port).
        command: starts it; None: it is already running.
        pid: root of its process tree, if it is on this host and known.
        sampler: (host, port) of a `loadtests sample --listen` on its host.
        stats_socket: path of gserver's stats socket.
        scheme: "tcp" or "tls".
        workers: of a gserver that the run starts and waits for; None: another server.
        title: its name in run.json; "": its command.
    """

    address: tuple[str, int]
    command: list[str] | None = None
    pid: int | None = None
    sampler: tuple[str, int] | None = None
    stats_socket: str | None = None
    scheme: str = "tcp"
    workers: int | None = None
    title: str = ""

    @property
    def url(self) -> str:
        host, port = self.address
        return f"{self.scheme}://[{host}]:{port}" if ":" in host else f"{self.scheme}://{host}:{port}"

    @property
    def described_workers(self) -> dict[str, int]:
        """{"workers": number} for run.json; empty if the number is unknown."""
        return {} if self.workers is None else {"workers": self.workers}

    @property
    def shown_command(self) -> str:
        """The command as a user would type it, without the port and the stats socket that the run chose."""
        if self.title or self.command is None:
            return self.title or RAN_ALREADY
        words = ["gserver", *self.command[3:]]
        if "-b" in words:
            words[words.index("-b") + 1] = "127.0.0.1:0"
        if "--stats-socket" in words:
            place = words.index("--stats-socket")
            del words[place : place + 2]
        return shlex.join(words)


def workers_for(profile: Profile, limit: int) -> int:
    """The workers of the profile, or more if those cannot hold its sockets within `limit` open files each."""
    held = max(1, math.floor(SPREAD * (limit - RESERVED_DESCRIPTORS)))
    return max(profile.workers, math.ceil(profile.sockets / held))


def local_target(profile: Profile, folder: Path) -> Target:
    """The installed gserver with the profile's application, on a free port; its stats socket is in `folder`."""
    port, workers = free_port(), workers_for(profile, hard_nofile_limit())
    stats_socket = str(folder / "stats.sock")
    words = [*server_words(profile, str(port), workers), "--stats-socket", stats_socket]
    command = python_module("gserver", profile.app, *words)
    return Target(("127.0.0.1", port), command, stats_socket=stats_socket, workers=workers)


def server_words(profile: Profile, port: str, workers: int) -> list[str]:
    """Flags with which a gserver can hold the swarm of a profile."""
    options = {
        "-b": f"127.0.0.1:{port}",
        "-w": workers,
        "--worker-connections": max(1, hard_nofile_limit() - RESERVED_DESCRIPTORS),
        "--backlog": BACKLOG,
        **_timeouts(profile),
    }
    return [str(word) for option in options.items() for word in option]


def _timeouts(profile: Profile) -> dict[str, str]:
    """Longer timeouts for a profile that sends rarely: three times the pause between its tasks."""
    wait_s = 3 / profile.rate if profile.rate else 0
    timeouts = {"--first-byte-timeout": 30, "--idle-timeout": 300}
    return {option: f"{wait_s:.0f}" for option, usual_s in timeouts.items() if wait_s > usual_s}


@dataclass
class Server:
    """A target that is started, if it has a command, and waited for.

    Attributes:
        process: if the run started it.
        patience_s: how long it may take until it replies.
    """

    target: Target
    log: Path
    process: subprocess.Popen[bytes] | None = None
    cores: tuple[int, ...] = field(default=())
    patience_s: float = START_PATIENCE_S

    def start(self, probe: Probe, stack: contextlib.ExitStack) -> None:
        """Start the server if it has a command, and wait until it is ready; NotAnswering with the reason if it is not.

        stack: closing it stops the server.
        """
        if self.target.command is None:
            probe.await_reply(self.target.address, RUNNING_PATIENCE_S)
            return
        process = self.process = self._started(self.target.command, stack)
        deadline = time.monotonic() + self.patience_s
        try:
            probe.await_reply(self.target.address, self.patience_s, lambda: process.poll() is not None)
            self._await_workers(process, deadline)
            # On a second connection: some programs end after the first one.
            probe.await_reply(self.target.address, self.patience_s, lambda: process.poll() is not None)
        except NotAnswering as error:
            quoted = _error_in(self.log)
            has = f"has: {quoted}" if quoted else "is empty"
            raise NotAnswering(f"{error}{self._state_of(process)}; its log {self.log} {has}") from None

    def _started(self, command: list[str], stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        try:
            return stack.enter_context(running(command, self.log, self.cores))
        except OSError as error:
            if error.filename != command[0]:  # the log cannot be written
                raise
            raise NotAnswering(f"{command[0]} cannot be started: {error.strerror}") from None

    def _await_workers(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        """Wait for all workers: the memory of imports that still go on would be counted as memory of connections."""
        workers = self.target.workers or 0
        while (ready := self.log.read_text("utf-8", "replace").count("Worker ready")) < workers:
            if process.poll() is not None:
                raise NotAnswering("the server ended before its workers were ready")
            if time.monotonic() > deadline:
                raise NotAnswering(f"{ready} of {workers} workers were ready within {self.patience_s:.3g} s")
            time.sleep(0.05)

    def _state_of(self, process: subprocess.Popen[bytes]) -> str:
        """How a server that does not reply ended, or at which addresses it listens instead of the given port."""
        status = process.poll()
        if status is not None:
            return f" (exit status {status})" if status >= 0 else f" (killed by {signal.Signals(-status).name})"
        places = set(_listening(process.pid))
        if any(place.endswith(f":{self.target.address[1]}") for place in places):
            return ""
        return f" (it listens at {', '.join(sorted(places))})" if places else " (it does not listen)"

    @property
    def pid(self) -> int | None:
        """The root of its process tree, if it can be sampled on this host."""
        return self.process.pid if self.process else self.target.pid

    @property
    def ended(self) -> int | None:
        """Its exit status, if the run started it and it has ended."""
        return self.process.poll() if self.process else None


def try_out(target: Target, probe: Probe, log: Path, patience_s: float) -> None:
    """Start a server, wait until it is ready, and stop it; NotAnswering if it is not. Its log is kept only then."""
    with contextlib.ExitStack() as stack:
        Server(target, log, patience_s=patience_s).start(probe, stack)
    log.unlink()


def _listening(pid: int) -> Iterator[str]:
    """The addresses at which a process and its children listen; empty without permission to read them."""
    with contextlib.suppress(psutil.Error):
        pids = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
        for each in psutil.net_connections("tcp"):
            if each.pid in pids and each.status == psutil.CONN_LISTEN and each.laddr:
                yield f"{each.laddr.ip}:{each.laddr.port}"


def _error_in(log: Path) -> str:
    """The first line about an error near the end of a log; without one, the last line.

    The last line is seldom the reason: Node's is its version, gserver's is "Stopped".
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-LOG_LINES:]
    return next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "")[:QUOTED]
