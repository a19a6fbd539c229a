"""What a connection costs of the server's memory, and whether memory grows by itself. Pure.

Memory is read while the number of connections stays the same: on plateaus. The cost of a connection is the slope of
the line through them. A plateau before the first connection does not count: a server that has served nobody yet has
memory still to take that no connection costs (imports, compiled code, buffers, a heap that settles). So there are at
least three plateaus, the least of them with the connections that warmed the server up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from loadtests.inference.regression import Slope, fitted_slope
from loadtests.recording.recording import Recording

__all__ = ["Growth", "Level", "Memory", "memory_of"]

# Whole seconds with the same sockets from which a plateau is taken for one; the first of them is left out.
PLATEAU_S = 3
# Of the most that were open: what sockets may differ by from one second of a plateau to the next.
PLATEAU_SPREAD = 0.002
# Two plateaus are a line whatever they are of.
LEAST_PLATEAUS = 3
# Allocators take memory in pieces of 64 KiB to 1 MiB. Over 1,000 connections that is at most 1 KiB for each.
LEAST_SPREAD = 1000
# Of what memory rose by between plateaus: so much may have come of growth by itself.
MOST_GROWN = 0.25
# Readings of a plateau from which growth can be told, and growth on it that is more than an allocator's pieces.
LEAST_READINGS = 4
LEAST_GROWTH = 512 * 1024
# For so long it must last to be told by itself: a heap that waits for its next collection grows for some seconds too.
LEAST_SECONDS = 4.0

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Growth:
    """Of memory at a constant number of connections: `grown` bytes in so many seconds; the slope is in bytes/s."""

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
    """A plateau: so many sockets, and (time, bytes) for each time that memory was read on it."""

    sockets: int
    readings: tuple[tuple[float, float], ...]

    @property
    def size(self) -> float:
        return median(size for _, size in self.readings)


@dataclass(frozen=True)
class Memory:
    """What is known: bytes for a connection, or `withheld` says why not; and growth, where there is more than noise."""

    levels: tuple[Level, ...] = ()
    each: Slope | None = None
    withheld: str = ""
    growth: Growth | None = None


def memory_of(recording: Recording, samples: Sequence[Sample]) -> Memory:
    """What recording and samples (of the server) tell of memory."""
    levels = tuple(_levels(recording, samples))
    growth = max((found for level in levels if (found := _growth(level))), key=lambda each: each.grown, default=None)
    each = fitted_slope([(level.sockets, level.size) for level in levels])
    why = _unread(samples, levels) or _unfit(levels, growth) or _unsure(each)
    is_told = growth is not None and (growth.seconds >= LEAST_SECONDS or why == str(growth))
    return Memory(levels, None if why else each, why, growth if is_told else None)


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
    """Bytes of all processes together, of a sample in which all were read."""
    living = [process for process in sample["processes"] if not process.get("has_ended")]
    if not living or not all("memory_bytes" in process for process in living):
        return None
    return float(sum(process["memory_bytes"] for process in living))


def _plateaus(sockets: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(start, end, sockets) of the seconds with the same sockets, without the first, up to the highest plateau.

    None is from after it: what a process once took it does not give back at once.
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
    """By the lower end of the slope's interval, so that a heap that goes up and down is none."""
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
            f"this run rested at {seen} connections, and it takes {LEAST_PLATEAUS} such numbers: use the profile memory"
        )
    spread = max(sockets) - min(sockets)
    if spread < LEAST_SPREAD:
        return (
            f"the numbers of connections differ by {spread:,} at most, and it takes {LEAST_SPREAD:,} to tell what"
            " connections cost from what a server takes once"
        )
    return ""


def _is_mixed_up(levels: Sequence[Level]) -> bool:
    """Whether growth on plateaus is a good part of what memory rose by from the first plateau to the last."""
    grown = sum(found.grown for level in levels if (found := _growth(level)))
    return grown > MOST_GROWN * (levels[-1].size - levels[0].size)


def _unsure(each: Slope | None) -> str:
    if each is None or each.low is None or each.high is None:
        return "memory was not read on enough plateaus"
    if each.low <= 0:  # a heap that is collected now and then leaves wide intervals, which are shown; but not this
        return (
            f"memory did not follow the number of connections closely enough: {each.low / 1024:.2f} to"
            f" {each.high / 1024:.2f} KiB for each, at 95 % confidence"
        )
    return ""
