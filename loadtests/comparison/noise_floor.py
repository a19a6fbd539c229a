"""The noise floor of a host: how much two runs of the same server differ there. `loadtests ab --aa` stores it.

    {"kind": "gserver load test noise floor", "schema_version": 1, "workload_hash": "...", "environment": {...},
     "pairs": 20, "floors": {"throughput": 0.012, ...}, "run_schema": 3}

A floor is the 95th percentile of |ln(B / A)| over the pairs. It holds for that workload on that host only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from loadtests.results.store import ResultError, Run, write_whole
from loadtests.servers.toolchain import cache_folder

__all__ = ["HOST_KEYS", "NoiseFloor", "load_noise", "noise_file", "save_noise", "stored_noise"]

SCHEMA_VERSION = 1
KIND = "gserver load test noise floor"
#: The keys of the environment that identify a host.
HOST_KEYS = ("system", "processor", "cores")


@dataclass(frozen=True)
class NoiseFloor:
    """How much equal runs differ: a floor for each figure, measured with `pairs` pairs."""

    workload_hash: str
    environment: dict[str, Any]
    pairs: int
    floors: dict[str, float]
    run_schema: int = 2  # schema of the runs; figures of another schema have another meaning

    def objections_to(self, run: Run) -> list[str]:
        """Why this floor does not apply to a run; empty if it applies."""
        if run.workload_hash != self.workload_hash:
            return [f"the noise floor is of workload {self.workload_hash}, the run of {run.workload_hash}"]
        if run.schema != self.run_schema:
            was = f"the noise floor is of runs with schema {self.run_schema} of run.json, the run has {run.schema}"
            return [f"{was}: measure it again with `loadtests ab --aa`"]
        return [
            f"the noise floor is of another host: {key} {self.environment.get(key)!r}, not {run.environment.get(key)!r}"
            for key in HOST_KEYS
            if self.environment.get(key) != run.environment.get(key)
        ]


def noise_file(workload_hash: str, environment: dict[str, Any]) -> Path:
    """The file for the floor of a workload on a host, below the user's cache folder."""
    host = json.dumps([environment.get(key) for key in HOST_KEYS])
    name = f"{workload_hash}-{hashlib.sha256(host.encode()).hexdigest()[:12]}.json"
    return cache_folder("gserver-loadtests") / "noise" / name


def stored_noise(run: Run) -> NoiseFloor | None:
    """The stored noise floor that applies to a run; None if there is none, or only one of an older schema."""
    path = noise_file(run.workload_hash, run.environment)
    noise = load_noise(path) if path.exists() else None
    return noise if noise and not noise.objections_to(run) else None


def save_noise(path: Path, noise: NoiseFloor) -> None:
    """Write the floor to a file, whole or not at all. The folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"kind": KIND, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(noise)}
    write_whole(path, json.dumps(values, indent=1) + "\n")


def load_noise(path: Path) -> NoiseFloor:
    """Read a noise floor from a file. A file that is none raises ResultError with the reason in one line."""
    try:
        data = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict) or data.pop("kind", None) != KIND:
        raise ResultError(f"{path} is not a noise floor of a gserver load test")
    version = data.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise ResultError(f"{path} has schema version {version!r}; this version of loadtests reads {SCHEMA_VERSION}")
    try:
        noise = msgspec.convert(data, NoiseFloor)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is damaged: {error}") from None
    if noise.pairs < 1 or min(noise.floors.values(), default=0) < 0:
        raise ResultError(f"{path} is damaged: it has {noise.pairs} pairs and the floors {noise.floors}")
    return noise
