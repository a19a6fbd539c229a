"""Make the recording and samples of a run with plateaus of sockets and given memory of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadtests.recording.recording import Recording

__all__ = ["MIB", "on_plateaus", "sample_of"]

MIB = 2**20
START, LENGTH_S = 100, 6


def on_plateaus(
    sizes: Mapping[int, float], each: float = 0.0, more: Callable[[float], float] = lambda time_s: 0.0
) -> tuple[Recording, list[dict[str, Any]]]:
    """Return a plateau of six seconds for each number of sockets, after a ramp of one second; four samples a second.

    sizes: number of sockets -> memory of the server without them, in bytes. each: bytes for a socket. more: further
    bytes as a function of the time in seconds.
    """
    recording, samples, health = Recording(), [], {}
    second, before = START, 0
    for sockets, size in sizes.items():
        health[second] = (before + sockets) // 2
        for at in range(LENGTH_S):
            health[second + 1 + at] = sockets
        for quarter in range(4 * (LENGTH_S + 1)):
            time_s = second + quarter / 4
            taken = size + each * health[int(time_s)] + more(time_s - START)
            samples.append(sample_of(time_s, taken))
        second, before = second + LENGTH_S + 1, sockets
    recording.health["a"] = {at: {"sockets": count, "cpu_s": 0.0, "lag_ns": 0} for at, count in health.items()}
    return recording, samples


def sample_of(time_s: float, memory_bytes: float) -> dict[str, Any]:
    """Return a sample with one process."""
    process = {
        "pid": 1,
        "cpu_s": 0.0,
        "rss_bytes": memory_bytes + 8 * MIB,
        "memory_bytes": memory_bytes,
        "switches_voluntary": 0,
    }
    return {"time_s": time_s, "processes": [process]}
