"""Runs the swarm: Locust, in one process or several, and the sampler.

Locust starts only after the sampler has sampled the server for a second without any connection. During the run, files
are in a temporary folder, which may be on another file system than the results: if the disk of the results is full at
the end, the figures can still be computed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from loadtests.client.source_addresses import loopback_sources
from loadtests.host.bounded_log import last_line
from loadtests.host.cpu_affinity import Cores
from loadtests.host.environment import RESERVED_DESCRIPTORS
from loadtests.host.subprocesses import free_port, open_gate, python_module, running
from loadtests.orchestration.progress import Progress
from loadtests.results.store import write_whole
from loadtests.servers.target import Server
from loadtests.workloads.custom_message import escaped
from loadtests.workloads.profiles import Profile

__all__ = ["LOAD_SHAPE", "PROFILE_USERS", "NoSwarm", "Spread", "Swarm", "locust_options", "processes_for"]

PACKAGE = Path(__file__).parents[1]
PROFILE_USERS = PACKAGE / "users" / "profile_users.py"
LOAD_SHAPE = PACKAGE / "locust_integration" / "load_shape.py"
RECORDING = "client.json"
# Seconds that an exchange in flight may take at the end of the run before it is cut off.
STOP_TIMEOUT_S = 5
# Beyond the planned time: for a ramp that takes longer on a busy machine, the last exchanges, and the last reports.
SWARM_PATIENCE_S = 60.0
POLL_S = 0.2
SHOWN_EVERY_S = 1.0
SAMPLER_PATIENCE_S = 10.0
# gserver's workers update their count of received bytes once per second, all other counters at once.
COUNTERS_UPDATED_S = 1.5
# Bytes read at the end of a growing file: more than a second of samples.
NEWEST_BYTES = 32 * 1024
# Maximum load for one process, in exchanges per second; more is distributed over several.
PROCESS_RATE = 20_000
FULL = 0.95
#: GEVENT_TRACK_GREENLET_TREE=0: gevent does not record the parent of each greenlet, which would cost time and memory
#: for each user. PYTHONUTF8: Locust prints names that the locale may be unable to encode.
LOCUST_ENVIRONMENT = {"GEVENT_TRACK_GREENLET_TREE": "0", "PYTHONUTF8": "1"}


class NoSwarm(ValueError):
    """The workers of other hosts did not join; the text is one line for the user."""


@dataclass(frozen=True)
class Spread:
    """How the swarm is distributed over processes.

    Attributes:
        processes: on this host; 1: without a master.
        master: (address, port) on which the master listens for workers of other hosts; None: no such workers.
        workers: of other hosts to wait for. patience_s: how long to wait.
        cores: for server and generator.
    """

    processes: int = 1
    master: tuple[str, int] | None = None
    workers: int = 0
    patience_s: int = 0
    cores: Cores = field(default_factory=Cores)


def processes_for(profile: Profile, limit: int, cores: int) -> int:
    """The number of generator processes: enough for the sockets and for the load.

    Args:
        limit: open files of each process.
        cores: of the generator. A load that is too high for one process is distributed over all of them.
    """
    held = max(1, math.floor(FULL * (limit - RESERVED_DESCRIPTORS)))
    load = profile.sockets * profile.rate if profile.rate else math.inf
    busy = min(cores, 1 if load <= PROCESS_RATE else cores, profile.sockets)
    return max(1, busy, math.ceil(profile.sockets / held))


def locustfile_of(profile: Profile) -> str:
    return profile.file or str(PROFILE_USERS)


def locust_options(profile: Profile, url: str, work: Path) -> dict[str, object]:
    """The options of Locust that do not depend on the number of processes."""
    options: dict[str, object] = {
        "--host": url,
        "--users": profile.sockets,
        "--spawn-rate": profile.connects_per_s,
        "--stop-timeout": STOP_TIMEOUT_S,
        "--rate": f"{profile.rate:g}",
        "--depth": profile.depth,
        "--payload": profile.payload_bytes,
        "--plan": work / "plan.json",
        "--phases": work / "phases.json",
        "--recording": work / RECORDING,
        "--progress": work / "progress.jsonl",
        "--exit-code-on-error": 0,
    }
    if profile.user == "MessageUser":
        options |= {"--message": escaped(profile.message), "--codec": profile.codec}
        options |= {"--expect": escaped(profile.expect)} if profile.expect else {}
    return options


@dataclass
class Swarm:
    """A swarm, its sampler, and how they ended.

    Attributes:
        folder: of the run. work: temporary, for files during the run.
        accidents: sentences for the verdict, with a full stop.
        workers: that joined at the start, for a swarm of several processes.
        sampler: its process, if the server is sampled.
    """

    profile: Profile
    folder: Path
    work: Path
    server: Server
    spread: Spread
    accidents: list[str] = field(default_factory=list)
    interrupted: bool = False
    server_ended: bool = False
    workers: int = 0
    sampler: subprocess.Popen[bytes] | None = None
    _locust: subprocess.Popen[bytes] | None = None
    _notices_shown: int = 0

    @property
    def recording(self) -> Path | None:
        """The recording of Locust; in the folder of the run if the temporary folder was full; None without one."""
        return next((path for path in (self.work / RECORDING, self.folder / RECORDING) if path.exists()), None)

    @property
    def samples(self) -> Path:
        return self.work / "samples.jsonl"

    def run(self, stack: contextlib.ExitStack) -> None:
        """Start the sampler and Locust, and wait until the load ends.

        NoSwarm if not all workers join, KeyboardInterrupt only for a second Ctrl-C. Closing `stack` stops the sampler.
        """
        write_whole(self.work / "plan.json", msgspec.json.encode(self.profile.plan))
        cores = self.spread.cores.generator
        log = self.folder / "locust.log"
        with running(self._command(), log, cores, is_gated=True, environment=LOCUST_ENVIRONMENT) as locust:
            self._locust = locust
            self._start_sampler(stack, locust.pid)
            open_gate(locust)
            with Progress(self.profile) as progress:
                self._follow(locust, progress)
        ended = self._read_roster().get("ended")
        if ended and not self.interrupted:
            raise NoSwarm(ended)
        if locust.returncode not in (0, -signal.SIGTERM):
            self.accidents.append(f"Locust ended with status {locust.returncode}: see locust.log.")
        self._await_last_sample()

    def _command(self) -> list[str]:
        options: dict[str, object] = {"-f": f"{locustfile_of(self.profile)},{LOAD_SHAPE}"}
        options |= locust_options(self.profile, self.server.target.url, self.work)
        options |= {**self._spread_options(), "--roster": self.work / "roster.json"}
        options |= {"--recording-otherwise": self.folder / RECORDING}
        if sources := loopback_sources(self.server.target.address[0], self.profile.sockets):
            options["--source-addresses"] = f"{sources[0]}-{sources[-1]}"
        words = [str(word) for option in options.items() for word in option]
        master = ["--master"] if self.spread.master else []
        return python_module("locust", "--headless", "--only-summary", *master, *words, self.profile.user)

    def _spread_options(self) -> dict[str, object]:
        if self.spread.master is not None:
            host, port = self.spread.master
            return {
                "--master-bind-host": host,
                "--master-bind-port": port,
                "--expect-workers": self.spread.workers,
                "--expect-workers-max-wait": self.spread.patience_s,
            }
        if self.spread.processes == 1:
            return {}
        port = free_port()
        own = {"--master-bind-host": "127.0.0.1", "--master-bind-port": port, "--master-port": port}
        return {"--processes": self.spread.processes, **own}

    # The sampler

    def _start_sampler(self, stack: contextlib.ExitStack, generator: int) -> None:
        """Start it, and wait for a sample of the server without connections, and for the end of that second.

        Sockets are counted per whole second, so this sample must be older than the first second with sockets.
        """
        target, pid = self.server.target, self.server.pid
        if pid is None and target.sampler is None:
            return
        options: dict[str, object] = {"--output": self.samples, "--generator": generator}
        if target.sampler is not None:
            options["--connect"] = (
                "[{}]:{}".format(*target.sampler) if ":" in target.sampler[0] else "{}:{}".format(*target.sampler)
            )
        else:
            options |= {"--pid": pid, "--port": target.address[1], "--host": target.address[0]}
            options |= {"--stats-socket": target.stats_socket} if target.stats_socket else {}
        words = [str(word) for option in options.items() for word in option]
        command = python_module("loadtests", "sample", *words)
        sampler = self.sampler = stack.enter_context(running(command, self.folder / "sampler.log"))
        deadline = time.monotonic() + SAMPLER_PATIENCE_S
        while not _size(self.samples) and sampler.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1 - time.monotonic() % 1)

    def _await_last_sample(self) -> None:
        """Wait for a sample after the end of the swarm, when the server's counters are complete."""
        since, deadline = time.monotonic() + COUNTERS_UPDATED_S, time.monotonic() + SAMPLER_PATIENCE_S
        while self.sampler is not None and self.sampler.poll() is None and time.monotonic() < deadline:
            newest = self._newest(self.samples)
            if newest and newest[-1]["time_s"] > since:
                return
            time.sleep(POLL_S)

    # During the run

    def _follow(self, locust: subprocess.Popen[bytes], progress: Progress) -> None:
        patience_s = self.profile.total_s + SWARM_PATIENCE_S
        deadline = time.monotonic() + patience_s
        shown_s = 0.0
        while locust.poll() is None:
            try:
                # Not more often: reading the files takes milliseconds of a core that the generator may need.
                if time.monotonic() - shown_s > SHOWN_EVERY_S:
                    shown_s = time.monotonic()
                    workers = self._read_roster()
                    if workers.get("is_waiting"):
                        progress.wait(workers["came"], workers["expected"])
                        deadline = max(deadline, time.monotonic() + patience_s)
                    else:
                        lines, samples = self._newest(self.work / "progress.jsonl"), self._newest(self.samples)
                        progress.show(lines, samples, self.phase)
                self._watch(locust)
                if time.monotonic() > deadline:
                    self.accidents.append("The swarm did not end in time, and was stopped.")
                    return
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                self._interrupt(locust)

    def _read_roster(self) -> dict[str, Any]:
        """Read the state of the workers that worker_join.py wrote, and print new notices; empty without workers."""
        try:
            workers: dict[str, Any] = json.loads((self.work / "roster.json").read_bytes())
        except FileNotFoundError:
            return {}
        for sentence in workers["notices"][self._notices_shown :]:
            print(f"\nloadtests: {sentence}", file=sys.stderr)
        self._notices_shown, self.workers = len(workers["notices"]), workers["came"]
        return workers

    @property
    def load_state(self) -> dict[str, Any]:
        """The state of the load that load_shape.py wrote last: phases and steps; empty before the first."""
        try:
            state: dict[str, Any] = json.loads((self.work / "phases.json").read_bytes())
            return state
        except FileNotFoundError:
            return {}

    @property
    def phase(self) -> str:
        state = self.load_state
        return str(state["phase"] or "ending") if state else ""

    def _interrupt(self, locust: subprocess.Popen[bytes]) -> None:
        """After the first Ctrl-C the swarm completes the exchanges in flight; the second one ends it at once."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.accidents.append("It was interrupted before its time.")
        locust.send_signal(signal.SIGTERM)

    def _watch(self, locust: subprocess.Popen[bytes]) -> None:
        """Report once that the server or the sampler has ended; end the swarm if its server has."""
        if not self.server_ended and self.server.ended is not None:
            self._accident(
                f"The server ended with status {self.server.ended} in the middle of the run: see server.log."
            )
            self.server_ended = True
            locust.send_signal(signal.SIGTERM)
        if self.sampler is not None and self.sampler.poll() is not None:
            if not self.server_ended:
                self._accident(f"The sampler ended in the middle of the run: {self._sampler_error()}.")
            self.sampler = None

    def _accident(self, sentence: str) -> None:
        self.accidents.append(sentence)
        print(f"\nloadtests: {sentence}", file=sys.stderr)

    def _sampler_error(self) -> str:
        line = last_line(self.folder / "sampler.log")
        return line.removeprefix("loadtests sample: ").rstrip(".") or "its log is empty"

    def _newest(self, path: Path) -> list[dict[str, Any]]:
        """The last complete lines of a JSON Lines file that is being written; lines cut by a full disk are skipped."""
        if not path.exists():
            return []
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - NEWEST_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")
        found = []
        for line in lines[1 if start else 0 : -1]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
