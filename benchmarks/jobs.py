"""The jobs that can be measured, and their scenarios. Pure.

A job has three axes: connections, payload and depth. Each combination of their values is a scenario. If an axis has
several values, the output also shows how the headline figure grows along it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["AXES", "FEWEST_FOR_MEMORY", "GROUPS", "JOBS", "Job", "Scenario", "jobs_named", "with_axes"]

ALL = ("c", "go", "node", "uvloop", "asyncio", "gevent")
AXES = ("connections", "payload", "depth")
RATES = ("cpu_us", "msg_s", "p50_us", "p99_us", "p999_us")
#: Memory per connection is reported from so many connections on; below, the warm-up of the process exceeds it.
FEWEST_FOR_MEMORY = 1000


@dataclass(frozen=True)
class Job:
    """What is measured: a service, a mode of the client, the peers, the figures, and the values of each axis."""

    name: str
    about: str
    service: str  # a service of contestants.RECIPES
    mode: str  # of the client
    peers: tuple[str, ...]
    figures: tuple[str, ...] = RATES  # the first is the headline
    connections: tuple[int, ...] = (50,)
    payload: tuple[int, ...] = (64,)
    depth: tuple[int, ...] = (1,)
    fixed: frozenset[str] = frozenset()  # axes that no option changes
    cores: int = 1  # of the server; also its number of workers

    def scenarios(self) -> list[Scenario]:
        """Return a scenario for each combination of the values of the axes."""
        return [Scenario(self, *values) for values in itertools.product(self.connections, self.payload, self.depth)]

    @property
    def varied(self) -> list[str]:
        """The axes that have several values."""
        return [axis for axis in AXES if len(getattr(self, axis)) > 1]


@dataclass(frozen=True)
class Scenario:
    """A job with one value on each axis."""

    job: Job
    connections: int
    payload: int  # bytes of a message
    depth: int  # messages in flight on each connection

    def __str__(self) -> str:
        shown = [self.of("connections"), self.of("payload")]
        if "depth" not in self.job.fixed:
            shown.append(self.of("depth"))
        return f"{self.job.name}: {', '.join(shown)}"

    def of(self, axis: str) -> str:
        """Return its value on one axis as text, with the unit."""
        value: int = getattr(self, axis)
        if axis == "payload":
            return in_bytes(value)
        return f"{value:,} connection{'s' * (value != 1)}" if axis == "connections" else f"{value} in flight"

    @property
    def label(self) -> str:
        """Its values on the axes that have several."""
        return ", ".join(self.of(axis) for axis in self.job.varied)

    @property
    def tls(self) -> bool:
        return self.job.service == "tls"


def in_bytes(size: int) -> str:
    for unit, factor in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job("echo", "echo of raw bytes", "echo", "exchange", ALL),
        Job(
            "json",
            'JSON on lines: the sum of two numbers, {"type":"SUM",...}',
            "json",
            "exchange",
            ("node", "gevent"),
            payload=(29,),
            depth=(1, 16),
            fixed=frozenset({"payload"}),
        ),
        Job("churn", "connect, one echo, close", "echo", "churn", ALL),
        Job(
            "idle",
            "memory and CPU time of open connections that have echoed once and are silent",
            "echo",
            "idle",
            ALL,
            figures=("bytes_conn", "idle_cpu"),
            connections=(9000,),
            fixed=frozenset({"depth"}),
        ),
        Job("tls", "echo over TLS 1.3", "tls", "exchange", ALL[1:], payload=(64, 16 * 1024)),
        Job(
            "handshakes",
            "connect, full TLS 1.3 handshake (ECDSA P-256, X25519), one echo, close",
            "tls",
            "churn",
            ALL[1:],
        ),
        Job(
            "cluster",
            "echo by two workers on two cores, which the load shares",
            "cluster",
            "exchange",
            ("go", "node"),
            figures=("msg_s", "cpu_us", "p50_us", "p99_us", "p999_us"),
            cores=2,
        ),
        Job(
            "sockets",
            "echo with a growing number of connections",
            "echo",
            "exchange",
            ("c", "node", "uvloop"),
            figures=("cpu_us", "msg_s", "p50_us", "p99_us", "bytes_conn"),
            connections=(10, 100, 1000, 10_000),
        ),
        Job(
            "sizes",
            "echo with growing messages",
            "echo",
            "exchange",
            ("c", "node", "uvloop"),
            figures=("cpu_us", "cpu_ns_byte", "msg_s", "p50_us"),
            connections=(10,),
            payload=(64, 1024, 16 * 1024, 128 * 1024, 1024 * 1024),
        ),
        Job(
            "broadcast",
            "one line sent to all connections by conn.send_nowait; each delivery counts as a message",
            "broadcast",
            "broadcast",
            ("send",),
            figures=("cpu_us", "msg_s", "p50_us", "p99_us"),
            connections=(10, 100, 1000, 5000),
            fixed=frozenset({"payload", "depth"}),
        ),
    )
}
#: Names for several jobs at once.
GROUPS: dict[str, tuple[str, ...]] = {"scaling": ("sockets", "sizes", "broadcast")}


def jobs_named(names: Sequence[str]) -> list[Job]:
    """Return the jobs of these names and groups, each once; raise ValueError for an unknown name."""
    known = [*JOBS, *GROUPS]
    found: dict[str, Job] = {}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no job {name!r}; the jobs are {', '.join(known)}")
        found |= {each: JOBS[each] for each in GROUPS.get(name, (name,))}
    return list(found.values())


def with_axes(job: Job, values: Mapping[str, tuple[int, ...]]) -> Job:
    """Return the job with other values on some axes; raise ValueError for an axis that is fixed."""
    for axis in values:
        if axis in job.fixed:
            raise ValueError(f"--{axis} does not apply to the job {job.name}")
    changes: dict[str, Any] = dict(values)
    return dataclasses.replace(job, **changes)
