"""The figures of a measurement: names, meanings, and how each is calculated. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.jobs import FEWEST_FOR_MEMORY, Scenario

__all__ = ["FIGURES", "Figure", "Measurement", "Outcome", "figures_of"]

#: Figure -> value; None if it could not be measured.
Measurement = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """What the client reports about the measured time."""

    messages: int
    elapsed_s: float
    client_cpu_s: float
    p50_us: float
    p99_us: float
    p999_us: float


@dataclass(frozen=True)
class Figure:
    """One figure: title of its column, meaning, decimals, and whether a ratio of it is shown."""

    title: str
    about: str
    decimals: int
    has_ratio: bool = True


FIGURES: dict[str, Figure] = {
    "cpu_us": Figure("cpu us", "CPU time of all processes of the server for a message, in microseconds", 2),
    "cpu_ns_byte": Figure("cpu ns/byte", "CPU time of the server for a byte of a message, in nanoseconds", 3),
    "msg_s": Figure("messages/s", "throughput: messages answered in a second", 0),
    "p50_us": Figure("p50 us", "p50 latency of an exchange, in microseconds", 0),
    "p99_us": Figure("p99 us", "p99 latency of an exchange, in microseconds", 0),
    "p999_us": Figure("p99.9 us", "p99.9 latency of an exchange, in microseconds", 0),
    "bytes_conn": Figure("bytes/conn", "memory of the server for a connection, in bytes", 0),
    "idle_cpu": Figure("idle cpu %", "CPU time of the server while no requests are sent, in percent of a core", 2),
    "client_cpu": Figure(
        "client cpu %", "CPU time of the client, in percent of a core; near 100 the client limits messages/s", 0, False
    ),
}


def figures_of(scenario: Scenario, cpu_s: float, held_bytes: int, outcome: Outcome) -> Measurement:
    """Calculate the figures of the scenario's job.

    cpu_s: CPU time of the server during the load. held_bytes: growth of its memory from before the first connection to
    when all were open. outcome: the client's report.
    """
    found: Measurement = {
        "bytes_conn": held_bytes / scenario.connections if scenario.connections >= FEWEST_FOR_MEMORY else None,
        "idle_cpu": cpu_s / outcome.elapsed_s * 100,
        "client_cpu": outcome.client_cpu_s / outcome.elapsed_s * 100,
    }
    if outcome.messages:
        cpu_us = cpu_s / outcome.messages * 1e6
        found |= {
            "cpu_us": cpu_us,
            "cpu_ns_byte": cpu_us * 1e3 / scenario.payload,
            "msg_s": outcome.messages / outcome.elapsed_s,
            "p50_us": outcome.p50_us,
            "p99_us": outcome.p99_us,
            "p999_us": outcome.p999_us,
        }
    return {name: found.get(name) for name in (*scenario.job.figures, "client_cpu")}
