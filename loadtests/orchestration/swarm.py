"""The processes of a run beside its server: Locust, in one process or several, and the sampler.

Locust waits behind a gate until the sampler has seen the server in a second without a socket. What is under way is in
a folder of its own for the time of the run, on another file system than the results perhaps: where those have no room
at the end, there is still something to make figures of.
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
# What an exchange in flight may take at the end before it is cut off, in seconds.
STOP_TIMEOUT_S = 5
# After its time: for a ramp that a busy machine makes longer, the last exchanges, and the last reports.
SWARM_PATIENCE_S = 60.0
POLL_S = 0.2
SHOWN_EVERY_S = 1.0
SAMPLER_PATIENCE_S = 10.0
# gserver's workers enter the bytes they received once a second; everything else is there at once.
COUNTED_S = 1.5
# How much is read of a file that grows: more than a second of samples.
NEWEST_BYTES = 32 * 1024
# What one process asks a server at the most, in exchanges a second.
PROCESS_RATE = 20_000
FULL = 0.95
#: gevent need not remember who started which greenlet: with a greenlet for each user that is time and memory. Locust
#: prints names that the locale may have no letters for.
LOCUST_ENVIRONMENT = {"GEVENT_TRACK_GREENLET_TREE": "0", "PYTHONUTF8": "1"}


class NoSwarm(ValueError):
    """The workers of other hosts cannot be had; the text is one line for a person."""


@dataclass(frozen=True)
class Spread:
    """Over how many processes the swarm is spread, and where they are.

    Attributes:
        processes: of this host; with one there is no master.
        master: (address, port) at which the workers of other hosts find their master, if there are to be any.
        workers: how many of those are waited for, and for how many seconds: `patience_s`.
        cores: who runs where.
    """

    processes: int = 1
    master: tuple[str, int] | None = None
    workers: int = 0
    patience_s: int = 0
    cores: Cores = field(default_factory=Cores)


def processes_for(profile: Profile, limit: int, cores: int) -> int:
    """As many as the sockets need with `limit` open files each; more for a load that is too much for one, up to a core
    for each."""
    held = max(1, math.floor(FULL * (limit - RESERVED_DESCRIPTORS)))
    load = profile.sockets * profile.rate if profile.rate else math.inf
    busy = min(cores, 1 if load <= PROCESS_RATE else cores, profile.sockets)
    return max(1, busy, math.ceil(profile.sockets / held))


def locustfile_of(profile: Profile) -> str:
    return profile.file or str(PROFILE_USERS)


def locust_options(profile: Profile, url: str, work: Path) -> dict[str, object]:
    """Options of Locust that are the same however it is spread."""
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
    """What is being run, and what became of it.

    Attributes:
        folder: of the run; work: of what is under way.
        accidents: sentences that end with a full stop, for the verdict.
        workers: that the swarm began with, where it is of several processes.
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
    _noticed: int = 0

    @property
    def recording(self) -> Path | None:
        """What Locust has left: in the folder of the run, if there was no room where it belongs."""
        return next((path for path in (self.work / RECORDING, self.folder / RECORDING) if path.exists()), None)

    @property
    def samples(self) -> Path:
        return self.work / "samples.jsonl"

    def run(self, stack: contextlib.ExitStack) -> None:
        """From the first sample to the last.

        NoSwarm if not all workers come, KeyboardInterrupt only for a second Ctrl-C.
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
        ended = self._look_at_workers().get("ended")
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
        """And wait for a sample of the server without any socket, and for the end of its second.

        How many sockets there were is known by whole seconds: of a second with sockets, no sample is from before them.
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
        command = python_module("loadtests.sampling.sampler", *words)
        sampler = self.sampler = stack.enter_context(running(command, self.folder / "sampler.log"))
        deadline = time.monotonic() + SAMPLER_PATIENCE_S
        while not _size(self.samples) and sampler.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1 - time.monotonic() % 1)

    def _await_last_sample(self) -> None:
        """One from after the swarm's end, by when the server has counted all of it."""
        since, deadline = time.monotonic() + COUNTED_S, time.monotonic() + SAMPLER_PATIENCE_S
        while self.sampler is not None and self.sampler.poll() is None and time.monotonic() < deadline:
            newest = self._newest(self.samples)
            if newest and newest[-1]["time_s"] > since:
                return
            time.sleep(POLL_S)

    # While it goes on

    def _follow(self, locust: subprocess.Popen[bytes], progress: Progress) -> None:
        patience_s = self.profile.total_s + SWARM_PATIENCE_S
        deadline = time.monotonic() + patience_s
        shown_s = 0.0
        while locust.poll() is None:
            try:
                # Reading takes milliseconds of a core that the generator may have been waiting for.
                if time.monotonic() - shown_s > SHOWN_EVERY_S:
                    shown_s = time.monotonic()
                    workers = self._look_at_workers()
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

    def _look_at_workers(self) -> dict[str, Any]:
        """What worker_join.py wrote last of the swarm's workers; prints what is new. Empty where there are none."""
        try:
            workers: dict[str, Any] = json.loads((self.work / "roster.json").read_bytes())
        except FileNotFoundError:
            return {}
        for sentence in workers["notices"][self._noticed :]:
            print(f"\nloadtests: {sentence}", file=sys.stderr)
        self._noticed, self.workers = len(workers["notices"]), workers["came"]
        return workers

    @property
    def told(self) -> dict[str, Any]:
        """What load_shape.py said last of where the run is; empty before that."""
        try:
            said: dict[str, Any] = json.loads((self.work / "phases.json").read_bytes())
            return said
        except FileNotFoundError:
            return {}

    @property
    def phase(self) -> str:
        told = self.told
        return str(told["phase"] or "ending") if told else ""

    def _interrupt(self, locust: subprocess.Popen[bytes]) -> None:
        """The first Ctrl-C lets the swarm finish what is in flight; the second one is the user's last word."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.accidents.append("It was interrupted before its time.")
        locust.send_signal(signal.SIGTERM)

    def _watch(self, locust: subprocess.Popen[bytes]) -> None:
        """Say so, once, if the server or the sampler is no more; a swarm on a server of its own is then ended."""
        if not self.server_ended and self.server.ended is not None:
            self._mishap(f"The server ended with status {self.server.ended} in the middle of the run: see server.log.")
            self.server_ended = True
            locust.send_signal(signal.SIGTERM)
        if self.sampler is not None and self.sampler.poll() is not None:
            if not self.server_ended:
                self._mishap(f"The sampler ended in the middle of the run: {self._sampler_said()}.")
            self.sampler = None

    def _mishap(self, sentence: str) -> None:
        self.accidents.append(sentence)
        print(f"\nloadtests: {sentence}", file=sys.stderr)

    def _sampler_said(self) -> str:
        said = last_line(self.folder / "sampler.log")
        return said.removeprefix("loadtests sample: ").rstrip(".") or "it said nothing"

    def _newest(self, path: Path) -> list[dict[str, Any]]:
        """The last whole lines of a file of JSON lines that is being written; none that a full disk has cut."""
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
