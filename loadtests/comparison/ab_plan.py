"""Pairs of runs, one of each side, in an order that chance decides: what is planned, and what has been made. Pure.

    ab.json   {"kind": "gserver load test pairs", "schema_version": 1, "a": "gserver:json@1a2b3c", "b": "gserver:json",
               "seed": 7, "max_pairs": 12, "looks": 3, "band": 0.03, "order": ["ba", "ab", ...],
               "pairs": [["folder of A's run", "folder of B's"], ...],
               "repeated": [{"run": "folder", "side": "a", "reasons": [...]}, ...], "ended": "settled", "why": ""}

`order` and `pairs` are those of the pairs that were made. It is written anew after each of them. `ended`: "settled",
"all pairs", "interrupted", "invalid" (no run of a side could be believed), "busy" (the host), "failed" (a side did not
start, or a run came to no end); `why` is a sentence about the last three.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtests.comparison.compare import HEADLINES
from loadtests.comparison.model import INCONCLUSIVE, Comparison
from loadtests.comparison.noise_floor import HOST_KEYS, NoiseFloor
from loadtests.inference.rank_tests import noise_floor
from loadtests.results.store import Run

__all__ = ["LOOKS", "Ended", "Made", "Repeated", "draw", "floor_of", "is_settled", "unsettled"]

KIND = "gserver load test pairs"
SCHEMA_VERSION = 1
#: How often the pairs are looked at, so that no more are made than it takes.
LOOKS = 3
Ended = Literal["", "settled", "all pairs", "interrupted", "invalid", "busy", "failed"]


@dataclass(frozen=True)
class Repeated:
    """A run that says of itself that it cannot be believed, and was made once more."""

    run: str
    side: str
    reasons: list[str]


@dataclass
class Made:
    """ab.json."""

    a: str
    b: str
    seed: int
    max_pairs: int
    looks: int
    band: float
    order: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    ended: Ended = ""
    why: str = ""

    def to_json(self) -> str:
        values = {"kind": KIND, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def draw(seed: int, pairs: int) -> list[str]:
    """The random order of each pair: "ab" or "ba". A longer list of the same seed begins with the shorter one."""
    chance = random.Random(seed)
    return [chance.choice(("ab", "ba")) for _ in range(pairs)]


def unsettled(comparison: Comparison) -> list[str]:
    """The headline figures whose verdict is still inconclusive."""
    return [figure.name for figure in comparison.headlines if figure.answer == INCONCLUSIVE]


def is_settled(comparison: Comparison) -> bool:
    """Whether no headline figure is inconclusive, so that no more pairs are needed."""
    return bool(comparison.headlines) and not unsettled(comparison)


def floor_of(a: Sequence[Run], b: Sequence[Run]) -> NoiseFloor:
    """The noise floor from pairs whose two sides are the same server."""
    distances = {name: _distances(name, a, b) for name in HEADLINES}
    floors = {name: noise_floor(found) for name, found in distances.items() if found}
    host = {key: a[0].environment.get(key) for key in HOST_KEYS}
    return NoiseFloor(a[0].workload_hash, host, len(a), floors, a[0].schema)


def _distances(name: str, a: Sequence[Run], b: Sequence[Run]) -> list[float]:
    """The differences of logarithms of the pairs; empty if a run lacks the figure, or has a value of zero or less."""
    found = [(one.headline(name), other.headline(name)) for one, other in zip(a, b, strict=True)]
    values = [(x.value, y.value) for x, y in found if x and y]
    if len(values) < len(found) or min(map(min, values), default=0.0) <= 0:
        return []
    return [math.log(y / x) for x, y in values]
