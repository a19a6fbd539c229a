"""What a swarm saw: for each series and second, latencies of successes and outcomes by class. Pure; merges exactly.

A series is a phase of a connection, or a type of exchange. Each has two latencies: service time, from the send, and
response time, from the moment the send was due; what has no schedule has no response time. A failure never enters a
latency, and an exchange that was in flight when the test ended is `cut_off`: neither.

Seconds are whole seconds of the run's clock, which is the monotonic clock of the host of the master; the sampler uses
the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from loadtests.histogram import Histogram
from loadtests.roster import title

__all__ = ["CUT_OFF", "OK", "PHASES", "Cell", "Recording"]

OK = "ok"
CUT_OFF = "cut_off"
#: Series of a connection's own life; every other series is a type of exchange.
PHASES = ("connect", "tls", "first_byte", "close")
NS_IN_S = 10**9


class Cell:
    """One second of one series."""

    __slots__ = ("outcomes", "response", "service")

    def __init__(self) -> None:
        self.service = Histogram()
        self.response = Histogram()
        self.outcomes: Counter[str] = Counter()

    def add(self, other: Cell) -> None:
        self.service.add(other.service.counts)
        self.response.add(other.response.counts)
        self.outcomes.update(other.outcomes)


class Recording:
    """Cells by series and second, and the health of each generator process by second.

    Attributes:
        cells: series -> second -> Cell.
        health: process -> second -> {"sockets": open at its end, "cpu_s": used so far, "lag_ns": worst of the loop,
            "late_sends": sends that were late although their user was free}; on a worker with a clock of its own also
            {"clock_offset_ns": what its clock lacks to the run's, "clock_uncertainty_ns": give or take}; where the
            kernel has them also {"namespace": of the network, "retransmits": TCP segments sent again in it so far}.
        reports: worker process -> {"recorded": outcomes it says it has recorded, "merged": those that have arrived,
            "final": whether it has said its last}; empty where one process did it all. A worker that left before the
            end, or was lost, also has {"left_s": the second in which its last message came}.
    """

    def __init__(self) -> None:
        self.cells: dict[str, dict[int, Cell]] = {}
        self.health: dict[str, dict[int, dict[str, float]]] = {}
        self.reports: dict[str, dict[str, int | bool]] = {}

    # Recording

    def succeeded(self, series: str, end_ns: int, service_ns: int, response_ns: int | None = None) -> None:
        """A success, with its response time if it was due at a time of its own."""
        cell = self.cell(series, end_ns // NS_IN_S)
        cell.service.record(service_ns)
        if response_ns is not None:
            cell.response.record(response_ns)
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

    def exchange_series(self) -> list[str]:
        """The types of exchange that were recorded, in order."""
        return sorted(series for series in self.cells if series not in PHASES)

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

    def missing(self) -> list[str]:
        """A sentence for each worker that has sent its last report, but not all that it recorded."""
        return [
            f"{title(process)} recorded {report['recorded']:,} outcomes, and {report['merged']:,} arrived"
            for process, report in sorted(self.reports.items())
            if report["final"] and report["recorded"] != report["merged"]
        ]

    def lost(self, start: int | None = None, end: int | None = None) -> list[str]:
        """A sentence for each worker whose last report is missing, or that left before `end` of the measured phase."""
        sentences = []
        for process, report in sorted(self.reports.items()):
            left_s = report.get("left_s")
            if report["final"] and (left_s is None or (end is not None and left_s >= end)):
                continue
            sentence = f"{title(process)} {'ended' if report['final'] else 'was lost'}{_when(left_s, start, end)}"
            arrived = f"{report['merged']:,} outcomes arrived"
            sentences.append(sentence if report["final"] else f"{sentence}; its last report is missing, {arrived}")
        return sentences

    def sockets(self) -> dict[int, int]:
        """Open sockets by second, over all processes.

        A process that reports nothing in a second counts as before, but not after the second in which it left.
        """
        seconds = {second for process in self.health.values() for second in process}
        if not seconds:
            return {}
        last: dict[str, int] = {}
        sockets = {}
        for second in range(min(seconds), max(seconds) + 1):
            for process, health in self.health.items():
                if second in health:
                    last[process] = int(health[second]["sockets"])
                elif second > self.reports.get(process, {}).get("left_s", second):
                    last[process] = 0
            sockets[second] = sum(last.values())
        return sockets

    # Workers that leave

    def left(self, process: str, second: int) -> None:
        """A worker left, or was lost, before the end: after this second its sockets are closed."""
        self._book(process)["left_s"] = second

    def returned(self, process: str) -> None:
        """A worker that seemed to be lost is there."""
        self._book(process).pop("left_s", None)

    def has_left(self, process: str) -> bool:
        return "left_s" in self.reports.get(process, {})

    def _book(self, process: str) -> dict[str, int | bool]:
        return self.reports.setdefault(process, {"recorded": 0, "merged": 0, "final": False})

    # Moving

    def take(self) -> dict[str, Any]:
        """Hand over everything as plain values, and start anew: what a process reports to the one that merges."""
        data = {
            "cells": {
                series: {
                    second: [cell.service.counts, cell.response.counts, dict(cell.outcomes)]
                    for second, cell in seconds.items()
                }
                for series, seconds in self.cells.items()
            },
            "health": self.health,
        }
        self.cells, self.health = {}, {}
        return data

    def report(self, process: str, recorded: int, is_final: bool) -> dict[str, Any]:
        """take(), with what lets the one that merges know whether everything arrived.

        recorded: outcomes so far, those included that are handed over now; is_final: there will be no more.
        """
        return {"process": process, "recorded": recorded, "final": is_final, "recording": self.take()}

    def merge_report(self, report: Mapping[str, Any], process: str | None = None) -> None:
        """Add what report() handed over elsewhere; `process`: its name here, where two have the same one."""
        process = process or report["process"]
        book = self._book(process)
        cells = report["recording"]["cells"].values()
        book["merged"] += sum(sum(outcomes.values()) for seconds in cells for _, _, outcomes in seconds.values())
        book["recorded"] = max(book["recorded"], report["recorded"])
        book["final"] = report["final"]
        recording = report["recording"]
        health = recording["health"].get(report["process"])
        self.merge({**recording, "health": {process: health} if health else {}})

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what take() handed over elsewhere."""
        for series, seconds in data["cells"].items():
            for second, (service, response, outcomes) in seconds.items():
                cell = self.cell(series, int(second))
                cell.service.add(service)
                cell.response.add(response)
                cell.outcomes.update(outcomes)
        for process, health in data["health"].items():
            self.health.setdefault(process, {}).update(health)

    def to_json(self) -> dict[str, Any]:
        """As it is kept in a run: histograms encoded, keys as text."""
        return {
            "cells": {
                series: {str(second): _kept(cell) for second, cell in sorted(seconds.items())}
                for series, seconds in sorted(self.cells.items())
            },
            "health": {
                process: {str(second): values for second, values in sorted(health.items())}
                for process, health in self.health.items()
            },
            "reports": self.reports,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recording:
        """The recording that to_json() made; KeyError, TypeError or ValueError if it did not."""
        recording = cls()
        for series, seconds in data["cells"].items():
            for second, kept in seconds.items():
                cell = recording.cell(series, int(second))
                cell.outcomes.update(kept["outcomes"])
                cell.service = Histogram.decode(kept["service_hdr"]) if "service_hdr" in kept else Histogram()
                cell.response = Histogram.decode(kept["response_hdr"]) if "response_hdr" in kept else Histogram()
        for process, health in data["health"].items():
            recording.health[process] = {int(second): values for second, values in health.items()}
        recording.reports = dict(data["reports"])
        return recording


def _kept(cell: Cell) -> dict[str, Any]:
    """A cell as it is kept; a histogram that counted nothing is left out."""
    histograms = {"service_hdr": cell.service, "response_hdr": cell.response}
    return {
        "outcomes": dict(cell.outcomes),
        **{name: histogram.encode() for name, histogram in histograms.items() if histogram.counts},
    }


def _when(second: float | None, start: int | None, end: int | None) -> str:
    """Where in a run that was, from the second in which it is measured first."""
    if second is None or start is None or end is None or start == end:
        return ""
    if second < start:
        return " before the measured phase"
    return f" {second - start:g} s into the measured phase" if second < end else " after the measured phase"
