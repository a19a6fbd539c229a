"""The named workloads. A workload's hash covers what must be equal for two runs to be comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True)
class Profile:
    """What a swarm does, and on which server when the run starts one itself.

    Attributes:
        app: the gserver application; user: the Locust user class that speaks to it.
        sockets: users, of one connection each.
        connects_per_s: how fast they come.
        rate: exchanges a second of each user; 0 is as fast as the server answers.
        duration_s: from the first connect to the end.
        payload_bytes: of an EchoUser's message.
        workers: of the server.
    """

    name: str
    description: str
    app: str
    user: str
    sockets: int
    connects_per_s: int
    rate: float
    duration_s: float
    payload_bytes: int = 64
    workers: int = 1

    @property
    def workload(self) -> dict[str, str | int | float]:
        """What the swarm does, without what serves it."""
        kept = ("user", "sockets", "connects_per_s", "rate", "duration_s", "payload_bytes")
        return {name: value for name, value in dataclasses.asdict(self).items() if name in kept}

    @property
    def workload_hash(self) -> str:
        text = json.dumps(self.workload, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


PROFILES = {
    profile.name: profile
    for profile in [
        Profile("smoke", "a first look: 50 sockets for 5 seconds", "json", "JsonUser", 50, 50, 10, 5),
        Profile("echo", "200 sockets echo 64 bytes, 10 times a second each", "echo", "EchoUser", 200, 100, 10, 20),
        Profile("json", "200 sockets ask in JSON, 10 times a second each", "json", "JsonUser", 200, 100, 10, 20),
        Profile(
            "c2k", "2,000 sockets ask in JSON, once a second each", "json", "JsonUser", 2000, 400, 1, 25, workers=2
        ),
    ]
}
