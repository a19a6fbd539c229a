"""The named workloads. A workload's hash covers what must be equal for two runs to be comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.text_encoding import as_text
from loadtests.workloads.stages import COOLDOWN, HELD, MEASURE, RAMP, WARMUP, Objective, Stage

__all__ = ["PROFILES", "Plan", "Profile"]

# For the last users of the ramp to connect, and for what they cause to settle.
WARMUP_S = 2
COOLDOWN_S = 1
# A rest on the way up, in which the server's memory is read: it grows in steps, and the sampler needs some samples.
PLATEAU_S = 6
# Of the profile "memory": the sockets that warm the server up, and rests that a busy host leaves a plateau of.
WARM_SOCKETS, SHORT_PLATEAU_S = 100, 5
SPIKE_S = 5
#: What other users do not look at makes no other workload of theirs.
_ONLY_FOR = {("EchoUser", "SlowReader"): ("payload_bytes",), ("MessageUser",): ("message", "codec", "expect")}


@dataclass(frozen=True)
class Plan:
    """The load that load_shape.py applies: stages, or with an objective a search, and `measure_s` at its end."""

    stages: list[Stage]
    objective: Objective | None = None
    first: int = 0
    sockets: int = 0
    sockets_per_s: float = 1.0
    rate: float = 0.0
    step_s: int = 0
    measure_s: int = 0
    per_task: bool = False


@dataclass(frozen=True)
class Profile:
    """What a swarm does, and on which server when the run starts one itself.

    Attributes:
        description: what it does; tells: what it is good for.
        app: the gserver application; user: the Locust user class that speaks to it.
        sockets: users, of one connection each.
        connects_per_s: how fast they come.
        rate: tasks a second of each user, which are exchanges but for users of one's own; 0 is as fast as the server
            answers.
        duration_s: whole seconds of the measure phase.
        payload_bytes: of an EchoUser's message. depth: with rate 0, messages in flight on each connection.
        shape: "hold"; "plateaus" rests on the way up; "doublings" rests at a few sockets, then at a quarter and at half
            of them; "climb" measures on the way up; "spike" has a tenth of the sockets, all, and a tenth again;
            "search" looks for the most sockets that keep the objective.
        workers: of the server, at least.
        message, codec, expect: of a MessageUser. file: a Locust file with the user class; file_digest: of its text.
    """

    name: str
    description: str
    app: str
    user: str
    sockets: int
    connects_per_s: int
    rate: float
    duration_s: int
    tells: str = ""
    payload_bytes: int = 64
    workers: int = 1
    depth: int = 1
    shape: str = "hold"
    objective: Objective | None = None
    message: str = ""
    codec: str = "lines"
    expect: str = ""
    file: str = ""
    file_digest: str = ""

    @property
    def plan(self) -> Plan:
        """What Locust is to do."""
        if self.shape == "search":
            return Plan([], self.objective, max(1, self.sockets // 64), self.sockets, self.connects_per_s, self.rate,
                        5, self.duration_s, self.per_task)  # fmt: skip
        return Plan(_STAGES[self.shape](self))

    @property
    def per_task(self) -> bool:
        """Whether `rate` is of tasks that may make several exchanges: those of a user of one's own."""
        return bool(self.file)

    @property
    def total_s(self) -> float:
        """How long it takes from the first connect to the end, if the host keeps up; of a search, about that."""
        if self.shape == "search":
            return 12 * 11 + self.duration_s
        total, before = 0.0, 0
        for stage in self.plan.stages:
            total += abs(stage.sockets - before) / stage.sockets_per_s + stage.hold_s
            before = stage.sockets
        return total

    @property
    def offered(self) -> float | None:
        """Exchanges (or tasks) a second that are asked for while all sockets are held; None: no schedule."""
        return self.sockets * self.rate if self.rate and self.shape in HELD else None

    @property
    def workload(self) -> dict[str, Any]:
        """What the swarm does, without what serves it."""
        left_out = ("name", "description", "tells", "app", "workers")
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        for users, names in _ONLY_FOR.items():
            if self.user not in users and not self.file:
                kept = {name: value for name, value in kept.items() if name not in names}
        kept["file"] = Path(self.file).name  # wherever it lies: the digest tells whether it is the same
        texts = {name: as_text(value) for name, value in kept.items() if isinstance(value, str)}
        return {name: value for name, value in (kept | texts).items() if value not in (None, "")}

    @property
    def workload_hash(self) -> str:
        text = json.dumps(self.workload, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _end(profile: Profile, warmup_s: int = WARMUP_S) -> list[Stage]:
    sockets, rate = profile.sockets, profile.connects_per_s
    return [
        Stage(WARMUP, sockets, rate, warmup_s),
        Stage(MEASURE, sockets, rate, profile.duration_s),
        Stage(COOLDOWN, sockets, rate, COOLDOWN_S),
    ]


def _hold(profile: Profile) -> list[Stage]:
    return [Stage(RAMP, profile.sockets, profile.connects_per_s), *_end(profile)]


def _plateaus(profile: Profile) -> list[Stage]:
    """Five steps of the same height, with a rest on each."""
    heights = [math.ceil(profile.sockets * fifths / 5) for fifths in range(1, 6)]
    return [*(Stage(RAMP, height, profile.connects_per_s, PLATEAU_S) for height in heights), *_end(profile)]


def _doublings(profile: Profile) -> list[Stage]:
    """Few sockets that warm the server up, then a quarter of them, half, and all."""
    heights = [min(WARM_SOCKETS, profile.sockets), *(math.ceil(profile.sockets / part) for part in (4, 2))]
    ramp = [Stage(RAMP, height, profile.connects_per_s, SHORT_PLATEAU_S) for height in heights]
    return [*ramp, *_end(profile)]


def _climb(profile: Profile) -> list[Stage]:
    """The climb is what is measured; it takes the profile's duration."""
    first = max(1, profile.sockets // 20)
    rate = max(1.0, (profile.sockets - first) / profile.duration_s)
    return [
        Stage(RAMP, first, profile.connects_per_s),
        Stage(WARMUP, first, profile.connects_per_s, WARMUP_S),
        Stage(MEASURE, profile.sockets, rate),
        Stage(COOLDOWN, profile.sockets, rate, COOLDOWN_S),
    ]


def _spike(profile: Profile) -> list[Stage]:
    """Before it, in it and after it is measured: a spike shows best beside what was before and what it leaves."""
    low, rate = max(1, profile.sockets // 10), profile.connects_per_s
    around_s = max(1, (profile.duration_s - SPIKE_S) // 2)
    return [
        Stage(RAMP, low, rate),
        Stage(WARMUP, low, rate, WARMUP_S),
        Stage(MEASURE, low, rate, around_s),
        Stage(MEASURE, profile.sockets, 4 * rate, SPIKE_S),
        Stage(MEASURE, low, 4 * rate, around_s),
        Stage(COOLDOWN, low, rate, COOLDOWN_S),
    ]


_STAGES = {"hold": _hold, "plateaus": _plateaus, "doublings": _doublings, "climb": _climb, "spike": _spike}


def _named(*profiles: Profile) -> dict[str, Profile]:
    return {profile.name: profile for profile in profiles}


PROFILES = _named(
    Profile(
        "smoke", "50 sockets ask in JSON, 10 times a second each", "json", "JsonUser", 50, 50, 10, 5,
        "whether it works at all",
    ),
    Profile(
        "echo", "200 sockets echo 64 bytes, 10 times a second each", "echo", "EchoUser", 200, 100, 10, 20,
        "latency at a modest load, without what parsing costs",
    ),
    Profile(
        "json", "200 sockets ask in JSON, 10 times a second each", "json", "JsonUser", 200, 100, 10, 20,
        "latency at a modest load",
    ),
    Profile(
        "max-throughput", "50 sockets echo 64 bytes as fast as they are answered", "echo", "EchoUser", 50, 50, 0, 20,
        "how many exchanges a second there can be at most",
    ),
    Profile(
        "c2k", "2,000 sockets ask in JSON, once a second each", "json", "JsonUser", 2000, 400, 1, 15,
        "the cost of sockets that are used", workers=2,
    ),
    Profile(
        "memory", "100, 1,000, 2,000 and 4,000 sockets ask in JSON, every 10 seconds each", "json", "JsonUser", 4000,
        1000, 0.1, 4, "how much memory a connection takes", shape="doublings",
    ),
    Profile(
        "c10k", "10,000 sockets ask in JSON, every 5 seconds each", "json", "JsonUser", 10_000, 500, 0.2, 20,
        "ten thousand at once, and what each takes of memory", workers=2, shape="plateaus",
    ),
    Profile(
        "c100k-idle", "100,000 sockets that say something every five minutes", "echo", "EchoUser", 100_000, 600,
        1 / 300, 60, "what a connection that is only held takes of memory", shape="plateaus",
    ),
    Profile(
        "c100k", "100,000 sockets ask in JSON, once in two minutes each", "json", "JsonUser", 100_000, 600, 1 / 120,
        120, "a hundred thousand at once, each of them used", shape="plateaus",
    ),
    Profile(
        "churn", "100 sockets that are closed and opened again after each exchange, 5 times a second each", "json",
        "ChurnUser", 100, 100, 5, 20, "what it costs to accept and to close",
    ),
    Profile(
        "ramp", "100 up to 2,000 sockets in 60 seconds, each asks in JSON once a second", "json", "JsonUser", 2000,
        100, 1, 60, "at how many sockets it becomes slower", workers=2, shape="climb",
    ),
    Profile(
        "spike", "100 sockets, for 5 seconds 1,000, and 100 again, each asks in JSON 5 times a second", "json",
        "JsonUser", 1000, 100, 5, 25, "what a sudden crowd does to those that were there", shape="spike",
    ),
    Profile(
        "soak", "200 sockets ask in JSON for an hour, 10 times a second each", "json", "JsonUser", 200, 100, 10, 3600,
        "whether anything grows with time",
    ),
    Profile(
        "slow-readers", "100 sockets ask for 256 KiB and take 2 seconds to read it", "echo", "SlowReader", 100, 50,
        0.2, 20, "what peers that read slowly cost, in memory above all", payload_bytes=256 * 1024,
    ),
    Profile(
        "find-limit", "more and more sockets echo 64 bytes, 20 times a second each, until p99 is over 20 ms", "echo",
        "EchoUser", 8192, 1000, 20, 10, "the highest rate that keeps the objective", shape="search",
        objective=Objective(20.0, 0.1),
    ),
)  # fmt: skip
