"""Save and load the folder of a run, which has all data for reports and comparisons.

    run.json        workload, server, environment, figures and verdict; written last before report.md, so that a folder
                    with a run.json is complete
    client.json     the recording of the swarm: a histogram and the outcomes for each series and second
    samples.jsonl   the samples of the server: CPU, memory and more of its process tree, one sample a line
    server.log, locust.log, sampler.log    of a long log the beginning and the end
    report.md       the report

Schemas of run.json: 2 has phases, a verdict, intervals of figures, and both latencies. In 3 late replies to requests of
the measured phase count, failures are of all phases of a connection, memory per connection is fitted or withheld, and
the verdict separates shortfalls of the server from doubts about the figures. Schema 2 can be read, but not compared
with 3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from loadtests.errors import ResultError, cause_of
from loadtests.recording.recording import Recording
from loadtests.results.metrics import Figure
from loadtests.results.validity import Verdict
from loadtests.text_encoding import SHOWABLE

__all__ = [
    "ResultError",
    "Run",
    "could_not_write",
    "is_kept",
    "load_recording",
    "load_run",
    "load_samples",
    "save_run",
    "write_whole",
]

SCHEMA_VERSION = 3
READABLE = (2, 3)
KIND = "gserver load test run"


@dataclass(frozen=True)
class Run:
    """One run, with the fields of run.json."""

    name: str
    label: str
    started_at: str  # UTC, ISO 8601
    workload: dict[str, Any]
    workload_hash: str
    server: dict[str, Any]  # command, workers and address, as far as known
    environment: dict[str, Any]
    figures: list[Figure]
    errors: dict[str, int]  # "series: class" -> count
    phases: dict[
        str, list[int]
    ]  # "ramp", "warmup", "measure", "cooldown" -> [start, end) in seconds of the run's clock
    verdict: Verdict
    warnings: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)  # "series: class" -> text of the first such failure
    withheld: dict[str, str] = field(default_factory=dict)  # name of a figure that the run cannot give -> reason
    schema: int = SCHEMA_VERSION  # schema version of its run.json
    path: Path = field(default=Path(), compare=False)

    def figure(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    def headline(self, name: str) -> Figure | None:
        """The figure if the run has it and it is reliable, else None.

        Not reliable are quantiles of too few values, and memory per connection of schema 2, which includes memory that
        the server itself allocates once.
        """
        figure = self.figure(name)
        if figure is None or figure.is_of_few or (self.schema < 3 and name == "server_rss_per_socket"):
            return None
        return figure


def save_run(folder: Path, run: Run) -> None:
    """Write run.json, whole or not at all."""
    values = dataclasses.asdict(run)
    del values["path"], values["schema"]
    kept = {"kind": KIND, "schema_version": SCHEMA_VERSION, **values}
    write_whole(folder / "run.json", json.dumps(kept, indent=1, ensure_ascii=False))


def is_kept(run: Run) -> bool:
    """Whether run.json was written. It may be missing because the disk was full."""
    return (run.path / "run.json").exists()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, text in UTF-8. An OSError names the file."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", SHOWABLE))
        unfinished.replace(path)
    except OSError as error:  # which names no file if the disk is full
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def could_not_write(write: Callable[[], object]) -> bool:
    """Call `write`. On an OSError print a line that names the file, and return True; else return False."""
    try:
        write()
    except OSError as error:
        print(f"loadtests: not written: {cause_of(error)}", file=sys.stderr)
        return True
    return False


def load_run(folder: Path) -> Run:
    """Load the run in `folder`. ResultError has the reason in one line if there is none, or if it is damaged."""
    data = _read_json(folder / "run.json", "not the folder of a run")
    if not isinstance(data, dict) or data.pop("kind", None) != KIND:
        raise ResultError(f"{folder}: run.json is not of a gserver load test")
    version = data.pop("schema_version", None)
    if version not in READABLE:
        is_newer = isinstance(version, int) and version > SCHEMA_VERSION
        advice = "upgrade loadtests" if is_newer else "make the run again"
        raise ResultError(
            f"{folder}: run.json has schema version {version!r}, and this loadtests reads versions"
            f" {READABLE[0]} to {READABLE[-1]}: {advice}"
        )
    try:
        run = dataclasses.replace(msgspec.convert(data, Run), path=folder, schema=version)
    except msgspec.ValidationError as error:
        raise ResultError(f"{folder}: run.json is damaged: {error}") from None
    if not isinstance(run.workload.get("sockets"), int):
        raise ResultError(f"{folder}: run.json is damaged: its workload has no number of sockets")
    return run


def load_recording(path: Path) -> Recording:
    """Load the recording of a swarm; ResultError if the file is missing or damaged."""
    data = _read_json(path, "the swarm left no recording")
    try:
        return Recording.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} is damaged: {error}") from None


def load_samples(path: Path) -> list[dict[str, Any]]:
    """Load the samples of the server; none if there is no file. A last line that a crash cut off is left out."""
    if not path.exists():
        return []
    samples = []
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            samples.append(json.loads(line))
        except ValueError:
            break
    return samples


def _read_json(path: Path, otherwise: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())  # unlike json.loads() it rejects infinity
    except FileNotFoundError:
        raise ResultError(f"{path.parent}: {otherwise} (there is no {path.name})") from None
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from None
