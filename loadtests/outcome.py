"""From what a swarm left to the folder of a run: figures, a verdict, and files, or words for those that are missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from loadtests import environment, results
from loadtests.asked import unescaped
from loadtests.figures import Figure, Window, doubts_of_server, figures_of, measure_window, withheld_of
from loadtests.profiles import Profile
from loadtests.recording import CUT_OFF, OK, Recording
from loadtests.report import render_markdown
from loadtests.shapes import MEASURE
from loadtests.swarm import Swarm
from loadtests.verdict import Evidence, judge

__all__ = ["Reserve", "concluded"]

RESERVED_BYTES = 256 * 1024


class Reserve:
    """Room in a folder that is given up at the end, so that run.json can be written on a disk that has become full."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserved"
        try:
            self._path.write_bytes(os.urandom(RESERVED_BYTES))  # a file system may store zeros as nothing
        except OSError:
            self.free()  # there was none to begin with

    def free(self) -> None:
        self._path.unlink(missing_ok=True)

    def free_if_alone(self) -> None:
        """If nothing came of the run so far."""
        if [path.name for path in self._path.parent.iterdir()] == [self._path.name]:
            self.free()


def concluded(swarm: Swarm, reserve: Reserve, started_at: str, label: str) -> results.Run:
    """The run, written to its folder as far as that has room.

    ResultError if the swarm left nothing, KeyboardInterrupt if it was interrupted before it could, OSError if not even
    run.json can be written.
    """
    try:
        recording = _recording(swarm)
    finally:
        if not (swarm.work / "client.json").exists():
            reserve.free()
    _keep(swarm)
    run = _described(swarm, recording, started_at, label)
    try:
        results.write_whole(swarm.folder / "report.md", render_markdown(run))
    except OSError as error:
        print(f"loadtests: report.md was not written: {error}", file=sys.stderr)
    reserve.free()
    results.save_run(swarm.folder, run)
    return run


def _recording(swarm: Swarm) -> Recording:
    path = swarm.work / "client.json"
    if not path.exists():
        if swarm.interrupted:
            raise KeyboardInterrupt
        log = (swarm.folder / "locust.log").read_text(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(log) if line.strip()), "nothing")
        raise results.ResultError(
            f"{swarm.folder}: the swarm left no recording; the last it said in locust.log: {said}"
        )
    return results.load_recording(path)


def _keep(swarm: Swarm) -> None:
    """What was under way becomes part of the folder, by name only once it is whole."""
    kept = swarm.folder / "client.json"
    unfinished = kept.with_name("client.json.unfinished")
    try:
        shutil.copyfile(swarm.work / "client.json", unfinished)
        unfinished.replace(kept)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        swarm.accidents.append(f"client.json could not be kept: {error.strerror or error}.")


def _described(swarm: Swarm, recording: Recording, started_at: str, label: str) -> results.Run:
    profile, target, told = swarm.profile, swarm.server.target, swarm.told
    samples = results.load_samples(swarm.samples)
    phases: dict[str, list[int]] = told.get("phases", {})
    figures = figures_of(recording, samples, phases, profile.offered)
    return results.Run(
        name=profile.name,
        label=label,
        started_at=started_at,
        workload=profile.workload,
        workload_hash=profile.workload_hash,
        server={"address": target.url, "command": target.shown_command},
        environment={
            **environment.describe(),
            "pinning": swarm.spread.cores.shown(),
            "generator": _generator(swarm),
        },
        figures=[*figures, *_limit(told)],
        errors=_errors(swarm, recording),
        phases=phases,
        verdict=judge(_evidence(swarm, recording, samples, measure_window(phases))),
        warnings=[*_warnings(swarm, samples, told), *doubts_of_server(samples, phases)],
        withheld=withheld_of(recording, samples, phases),
        path=swarm.folder,
    )


def _generator(swarm: Swarm) -> str:
    if swarm.spread.master is not None:
        return f"a master and {swarm.spread.workers} workers elsewhere"
    return f"{swarm.spread.processes} process" + ("" if swarm.spread.processes == 1 else "es and a master")


def _evidence(swarm: Swarm, recording: Recording, samples: list[dict[str, Any]], window: Window) -> Evidence:
    profile = swarm.profile
    is_held = profile.shape in ("hold", "plateaus", "doublings") and profile.user != "ChurnUser"
    return Evidence(
        recording,
        samples,
        window,
        planned_s=_planned_s(profile),
        sockets=profile.sockets if is_held else 0,
        accidents=tuple(swarm.accidents),
        generator_cores=len(swarm.spread.cores.generator),
        cores=os.cpu_count() or 1,
        message_bytes=_message_bytes(profile),
    )


def _message_bytes(profile: Profile) -> int | None:
    """Of a message that has no framing, which a server receives in as many pieces as it happens to; 0: it has."""
    if profile.file:
        return None
    if profile.user in ("EchoUser", "SlowReader"):
        return profile.payload_bytes
    if profile.user == "MessageUser" and profile.codec == "raw":
        return len(unescaped(profile.message))
    return 0


def _planned_s(profile: Profile) -> int:
    """Of the measure phase, where that is known beforehand to the second: a climb takes what it takes."""
    if profile.shape == "search":
        return profile.duration_s
    return sum(stage.hold_s for stage in profile.plan.stages if stage.phase == MEASURE)


def _limit(told: dict[str, Any]) -> list[Figure]:
    """What a search has found."""
    held = [step for step in told.get("steps", []) if not step["broken"]]
    if not held:
        return []
    best = max(held, key=lambda step: float(step["offered"]))
    return [
        Figure("limit_rate", best["rate"], "exchanges/s", "higher"),
        Figure("limit_sockets", best["sockets"], "sockets", "higher"),
    ]


def _warnings(swarm: Swarm, samples: list[dict[str, Any]], told: dict[str, Any]) -> list[str]:
    """What the figures do not say by themselves."""
    warnings = []
    if swarm.server.pid is None and swarm.server.target.sampler is None:
        warnings.append("the server was not sampled: --server-pid was not given")
    elif not samples:
        warnings.append("the server could not be sampled: see sampler.log")
    for step in told.get("steps", []):
        said = step["broken"] or "holds"
        warnings.append(f"{step['sockets']:,} sockets, {step['offered']:,.0f} exchanges/s asked for: {said}")
    return warnings


def _errors(swarm: Swarm, recording: Recording) -> dict[str, int]:
    ended = {"server: ended in the middle": 1} if swarm.server_ended else {}
    return ended | {
        f"{series}: {outcome}": count
        for series in sorted(recording.cells)
        for outcome, count in sorted(recording.total([series]).outcomes.items())
        if outcome not in (OK, CUT_OFF)
    }
