"""`loadtests run`: a server, a sampler beside it, a swarm on it, and the folder of the run.

    start the server -> probe it -> sample it -> swarm -> stop all -> figures, run.json, report.md

Ctrl-C ends the swarm early; what was measured by then is kept and reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtests import environment, results
from loadtests.figures import figures_of, phases_seen
from loadtests.processes import (
    START_PATIENCE_S,
    NotAnswering,
    free_port,
    probe,
    python_module,
    running,
    terminated_as_interrupted,
)
from loadtests.profiles import Profile
from loadtests.progress import Progress
from loadtests.recording import CUT_OFF, OK, Cell, Recording
from loadtests.report import render_markdown
from loadtests.verdict import VALID, Verdict

__all__ = ["Target", "execute"]

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# What an exchange in flight may take at the end before it is cut off, in seconds.
STOP_TIMEOUT_S = 5
# After its duration: for the last exchanges, its last reports, and a busy machine.
SWARM_PATIENCE_S = 60.0
POLL_S = 0.2
# How much is read of a file that grows: more than a second of samples.
NEWEST_BYTES = 64 * 1024
# A server that is said to run already may be slow, but not starting.
RUNNING_PATIENCE_S = 3.0


@dataclass
class Target:
    """The server under test.

    Attributes:
        address: (host, port).
        command: how the run starts it; None for one that runs already.
        pid: the root of its process tree, if that is known.
        workers: how many the run waits for; None for a server that is no gserver.
        title: what the run says that it was; "": the command.
    """

    address: tuple[str, int]
    command: list[str] | None = None
    pid: int | None = None
    workers: int | None = None
    title: str = ""

    @property
    def url(self) -> str:
        host, port = self.address
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


@dataclass
class Swarm:
    """What is being run, and what came of it."""

    profile: Profile
    folder: Path
    target: Target
    server: subprocess.Popen[bytes] | None = None  # one that the run started
    sampler: subprocess.Popen[bytes] | None = None
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    server_ended: bool = False


def local_target(profile: Profile) -> Target:
    """The profile's application on a gserver of this installation, on a free port."""
    port = free_port()
    bind = ("-b", f"127.0.0.1:{port}", "-w", str(profile.workers), "--backlog", "4096")
    return Target(("127.0.0.1", port), python_module("gserver", profile.app, *bind), workers=profile.workers)


def execute(profile: Profile, target: Target | None, results_folder: Path, label: str) -> tuple[results.Run, bool]:
    """Carry out a run; return it, and whether it was interrupted.

    NotAnswering if there is no server to test, ResultError if the swarm left nothing, OSError for a folder that cannot
    be written, ValueError for a process to sample that is none, KeyboardInterrupt if nothing had been measured by then.
    Ctrl-C, TERM and HUP all end the swarm; whatever happens, no process of the run is left behind.
    """
    if target and target.pid is not None and not psutil.pid_exists(target.pid):
        raise ValueError(f"--server-pid is {target.pid}, and there is no such process")
    started_at = datetime.datetime.now(datetime.timezone.utc)
    folder = _new_folder(results_folder, f"{started_at:%Y%m%dT%H%M%SZ}-{profile.name}")
    swarm = Swarm(_fitted(profile), folder, target or local_target(profile))
    if swarm.profile.sockets < profile.sockets:
        held = f"the limit of open files allows {swarm.profile.sockets:,} of {profile.sockets:,} sockets"
        print(f"loadtests: {held}: going on with those", file=sys.stderr)
        swarm.warnings.append(held)
    try:
        with terminated_as_interrupted(), contextlib.ExitStack() as stack:
            _start_server(swarm, stack)
            _start_sampler(swarm, stack)
            _run_swarm(swarm)
    finally:
        with contextlib.suppress(OSError):  # not if there is anything in it, which may say what went wrong
            folder.rmdir()
    recording = _recording(swarm)
    run = _describe(swarm, recording, started_at.isoformat(timespec="seconds"), label)
    results.write_whole(folder / "report.md", render_markdown(run))
    results.save_run(folder, run)
    return run, swarm.interrupted


