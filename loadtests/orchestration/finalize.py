"""Finishes a run: computes its figures and verdict from the recording, and writes its folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from loadtests.host import environment
from loadtests.host.bounded_log import last_line
from loadtests.orchestration.swarm import Swarm
from loadtests.recording.recording import Recording, failures
from loadtests.report import render_markdown
from loadtests.results import store
from loadtests.results.metrics import Figure, Window, doubts_of_server, figures_of, measure_window, withheld_of
from loadtests.results.retransmits import retransmit_warnings
from loadtests.results.validity import Evidence, judge
from loadtests.workloads.custom_message import unescaped
from loadtests.workloads.profiles import Profile
from loadtests.workloads.stages import HELD, MEASURE

__all__ = ["Reserve", "finalize"]

RESERVED_BYTES = 256 * 1024


class Reserve:
    """Reserves disk space that is freed at the end, so that run.json can be written even if the disk is full by then.

    If it cannot be reserved, a line warns at the start, when a run of an hour can still be stopped and made elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserved"
        try:
            self._path.write_bytes(os.urandom(RESERVED_BYTES))  # a file system may store zeros as nothing
        except OSError as error:
            self.free()
            print(
                f"loadtests: {folder}: {error.strerror}: {RESERVED_BYTES // 1024} KiB cannot be reserved for run.json,"
                " so this run may not be kept. Its figures will be printed.",
                file=sys.stderr,
            )

    def free(self) -> None:
        with contextlib.suppress(OSError):  # the folder may have been removed
            self._path.unlink()

    def free_if_alone(self) -> None:
        """Free the space if the folder has no other file."""
        with contextlib.suppress(OSError):
            if [path.name for path in self._path.parent.iterdir()] == [self._path.name]:
                self.free()


def finalize(swarm: Swarm, reserve: Reserve, started_at: str, label: str) -> store.Run:
    """Write the run to its folder and return it; a line is printed for each file that cannot be written.

    ResultError if the swarm left no recording, KeyboardInterrupt if it was interrupted before it could.
    """
    if swarm.recording is None:
        reserve.free()
    recording = _recording(swarm)
    for path in (swarm.recording, swarm.samples):
        if path is not None and path.exists():  # no samples, if the server was not sampled
            _keep(swarm, path)
    run = _run_of(swarm, recording, started_at, label)
    reserve.free()
    store.could_not_write(lambda: store.save_run(swarm.folder, run))
    store.could_not_write(lambda: store.write_whole(swarm.folder / "report.md", render_markdown(run)))
    return run


def _recording(swarm: Swarm) -> Recording:
    if swarm.recording is None:
        if swarm.interrupted:
            raise KeyboardInterrupt
        line = last_line(swarm.folder / "locust.log") or "none"
        raise store.ResultError(f"{swarm.folder}: the swarm left no recording; last line of locust.log: {line}")
    return store.load_recording(swarm.recording)


def _keep(swarm: Swarm, path: Path) -> None:
    """Copy a file to the folder of the run; it gets its name only when it is complete."""
    kept = swarm.folder / path.name
    if path == kept:
        return
    unfinished = kept.with_name(f"{path.name}.unfinished")
    try:
        shutil.copyfile(path, unfinished)
        unfinished.replace(kept)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        swarm.accidents.append(f"{path.name} could not be kept: {error.strerror or error}.")


