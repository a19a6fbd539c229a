"""What a swarm saw: for each series and second, latencies of successes and outcomes by class. Pure; merges exactly.

Seconds are whole seconds of the machine's monotonic clock, which all processes of one host share; the sampler uses the
same. A failure never enters a latency, and an exchange that was in flight when the test ended is `cut_off`: neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from loadtests.histogram import Histogram

__all__ = ["CUT_OFF", "OK", "Cell", "Recording"]

OK = "ok"
CUT_OFF = "cut_off"
NS_IN_S = 10**9


class Cell:
    """One second of one series."""

    __slots__ = ("latency", "outcomes")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.outcomes: Counter[str] = Counter()

    def add(self, other: Cell) -> None:
        self.latency.add(other.latency.counts)
        self.outcomes.update(other.outcomes)


class Recording:
    """Cells by series and second, and the health of each generator process by second.

    Attributes:
        cells: series -> second -> Cell.
        health: process -> second -> {"sockets": open at its end, "cpu_s": used so far, "lag_ns": worst of the loop}.
    """

    def __init__(self) -> None:
        self.cells: dict[str, dict[int, Cell]] = {}
        self.health: dict[str, dict[int, dict[str, float]]] = {}

    # Recording

    def succeeded(self, series: str, end_ns: int, latency_ns: int) -> None:
        cell = self.cell(series, end_ns // NS_IN_S)
        cell.latency.record(latency_ns)
        cell.outcomes[OK] += 1

    def ended(self, series: str, end_ns: int, outcome: str) -> None:
        """Anything but a success: a class of error, or CUT_OFF."""
        self.cell(series, end_ns // NS_IN_S).outcomes[outcome] += 1

    def cell(self, series: str, second: int) -> Cell:
        seconds = self.cells.setdefault(series, {})
        cell = seconds.get(second)
        if cell is None:
            cell = seconds[second] = Cell()
        return cell

    # Reading

    def total(self, series: Iterable[str] | None = None, start: int | None = None, end: int | None = None) -> Cell:
        """All cells of `series` (default: all) with start <= second < end, as one."""
        total = Cell()
        for name in self.cells if series is None else series:
            for second, cell in self.cells.get(name, {}).items():
                if (start is None or second >= start) and (end is None or second < end):
                    total.add(cell)
        return total

    def outcomes(self) -> Counter[str]:
        """Everything counted so far, without touching a latency: cheap enough to ask for while the swarm runs."""
        outcomes: Counter[str] = Counter()
        for seconds in self.cells.values():
            for cell in seconds.values():
                for outcome, count in cell.outcomes.items():
                    outcomes[outcome] += count
        return outcomes

    def sockets(self) -> dict[int, int]:
        """Open sockets by second, over all processes; a process that says nothing in a second counts as before."""
        seconds = {second for process in self.health.values() for second in process}
        if not seconds:
            return {}
        last: dict[str, int] = {}
        sockets = {}
        for second in range(min(seconds), max(seconds) + 1):
            for process, health in self.health.items():
                if second in health:
                    last[process] = int(health[second]["sockets"])
            sockets[second] = sum(last.values())
        return sockets

    # Moving

    def take(self) -> dict[str, Any]:
        """Hand over everything as plain values, and start anew: what a process reports to the one that merges."""
        data = {
            "cells": {
                series: {second: [cell.latency.counts, dict(cell.outcomes)] for second, cell in seconds.items()}
                for series, seconds in self.cells.items()
            },
            "health": self.health,
        }
        self.cells, self.health = {}, {}
        return data

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what take() handed over elsewhere."""
        for series, seconds in data["cells"].items():
            for second, (counts, outcomes) in seconds.items():
                cell = self.cell(series, int(second))
                cell.latency.add(counts)
                cell.outcomes.update(outcomes)
        for process, health in data["health"].items():
            self.health.setdefault(process, {}).update(health)

    def to_json(self) -> dict[str, Any]:
        """As it is kept in a run: histograms encoded, keys as text."""
        return {
            "cells": {
                series: {
                    str(second): {
                        "outcomes": dict(cell.outcomes),
                        **({"latency_hdr": cell.latency.encode()} if cell.latency.counts else {}),
                    }
                    for second, cell in sorted(seconds.items())
                }
                for series, seconds in sorted(self.cells.items())
            },
            "health": {
                process: {str(second): values for second, values in sorted(health.items())}
                for process, health in self.health.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recording:
        """The recording that to_json() made; KeyError, TypeError or ValueError if it did not."""
        recording = cls()
        for series, seconds in data["cells"].items():
            for second, kept in seconds.items():
                cell = recording.cell(series, int(second))
                cell.outcomes.update(kept["outcomes"])
                if "latency_hdr" in kept:
                    cell.latency = Histogram.decode(kept["latency_hdr"])
        for process, health in data["health"].items():
            recording.health[process] = {int(second): values for second, values in health.items()}
        return recording
