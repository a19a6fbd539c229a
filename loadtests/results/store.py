"""The folder of a run: everything a report or a comparison needs, and nothing that has to be read out of text.

    run.json        what ran, where, and its figures; written after all but report.md: a folder that has one is whole
    client.json     what the swarm saw: a histogram and the outcomes for each series and second
    samples.jsonl   what the server cost: a line for each sample of its process tree
    server.log, locust.log, sampler.log    bounded: of a long one the beginning and the end
    report.md       the run in words

run.json history: schema 1, the first; 2, with phases, a verdict, intervals of figures, and both latencies; 3, in which
what was due in the measured phase and came later counts, failures are of all phases of a connection, memory of a
connection is fitted or withheld, and the verdict tells what the server did not do from what limits belief. Schema 2 is
read, and not compared with 3.
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
    """One run, as run.json keeps it."""

    name: str
    label: str
    started_at: str  # UTC, ISO 8601
    workload: dict[str, Any]
    workload_hash: str
    server: dict[str, Any]  # command, workers and address; what is known of one that ran already
    environment: dict[str, Any]
    figures: list[Figure]
    errors: dict[str, int]  # "series: class" -> count
    phases: dict[str, list[int]]  # "ramp", "warmup", "measure", "cooldown" -> seconds of the run's clock, end exclusive
    verdict: Verdict
    warnings: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)  # "series: class" -> the text of the first failure of it
    withheld: dict[str, str] = field(default_factory=dict)  # a figure that the run does not have -> why
    schema: int = SCHEMA_VERSION  # with which it was kept
    path: Path = field(default=Path(), compare=False)

    def figure(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    def headline(self, name: str) -> Figure | None:
        """The figure, if the run has it and it can be stated.

        A quantile of too few values cannot. Nor can memory of a connection of schema 2: it counted what a server takes
        once as memory of its connections.
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
    """Whether the folder of a run has its run.json: a full disk may have kept it from being written."""
    return (run.path / "run.json").exists()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that nobody ever reads half of it; text in UTF-8. An OSError names the file."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", SHOWABLE))
        unfinished.replace(path)
    except OSError as error:  # which names no file if there was no room
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def could_not_write(write: Callable[[], object]) -> bool:
    """Call what writes files; if it cannot, print a line that names the file, and return True."""
    try:
        write()
    except OSError as error:
        print(f"loadtests: not written: {cause_of(error)}", file=sys.stderr)
        return True
    return False


def load_run(folder: Path) -> Run:
    """The run in `folder`; ResultError says in one line why it is none."""
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
        raise ResultError(f"{folder}: run.json is damaged: its workload says no number of sockets")
    return run


def load_recording(path: Path) -> Recording:
    """What the swarm saw; ResultError if the file is missing or damaged."""
    data = _read_json(path, "the swarm left no recording")
    try:
        return Recording.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} is damaged: {error}") from None


def load_samples(path: Path) -> list[dict[str, Any]]:
    """The samples of the server, none if there is no file. A last line that was cut by a crash is left out."""
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
        return msgspec.json.decode(path.read_bytes())  # unlike the standard library's it lets no infinity pass
    except FileNotFoundError:
        raise ResultError(f"{path.parent}: {otherwise} (there is no {path.name})") from None
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from None