def _run_of(swarm: Swarm, recording: Recording, started_at: str, label: str) -> store.Run:
    profile, target, state = swarm.profile, swarm.server.target, swarm.load_state
    samples = store.load_samples(swarm.samples)
    phases: dict[str, list[int]] = state.get("phases", {})
    window = measure_window(phases)
    figures = figures_of(recording, samples, phases, _offered(profile, recording, window), profile.per_task)
    return store.Run(
        name=profile.name,
        label=label,
        started_at=started_at,
        workload=profile.workload,
        workload_hash=profile.workload_hash,
        server={"address": target.url, "command": target.shown_command, **target.described_workers},
        environment={
            **environment.describe(),
            "pinning": swarm.spread.cores.shown(),
            "generator": _generator(swarm),
        },
        figures=[*figures, *_limit(state)],
        errors=_errors(swarm, recording),
        phases=phases,
        verdict=judge(_evidence(swarm, recording, samples, window)),
        warnings=[
            *_warnings(swarm, samples, state),
            *doubts_of_server(samples, phases),
            *retransmit_warnings(recording, samples, window),
        ],
        examples={name: recording.examples[name] for name in sorted(recording.examples) if recording.examples[name]},
        withheld=withheld_of(recording, samples, phases),
        path=swarm.folder,
    )


def _generator(swarm: Swarm) -> str:
    if swarm.spread.master is not None:
        return f"a master and {swarm.workers} worker{'' if swarm.workers == 1 else 's'} elsewhere"
    return f"{swarm.spread.processes} process" + ("" if swarm.spread.processes == 1 else "es and a master")


def _evidence(swarm: Swarm, recording: Recording, samples: list[dict[str, Any]], window: Window) -> Evidence:
    profile = swarm.profile
    return Evidence(
        recording,
        samples,
        window,
        planned_s=_planned_s(profile),
        sockets=profile.sockets if profile.shape in HELD else 0,
        offered=_offered(profile, recording, window),
        per_task=profile.per_task,
        accidents=tuple(swarm.accidents),
        generator_cores=len(swarm.spread.cores.generator),
        cores=os.cpu_count() or 1,
        message_bytes=_message_bytes(profile),
    )


def _offered(profile: Profile, recording: Recording, window: Window) -> float | None:
    """Scheduled exchanges (or tasks) per second; a user class of one's own may not use --rate."""
    if profile.per_task and profile.offered:
        return recording.asked_per_s(window.start, window.end)
    return profile.offered


def _message_bytes(profile: Profile) -> int | None:
    """The size of a message without framing, which may arrive in several parts; 0: framed; None: unknown."""
    if profile.file:
        return None
    if profile.user in ("EchoUser", "SlowReader"):
        return profile.payload_bytes
    if profile.user == "MessageUser" and profile.codec == "raw":
        return len(unescaped(profile.message))
    return 0


def _planned_s(profile: Profile) -> int:
    """Planned seconds of the measure phase. A ramp that is measured may take longer, so it counts 0."""
    if profile.shape == "search":
        return profile.duration_s
    return sum(stage.hold_s for stage in profile.plan.stages if stage.phase == MEASURE)


def _limit(state: dict[str, Any]) -> list[Figure]:
    """The figures of a search: the highest rate and number of sockets that met the objective."""
    good = [step for step in state.get("steps", []) if not step["broken"]]
    if not good:
        return []
    best = max(good, key=lambda step: float(step["offered"]))
    return [
        Figure("limit_rate", best["rate"], "exchanges/s", "higher"),
        Figure("limit_sockets", best["sockets"], "sockets", "higher"),
    ]


def _warnings(swarm: Swarm, samples: list[dict[str, Any]], state: dict[str, Any]) -> list[str]:
    """Warnings: missing samples, and the steps of a search."""
    warnings = []
    if swarm.server.pid is None and swarm.server.target.sampler is None:
        warnings.append("the server was not sampled: --server-pid was not given")
    elif not samples:
        warnings.append("the server could not be sampled: see sampler.log")
    for step in state.get("steps", []):
        result = step["broken"] or "meets the objective"
        warnings.append(f"{step['sockets']:,} sockets, {step['offered']:,.0f} scheduled exchanges/s: {result}")
    return warnings


def _errors(swarm: Swarm, recording: Recording) -> dict[str, int]:
    ended = {"server: ended in the middle": 1} if swarm.server_ended else {}
    return ended | {
        f"{series}: {outcome}": count
        for series in sorted(recording.cells)
        for outcome, count in sorted(recording.total([series]).outcomes.items())
        if failures({outcome: count})
    }