def _recording(swarm: Swarm) -> Recording:
    path = swarm.folder / "client.json"
    if not path.exists():
        if swarm.interrupted:
            raise KeyboardInterrupt
        log = (swarm.folder / "locust.log").read_text(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(log) if line.strip()), "nothing")
        raise results.ResultError(
            f"{swarm.folder}: the swarm left no recording; the last it said in locust.log: {said}"
        )
    return results.load_recording(path)


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that nobody else has, even if several runs begin in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"{parent / name}: a hundred runs began in this second")


def _fitted(profile: Profile) -> Profile:
    limit = environment.raise_nofile_limit()
    return dataclasses.replace(profile, sockets=environment.sockets_within(limit, profile.sockets))


def _start_server(swarm: Swarm, stack: contextlib.ExitStack) -> None:
    target = swarm.target
    if target.command is None:
        probe(target.address, swarm.profile.user, RUNNING_PATIENCE_S)
        return
    server = stack.enter_context(running(target.command, swarm.folder / "server.log"))
    swarm.server, target.pid = server, server.pid
    try:
        probe(target.address, swarm.profile.user, START_PATIENCE_S, lambda: server.poll() is not None)
        _await_workers(swarm)
    except NotAnswering as error:
        raise NotAnswering(f"{error}; its log is {swarm.folder / 'server.log'}") from None


def _await_workers(swarm: Swarm) -> None:
    """Until the last worker is ready: one that still imports would be taken for memory that connections cost."""
    deadline = time.monotonic() + START_PATIENCE_S
    while (swarm.folder / "server.log").read_text().count("Worker ready") < (swarm.target.workers or 0):
        if time.monotonic() > deadline:
            raise NotAnswering(f"not all of the {swarm.target.workers} workers are ready")
        time.sleep(0.05)


def _start_sampler(swarm: Swarm, stack: contextlib.ExitStack) -> None:
    if swarm.target.pid is None:
        swarm.warnings.append("the server was not sampled: --server-pid was not given")
        return
    output = swarm.folder / "samples.jsonl"
    command = python_module("loadtests.sampler", "--pid", str(swarm.target.pid), "--output", str(output))
    sampler = swarm.sampler = stack.enter_context(running(command, swarm.folder / "sampler.log"))
    deadline = time.monotonic() + 10
    while not (output.exists() and output.stat().st_size) and sampler.poll() is None:  # one sample before any socket
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)


def _locust_command(swarm: Swarm) -> list[str]:
    profile = swarm.profile
    options = {
        "-f": LOCUSTFILE,
        "--host": swarm.target.url,
        "--users": profile.sockets,
        "--spawn-rate": profile.connects_per_s,
        "--run-time": f"{profile.duration_s:g}s",
        "--stop-timeout": STOP_TIMEOUT_S,
        "--rate": f"{profile.rate:g}",
        "--payload": profile.payload_bytes,
        "--recording": swarm.folder / "client.json",
        "--progress": swarm.folder / "progress.jsonl",
        "--exit-code-on-error": 0,
    }
    words = [str(word) for option in options.items() for word in option]
    return python_module("locust", "--headless", "--only-summary", *words, profile.user)


def _run_swarm(swarm: Swarm) -> None:
    deadline = time.monotonic() + swarm.profile.duration_s + SWARM_PATIENCE_S
    with running(_locust_command(swarm), swarm.folder / "locust.log") as process, Progress(swarm.profile) as progress:
        while process.poll() is None:
            try:
                progress.show(_newest(swarm.folder / "progress.jsonl"), _newest(swarm.folder / "samples.jsonl"))
                _watch_server(swarm, process)
                if time.monotonic() > deadline:
                    swarm.warnings.append("the swarm did not end in time, and was stopped")
                    return
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                _interrupt(swarm, process)
        if process.returncode not in (0, -signal.SIGTERM):
            swarm.warnings.append(f"Locust ended with status {process.returncode}: see locust.log")


