"""The figures of a measurement: what each is, and how it comes from what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.jobs import FEWEST_FOR_MEMORY, Scenario

__all__ = ["FIGURES", "Figure", "Measurement", "Outcome", "Usage", "figures_of"]

#: Figure -> value; None where there is none.
Measurement = dict[str, float | None]


@dataclass(frozen=True)
class Usage:
    """Of all processes of a server: processor time since it began, memory now."""

    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What the client says of the time in which it was measured."""

    messages: int
    elapsed_s: float
    client_cpu_s: float
    p50_us: float
    p99_us: float
    p999_us: float


@dataclass(frozen=True)
class Figure:
    title: str
    about: str
    decimals: int
    has_ratio: bool = True


FIGURES: dict[str, Figure] = {
    "cpu_us": Figure("cpu us", "processor time of all processes of the server for a message, in microseconds", 2),
    "cpu_ns_byte": Figure("cpu ns/byte", "the same for a byte of the message, in nanoseconds", 3),
    "msg_s": Figure("messages/s", "messages answered in a second", 0),
    "p50_us": Figure("p50 us", "time of an exchange in microseconds, the median", 0),
    "p99_us": Figure("p99 us", "what 99 of 100 exchanges do not exceed", 0),
    "p999_us": Figure("p99.9 us", "what 999 of 1,000 exchanges do not exceed", 0),
    "bytes_conn": Figure("bytes/conn", "memory of the server for a connection, in bytes", 0),
    "idle_cpu": Figure("idle cpu %", "share of a processor that the server uses while nobody asks", 2),
    "client_cpu": Figure(
        "client cpu %", "share of a processor that the load used; near 100 it bounds messages/s", 0, False
    ),
}


def figures_of(scenario: Scenario, before: Usage, ready: Usage, after: Usage, outcome: Outcome) -> Measurement:
    """From what the server had used before the first connection, when all were open and warm, and after the load."""
    cpu_s = after.cpu_s - ready.cpu_s
    held = (ready.rss_bytes - before.rss_bytes) / scenario.connections
    found: Measurement = {
        "bytes_conn": held if scenario.connections >= FEWEST_FOR_MEMORY else None,
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
