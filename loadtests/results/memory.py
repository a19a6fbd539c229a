"""Memory per connection, and growth of memory at a constant number of connections. Pure.

Memory is read on plateaus: while the number of connections is constant. The memory per connection is the slope of the
line through the plateaus. A plateau without connections does not count: before its first requests a server has not yet
allocated memory that belongs to no connection (imports, compiled code, buffers, a settling heap). So at least three
plateaus are needed; the connections of the lowest one have warmed up the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from loadtests.formatting import quantity
from loadtests.inference.regression import Slope, fitted_slope
from loadtests.recording.recording import Recording

__all__ = ["Growth", "Level", "Memory", "memory_of"]

# The least length of a plateau in whole seconds. Its first second is left out.
PLATEAU_S = 3
# How much the number of connections may vary on a plateau, as a share of the peak.
PLATEAU_SPREAD = 0.002
# Two plateaus always lie on a line, so they prove nothing.
LEAST_PLATEAUS = 3
# Allocators take memory in pieces of 64 KiB to 1 MiB. Over 1,000 connections that is at most 1 KiB for each.
LEAST_SPREAD = 1000
# The share of the rise of memory between plateaus that growth on the plateaus may explain.
MOST_GROWN = 0.25
# Readings on a plateau that growth needs, and bytes of growth that are more than one piece of an allocator.
LEAST_READINGS = 4
LEAST_GROWTH = 512 * 1024
# Seconds that growth must last to be reported alone. A heap before its next collection also grows for some seconds.
LEAST_SECONDS = 4.0

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Growth:
    """Growth of memory at a constant number of connections: `grown` bytes in `seconds`; the slope is in bytes/s."""

    grown: float
    seconds: float
    sockets: int
    slope: Slope

    def __str__(self) -> str:
        connections = "connection" if self.sockets == 1 else "connections"
        return (
            f"memory grew {self.grown / 2**20:.1f} MiB in {self.seconds:.0f} s"
            f" at {self.sockets:,} {connections}: a leak or a cache"
        )


@dataclass(frozen=True)
class Level:
    """A plateau: its number of connections, and (time, bytes) of each reading of memory."""

    sockets: int
    readings: tuple[tuple[float, float], ...]

    @property
    def size(self) -> float:
        return median(size for _, size in self.readings)


@dataclass(frozen=True)
class Memory:
    """The result: bytes per connection, or in `withheld` the reason why not; and growth that is more than noise."""

    levels: tuple[Level, ...] = ()
    each: Slope | None = None
    withheld: str = ""
    growth: Growth | None = None


def memory_of(recording: Recording, samples: Sequence[Sample]) -> Memory:
    """Compute memory per connection and growth from the recording and the samples of the server."""
    levels = tuple(_levels(recording, samples))
    growth = max((found for level in levels if (found := _growth(level))), key=lambda each: each.grown, default=None)
    each = fitted_slope([(level.sockets, level.size) for level in levels])
    why = _unread(samples, levels) or _unfit(levels, growth) or _unsure(each)
    is_reported = growth is not None and (growth.seconds >= LEAST_SECONDS or why == str(growth))
    return Memory(levels, None if why else each, why, growth if is_reported else None)


# Plateaus


def _levels(recording: Recording, samples: Sequence[Sample]) -> list[Level]:
    readings = [(sample["time_s"], size) for sample in samples if (size := _size(sample)) is not None]
    found = []
    for start, end, sockets in _plateaus(recording.sockets()):
        inside = tuple((time_s, size) for time_s, size in readings if start <= time_s < end)
        if inside:
            found.append(Level(sockets, inside))
    return found


def _size(sample: Sample) -> float | None:
    """The memory of all processes together in bytes; None if one of them could not be read."""
    living = [process for process in sample["processes"] if not process.get("has_ended")]
    if not living or not all("memory_bytes" in process for process in living):
        return None
    return float(sum(process["memory_bytes"] for process in living))


def _plateaus(sockets: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(start, end, sockets) of each plateau up to the highest one, without its first second.

    Later plateaus are left out, because a process does not return freed memory at once.
    """
    step = max(1.0, PLATEAU_SPREAD * max(sockets.values(), default=0))
    found = []
    for level, group in groupby(sockets.items(), key=lambda each: round(each[1] / step)):
        seconds = [second for second, _ in group]
        if level and len(seconds) >= PLATEAU_S:
            found.append((seconds[0] + 1, seconds[-1] + 1, sockets[seconds[-1]]))
    if not found:
        return []
    highest = max(range(len(found)), key=lambda place: found[place][2])
    return found[: highest + 1]


def _growth(level: Level) -> Growth | None:
    """Growth on a plateau, by the lower end of the slope's interval: a heap that only goes up and down is none."""
    slope = fitted_slope(level.readings)
    if slope is None or slope.low is None or len(level.readings) < LEAST_READINGS:
        return None
    seconds = level.readings[-1][0] - level.readings[0][0]
    if slope.low * seconds < LEAST_GROWTH:
        return None
    return Growth(slope.value * seconds, seconds, level.sockets, slope)


# Why there is no figure


def _unread(samples: Sequence[Sample], levels: Sequence[Level]) -> str:
    if levels:
        return ""
    processes = [process for sample in samples for process in sample["processes"]]
    refused = next((process for process in processes if "memory_error" in process), None)
    if refused:
        return f"the memory of process {refused['pid']} cannot be read: {refused['memory_error']}"
    return "memory was not read while the number of connections stayed the same for 3 s"


def _unfit(levels: Sequence[Level], growth: Growth | None) -> str:
    sockets = [level.sockets for level in levels]
    if growth is not None and _is_mixed_up(levels):
        return str(growth)
    if len(set(sockets)) < LEAST_PLATEAUS:
        seen = ", ".join(f"{count:,}" for count in sorted(set(sockets)))
        return (
            f"this run rested at {seen} connections, but {LEAST_PLATEAUS} different numbers are needed:"
            " use the profile memory"
        )
    spread = max(sockets) - min(sockets)
    if spread < LEAST_SPREAD:
        return (
            f"the numbers of connections differ by {spread:,} at most, but {LEAST_SPREAD:,} are needed to separate the"
            " memory of connections from that of the server itself"
        )
    return ""


def _is_mixed_up(levels: Sequence[Level]) -> bool:
    """Whether growth on plateaus is a large part of the rise of memory from the first plateau to the last."""
    grown = sum(found.grown for level in levels if (found := _growth(level)))
    return grown > MOST_GROWN * (levels[-1].size - levels[0].size)


def _unsure(each: Slope | None) -> str:
    if each is None or each.low is None or each.high is None:
        return "memory was not read on enough plateaus"
    if each.low <= 0:  # a wide interval (from garbage collection) is shown; one that includes zero is not
        return (
            f"memory did not follow the number of connections closely enough: {quantity(each.low / 1024, 'KiB')} to"
            f" {quantity(each.high / 1024, 'KiB')} per connection (95% interval)"
        )
    return ""