def _interrupt(swarm: Swarm, process: subprocess.Popen[bytes]) -> None:
    """The first Ctrl-C lets the swarm finish what is in flight; the second one is the user's last word."""
    if swarm.interrupted:
        raise KeyboardInterrupt
    swarm.interrupted = True
    swarm.warnings.append("interrupted before its time")
    process.send_signal(signal.SIGTERM)


def _watch_server(swarm: Swarm, process: subprocess.Popen[bytes]) -> None:
    """Say so, once, if the server is no more; a swarm on a server of its own is then ended."""
    if swarm.server_ended:
        return
    if swarm.server and swarm.server.poll() is not None:
        said = f"the server ended with status {swarm.server.returncode} in the middle of the run: see server.log"
        process.send_signal(signal.SIGTERM)
    elif swarm.sampler and swarm.sampler.poll() is not None and not swarm.server:
        said = f"the server, process {swarm.target.pid}, has ended or can no longer be sampled"
    else:
        return
    swarm.server_ended = True
    swarm.warnings.append(said)
    print(f"\nloadtests: {said}", file=sys.stderr)


def _newest(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of a file of JSON lines that is being written."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - NEWEST_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    return [json.loads(line) for line in lines[1 if start else 0 : -1]]


def _describe(swarm: Swarm, recording: Recording, started_at: str, label: str) -> results.Run:
    profile, target = swarm.profile, swarm.target
    (swarm.folder / "progress.jsonl").unlink(missing_ok=True)
    samples = results.load_samples(swarm.folder / "samples.jsonl")
    warnings = [*swarm.warnings, *_doubts(swarm, recording, samples)]
    phases = phases_seen(recording)
    return results.Run(
        name=profile.name,
        label=label,
        started_at=started_at,
        workload=dict(profile.workload),
        workload_hash=profile.workload_hash,
        server={"address": target.url, "command": _named(target)},
        environment=dict(environment.describe()),
        figures=figures_of(recording, samples, phases, profile.sockets * profile.rate or None),
        errors=_errors(swarm, recording),
        phases=phases,
        verdict=Verdict("incomplete", [warning]) if (warning := _cut_short(swarm)) else Verdict(VALID),
        warnings=warnings,
        path=swarm.folder,
    )


def _cut_short(swarm: Swarm) -> str | None:
    """Why there is less of the run than there should be."""
    if swarm.server_ended:
        return "the server ended in the middle of the run"
    return "the run was interrupted before its time" if swarm.interrupted else None


def _named(target: Target) -> str:
    """The server as it would be typed again: the port was only what happened to be free."""
    if target.title or target.command is None:
        return target.title or "was running already"
    words = ["gserver", *target.command[3:]]
    if "-b" in words:
        words[words.index("-b") + 1] = "127.0.0.1:0"
    return shlex.join(words)


def _doubts(swarm: Swarm, recording: Recording, samples: list[dict[str, Any]]) -> list[str]:
    """What the figures do not say by themselves."""
    doubts = []
    if not sum(cell.outcomes[OK] for cell in _exchanges(recording)):
        doubts.append("no exchange succeeded")
    if swarm.target.pid is not None and not samples:
        doubts.append("the server could not be sampled: see sampler.log")
    return doubts


def _exchanges(recording: Recording) -> list[Cell]:
    return [recording.total([series]) for series in recording.exchange_series()]


def _errors(swarm: Swarm, recording: Recording) -> dict[str, int]:
    ended = {"server: ended in the middle": 1} if swarm.server_ended and swarm.server else {}
    return ended | {
        f"{series}: {outcome}": count
        for series in sorted(recording.cells)
        for outcome, count in sorted(recording.total([series]).outcomes.items())
        if outcome not in (OK, CUT_OFF)
    }
