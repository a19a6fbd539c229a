"""The profiles: named workloads. Two runs are comparable if the hashes of their workloads are equal."""

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

# Until the last users of the ramp have connected and the effects have settled.
WARMUP_S = 2
COOLDOWN_S = 1
# A plateau during the ramp, in which the server's memory is read: it grows in steps, and several samples are needed.
PLATEAU_S = 6
# Of the profile "memory": the sockets that warm the server up, and plateaus that are long enough on a busy host too.
WARM_SOCKETS, SHORT_PLATEAU_S = 100, 5
SPIKE_S = 5
#: User classes -> parameters that only they use; for other users these do not change the hash.
_ONLY_FOR = {("EchoUser", "SlowReader"): ("payload_bytes",), ("MessageUser",): ("message", "codec", "expect")}


@dataclass(frozen=True)
class Plan:
    """The load that load_shape.py applies: stages, or a search if there is an objective.

    Attributes:
        first, sockets, sockets_per_s, rate, step_s: of a search; measure_s: the length of its final measurement.
        per_task: the rate is one of tasks, not of exchanges.
    """

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
    """The load of a swarm, and the server for it if the run starts one.

    Attributes:
        description: the load in words. purpose: what it measures.
        app: the gserver application. user: the Locust user class.
        sockets: users, with one connection each.
        connects_per_s: new connections per second.
        rate: tasks per second of each user; a task is one exchange, except in a Locust file of one's own. 0: the next
            task begins as soon as the server has replied.
        duration_s: whole seconds of the measure phase.
        payload_bytes: size of an EchoUser's message.
        depth: with rate 0, messages in flight on each connection.
        shape: "hold"; "plateaus": holds several times during the ramp; "doublings": holds at a few sockets, a quarter
            and a half of them; "climb": measures during the ramp; "spike": a tenth of the sockets, all, and a tenth
            again; "search": finds the most sockets that meet the objective.
        workers: minimum of the server.
        message, codec, expect: of a MessageUser.
        file: a Locust file with the user class. file_digest: of its text.
    """

    name: str
    description: str
    app: str
    user: str
    sockets: int
    connects_per_s: int
    rate: float
    duration_s: int
    purpose: str = ""
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
        """The load for Locust."""
        if self.shape == "search":
            return Plan([], self.objective, max(1, self.sockets // 64), self.sockets, self.connects_per_s, self.rate,
                        5, self.duration_s, self.per_task)  # fmt: skip
        return Plan(_STAGES[self.shape](self))

    @property
    def per_task(self) -> bool:
        """Whether a task may make several exchanges, as in a Locust file of one's own."""
        return bool(self.file)

    @property
    def total_s(self) -> float:
        """Seconds from the first connect to the end, if the host is fast enough; of a search, an estimate."""
        if self.shape == "search":
            return 12 * 11 + self.duration_s
        total, before = 0.0, 0
        for stage in self.plan.stages:
            total += abs(stage.sockets - before) / stage.sockets_per_s + stage.hold_s
            before = stage.sockets
        return total

    @property
    def offered(self) -> float | None:
        """Scheduled exchanges (or tasks) per second of all users together; None without a schedule."""
        return self.sockets * self.rate if self.rate and self.shape in HELD else None

    @property
    def workload(self) -> dict[str, Any]:
        """The parameters of the load, without those of the server."""
        left_out = ("name", "description", "purpose", "app", "workers")
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        for users, names in _ONLY_FOR.items():
            if self.user not in users and not self.file:
                kept = {name: value for name, value in kept.items() if name not in names}
        kept["file"] = Path(self.file).name  # without its folder: the digest identifies the file
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
    """Five equal steps, with a plateau on each."""
    heights = [math.ceil(profile.sockets * fifths / 5) for fifths in range(1, 6)]
    return [*(Stage(RAMP, height, profile.connects_per_s, PLATEAU_S) for height in heights), *_end(profile)]


def _doublings(profile: Profile) -> list[Stage]:
    """A few sockets that warm the server up, then a quarter of all, half, and all."""
    heights = [min(WARM_SOCKETS, profile.sockets), *(math.ceil(profile.sockets / part) for part in (4, 2))]
    ramp = [Stage(RAMP, height, profile.connects_per_s, SHORT_PLATEAU_S) for height in heights]
    return [*ramp, *_end(profile)]


def _climb(profile: Profile) -> list[Stage]:
    """Measures during the ramp, which takes the profile's duration."""
    first = max(1, profile.sockets // 20)
    rate = max(1.0, (profile.sockets - first) / profile.duration_s)
    return [
        Stage(RAMP, first, profile.connects_per_s),
        Stage(WARMUP, first, profile.connects_per_s, WARMUP_S),
        Stage(MEASURE, profile.sockets, rate),
        Stage(COOLDOWN, profile.sockets, rate, COOLDOWN_S),
    ]


def _spike(profile: Profile) -> list[Stage]:
    """Measures before, during and after the spike, to compare the three."""
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
        "smoke", "50 connections, 10 JSON requests per second on each", "json", "JsonUser", 50, 50, 10, 5,
        "a quick check that everything works",
    ),
    Profile(
        "echo", "200 connections, 10 echoes of 64 bytes per second on each", "echo", "EchoUser", 200, 100, 10, 20,
        "latency at a moderate load, without parsing",
    ),
    Profile(
        "json", "200 connections, 10 JSON requests per second on each", "json", "JsonUser", 200, 100, 10, 20,
        "latency at a moderate load",
    ),
    Profile(
        "max-throughput", "50 connections, echoes of 64 bytes without a pause", "echo", "EchoUser", 50, 50, 0, 20,
        "the maximum throughput",
    ),
    Profile(
        "c2k", "2,000 connections, 1 JSON request per second on each", "json", "JsonUser", 2000, 400, 1, 15,
        "the cost of connections in use", workers=2,
    ),
    Profile(
        "memory", "100, 1,000, 2,000 and 4,000 connections, 1 JSON request every 10 seconds on each", "json",
        "JsonUser", 4000, 1000, 0.1, 4, "memory per connection", shape="doublings",
    ),
    Profile(
        "c10k", "10,000 connections, 1 JSON request every 5 seconds on each", "json", "JsonUser", 10_000, 500, 0.2, 20,
        "10,000 connections at once, and the memory of each", workers=2, shape="plateaus",
    ),
    Profile(
        "c100k-idle", "100,000 connections, 1 echo of 64 bytes every 5 minutes on each", "echo", "EchoUser", 100_000,
        600, 1 / 300, 60, "memory per idle connection", shape="plateaus",
    ),
    Profile(
        "c100k", "100,000 connections, 1 JSON request every 2 minutes on each", "json", "JsonUser", 100_000,
        600, 1 / 120, 120, "100,000 connections at once, all in use", shape="plateaus",
    ),
    Profile(
        "churn", "100 users, 5 JSON requests per second each, every one on a new connection", "json",
        "ChurnUser", 100, 100, 5, 20, "the cost of accepting and closing connections",
    ),
    Profile(
        "ramp", "100 to 2,000 connections within 60 seconds, 1 JSON request per second on each", "json", "JsonUser",
        2000, 100, 1, 60, "the number of connections at which latency rises", workers=2, shape="climb",
    ),
    Profile(
        "spike", "100 connections, 1,000 for 5 seconds, then 100, 5 JSON requests per second on each", "json",
        "JsonUser", 1000, 100, 5, 25, "the effect of a sudden load on existing connections", shape="spike",
    ),
    Profile(
        "soak", "200 connections for an hour, 10 JSON requests per second on each", "json", "JsonUser",
        200, 100, 10, 3600, "leaks and slowdowns over time",
    ),
    Profile(
        "slow-readers", "100 connections, 1 echo of 256 KiB every 5 seconds on each, read within 2 seconds", "echo",
        "SlowReader", 100, 50, 0.2, 20, "the cost of clients that read slowly, mainly memory", payload_bytes=256 * 1024,
    ),
    Profile(
        "find-limit", "more and more connections, 20 echoes of 64 bytes per second on each, to p99 20 ms",
        "echo", "EchoUser", 8192, 1000, 20, 10, "the highest rate that meets the objective", shape="search",
        objective=Objective(20.0, 0.1),
    ),
)  # fmt: skip
