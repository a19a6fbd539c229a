"""The plan and the record of `loadtests ab`: pairs of runs, one of each side, in a random order.

    ab.json   {"kind": "gserver load test pairs", "schema_version": 1, "a": "gserver:json@1a2b3c", "b": "gserver:json",
               "seed": 7, "max_pairs": 12, "looks": 3, "band": 0.03, "order": ["ba", "ab", ...],
               "pairs": [["folder of A's run", "folder of B's"], ...],
               "repeated": [{"run": "folder", "side": "a", "reasons": [...]}, ...], "ended": "settled", "why": ""}

`order` and `pairs` list the pairs that were made; the file is written anew after each pair. `ended`: "settled",
"all pairs", "interrupted", "invalid" (no valid run of one side), "busy" (the host), "failed" (a side did not start, or
a run did not finish); `why` explains the last three in a sentence.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from loadtests.comparison.compare import HEADLINES
from loadtests.comparison.model import INCONCLUSIVE, Comparison
from loadtests.comparison.noise_floor import HOST_KEYS, NoiseFloor
from loadtests.inference.rank_tests import noise_floor
from loadtests.results.store import ResultError, Run

__all__ = [
    "AB_FILE",
    "LOOKS",
    "AbRecord",
    "Ended",
    "Repeated",
    "draw",
    "floor_of",
    "is_settled",
    "load_record",
    "unsettled",
]

AB_FILE = "ab.json"

KIND = "gserver load test pairs"
SCHEMA_VERSION = 1
#: How often the pairs made so far are compared, so that `ab` can stop early.
LOOKS = 3
Ended = Literal["", "settled", "all pairs", "interrupted", "invalid", "busy", "failed"]


@dataclass(frozen=True)
class Repeated:
    """A run that was repeated because it was not valid."""

    run: str
    side: str
    reasons: list[str]


@dataclass
class AbRecord:
    """The content of ab.json. A file needs only `pairs`: the defaults are for files that were written by hand.

    Attributes:
        a, b: titles of the sides.
        seed: of the order within the pairs.
        max_pairs: planned pairs; None: those that were made.
        looks: how often the pairs made so far are compared, the last time included.
        band: relative difference that does not matter; None: not recorded.
        order: "ab" or "ba" for each pair.
        pairs: (folder of A's run, folder of B's run), beside ab.json.
        ended: one of `Ended`. why: the reason, if not all pairs were made; "" otherwise.
    """

    a: str = "A"
    b: str = "B"
    seed: int | None = None
    max_pairs: int | None = None
    looks: int = 1
    band: float | None = None
    order: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    ended: str = ""
    why: str = ""

    @property
    def planned_pairs(self) -> int:
        return self.max_pairs or len(self.pairs)

    def to_json(self) -> str:
        values = {"kind": KIND, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def load_record(folder: Path) -> AbRecord:
    """Read the ab.json in `folder`; ResultError explains in one line why that is impossible."""
    path = folder / AB_FILE
    if (folder / "run.json").exists():
        raise ResultError(f"{folder} is one run: there is nothing to compare it with")
    try:
        record = msgspec.json.decode(path.read_bytes(), type=AbRecord)
    except FileNotFoundError:
        raise ResultError(f"{folder}: not a folder of `loadtests ab` (there is no {AB_FILE})") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from None
    if not record.pairs and record.why:
        raise ResultError(f"{folder}: no pair was made: {record.why}")
    if not record.pairs or not 1 <= record.looks <= record.planned_pairs:
        raise ResultError(f"{path} is damaged: {len(record.pairs)} pairs, {record.looks} looks")
    return record


def draw(seed: int, pairs: int) -> list[str]:
    """Draw for each pair which side goes first: "ab" or "ba". A larger number of pairs begins with the same draws."""
    chance = random.Random(seed)
    return [chance.choice(("ab", "ba")) for _ in range(pairs)]


def unsettled(comparison: Comparison) -> list[str]:
    """The headline figures without a verdict so far."""
    return [figure.name for figure in comparison.headlines if figure.answer == INCONCLUSIVE]


def is_settled(comparison: Comparison) -> bool:
    """Whether every headline figure has its verdict, so that more pairs are not needed."""
    return bool(comparison.headlines) and not unsettled(comparison)


def floor_of(a: Sequence[Run], b: Sequence[Run]) -> NoiseFloor:
    """The noise floor of a host: how far apart pairs of runs of the same server lie."""
    distances = {name: _distances(name, a, b) for name in HEADLINES}
    floors = {name: noise_floor(found) for name, found in distances.items() if found}
    host = {key: a[0].environment.get(key) for key in HOST_KEYS}
    return NoiseFloor(a[0].workload_hash, host, len(a), floors, a[0].schema)


def _distances(name: str, a: Sequence[Run], b: Sequence[Run]) -> list[float]:
    """Log ratios B/A of a figure; empty if a run lacks the figure or its value is not positive."""
    found = [(one.headline(name), other.headline(name)) for one, other in zip(a, b, strict=True)]
    values = [(x.value, y.value) for x, y in found if x and y]
    if len(values) < len(found) or min(map(min, values), default=0.0) <= 0:
        return []
    return [math.log(y / x) for x, y in values]
