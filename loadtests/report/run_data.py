"""The data behind the charts of a run: run.json, the recording and the samples, on one time axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from loadtests.recording.recording import Recording
from loadtests.results.store import ResultError, Run, load_recording, load_run, load_samples

__all__ = ["RECORDING", "SAMPLES", "Clock", "Evidence", "evidence_in", "evidence_of", "load_evidence"]

MEASURE = "measure"
RECORDING, SAMPLES = "client.json", "samples.jsonl"


@dataclass(frozen=True)
class Clock:
    """The time axis of a run, in whole seconds of the run's clock, divided into steps for charts."""

    start: int
    end: int
    step: int

    @classmethod
    def over(cls, start: int, end: int, steps: int) -> Clock:
        """A clock of at most `steps` steps of whole seconds."""
        return cls(start, end, max(1, math.ceil((end - start) / steps)))

    @property
    def length(self) -> int:
        return self.end - self.start

    def steps(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each step, on the run's clock."""
        for start in range(self.start, self.end, self.step):
            yield start, min(start + self.step, self.end)

    def since(self, time_s: float) -> float:
        """Seconds since the start of the run."""
        return round(time_s - self.start, 3)


@dataclass(frozen=True)
class Evidence:
    """A run with the data for its charts.

    `missing`: "FILE is missing" for each file that the folder does not have.
    """

    run: Run
    recording: Recording
    samples: Sequence[dict[str, Any]]
    start: int
    end: int
    missing: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[int, int] | None:
        """Start and end of the measured phase; None if the run has none."""
        phase = self.run.phases.get(MEASURE)
        return (phase[0], phase[1]) if phase and phase[1] > phase[0] else None

    def clock(self, steps: int) -> Clock:
        return Clock.over(self.start, self.end, steps)


class _Process(msgspec.Struct):
    pid: int
    cpu_user_s: float
    cpu_system_s: float
    rss_bytes: float


class _Sample(msgspec.Struct):
    time_s: float
    processes: list[_Process]


class _Health(msgspec.Struct):
    sockets: float
    cpu_s: float
    lag_ns: float


def load_evidence(folder: Path) -> Evidence:
    """Load the run in `folder` with its data. ResultError has the reason in one line, or names the damaged file."""
    return evidence_in(load_run(folder))


def evidence_in(run: Run) -> Evidence:
    """Load the data of a run from its folder. ResultError names a damaged file.

    Recording and samples may be missing: run.json alone has all figures.
    """
    folder = run.path
    missing = [name for name in (RECORDING, *([SAMPLES] if _was_sampled(run) else [])) if not (folder / name).exists()]
    recording = Recording() if RECORDING in missing else load_recording(folder / RECORDING)
    samples = load_samples(folder / SAMPLES)
    _check(folder / "run.json", run.phases, dict[str, tuple[int, int]])
    _check(folder / RECORDING, recording.health, dict[str, dict[int, _Health]])
    _check(folder / SAMPLES, samples, list[_Sample])
    return evidence_of(run, recording, samples, [f"{name} is missing" for name in missing])


def _was_sampled(run: Run) -> bool:
    return any(figure.name.startswith("server_") for figure in run.figures)


def _check(path: Path, values: object, shape: Any) -> None:
    """Raise ResultError if the values do not have this shape, because the charts do not check them again."""
    try:
        msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is damaged: {error}") from None


def evidence_of(
    run: Run, recording: Recording, samples: Sequence[dict[str, Any]], missing: Sequence[str] = ()
) -> Evidence:
    """Put a run and its data together. The time axis starts with the first phase, or with the first recorded second."""
    seconds = [second for cells in recording.cells.values() for second in cells]
    seconds += [second for health in recording.health.values() for second in health]
    starts = [phase[0] for phase in run.phases.values()]
    start = min(starts or seconds, default=0)
    end = max([*(second + 1 for second in seconds), *(phase[1] for phase in run.phases.values())], default=start)
    return Evidence(run, recording, samples, start, end, tuple(missing))
