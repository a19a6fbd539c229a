"""What a swarm saw: for each series and second, latencies of successes and outcomes by class. Pure; merges exactly.

A series is a phase of a connection, or a type of exchange. Each has two latencies: service time, from the send, and
response time, from the moment the send was due; what has no schedule has no response time. A failure never enters a
latency.

Everything belongs to the second in which it was due, or began where it has no schedule. Filed by the second of its end,
a request that was due in the measured phase and answered after it would be in no percentile, and a server that stalls
until the end would look fast. For the same reason the requests that are outstanding when the test ends count: an
exchange in flight is `cut_off`, one that was due and never sent is `unsent`. How long they had waited by then is kept
beside the latencies as censored: the true latency is at least that.

Seconds are whole seconds of the run's clock, which is the monotonic clock of the host of the master; the sampler uses
the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from loadtests.recording.histogram import Histogram
from loadtests.recording.swarm_membership import title
from loadtests.units import NS_IN_S

__all__ = ["CUT_OFF", "NEVER_SENT", "OK", "PHASES", "TASK", "UNSENT", "Cell", "Latency", "Recording", "failures"]

OK = "ok"
#: In flight when the test ended; due, and not sent by then. Neither succeeded or failed.
CUT_OFF, UNSENT = "cut_off", "unsent"
_OUTSTANDING = (CUT_OFF, UNSENT)
#: Series of a connection's own life.
PHASES = ("connect", "tls", "first_byte", "close")
#: The series of what a user's code raises. Every series but this one and PHASES is a type of exchange.
TASK = "task"
#: The type of exchange of a tick that came to no send: which one it would have been is not known.
NEVER_SENT = "(never sent)"


def failures(outcomes: Mapping[str, int]) -> int:
    """How many neither succeeded nor were outstanding at the end."""
    return sum(count for outcome, count in outcomes.items() if outcome != OK and outcome not in _OUTSTANDING)


class Latency:
    """Service or response times: `measured` of successes, `censored` waits of what was outstanding at the end."""

    __slots__ = ("censored", "measured")

    def __init__(self) -> None:
        self.measured = Histogram()
        self.censored = Histogram()

    def add(self, other: Latency) -> None:
        self.measured.add(other.measured.counts)
        self.censored.add(other.censored.counts)

    @property
    def all(self) -> Histogram:
        """Both. A quantile of it is at most the true one."""
        if not self.censored.counts:
            return self.measured
        both = Histogram()
        both.add(self.measured.counts)
        both.add(self.censored.counts)
        return both

    def is_lower_bound(self, latency_ns: float) -> bool:
        """Whether a quantile with this value may in truth be larger: something is censored at this value or below."""
        return bool(self.censored.counts) and min(self.censored.counts) <= latency_ns


class Cell:
    """One second of one series.

    Attributes:
        service, response: latencies of what was due in this second, or began in it.
        outcomes: how that ended, by class.
        done: successes that ended in this second, whenever they were due.
    """

    __slots__ = ("done", "outcomes", "response", "service")

    def __init__(self) -> None:
        self.service = Latency()
        self.response = Latency()
        self.outcomes: Counter[str] = Counter()
        self.done = 0

    def add(self, other: Cell) -> None:
        self.service.add(other.service)
        self.response.add(other.response)
        self.outcomes.update(other.outcomes)
        self.done += other.done

    @property
    def is_scheduled(self) -> bool:
        """Whether any of it was due at a time of its own."""
        return bool(self.response.measured.counts or self.response.censored.counts)

    @property
    def latency(self) -> Latency:
        """The response time where there is a schedule, or else the service time."""
        return self.response if self.is_scheduled else self.service


class Recording:
    """Cells by series and second, and the health of each generator process by second.

    Attributes:
        cells: series -> second -> Cell.
        health: process -> second -> {"sockets": open at its end, "users": that run then, "cpu_s": used so far,
            "waited_s": for a processor so far, "lag_ns": worst of the loop, "ticks": tasks begun at
            a time of their own, "asked_per_s": by the schedules of its users, "late_sends": of
            these, sent late although their user was free, "late_ns": how late all of them were together,
            "latest_ns": the latest}; on a worker with a clock of its own also {"clock_offset_ns": what its clock lacks
            to the run's, "clock_uncertainty_ns": give or take}; where the kernel has them also {"namespace": of the
            network, "retransmits": TCP segments sent again in it so far}. What cannot be had is left out.
        examples: "series: class" -> the text of the first failure of that class.
        reports: worker process -> {"recorded": outcomes it says it has recorded, "merged": those that have arrived,
            "final": whether it has said its last}; empty where one process did it all. A worker that left before the
            end, or was lost, also has {"left_s": the second in which its last message came}.
    """

    def __init__(self) -> None:
        self.cells: dict[str, dict[int, Cell]] = {}
        self.health: dict[str, dict[int, dict[str, float]]] = {}
        self.reports: dict[str, dict[str, int | bool]] = {}
        self.examples: dict[str, str] = {}

    # Recording

    def succeeded(self, series: str, end_ns: int, service_ns: int, response_ns: int | None = None) -> None:
        """A success, with its response time if it was due at a time of its own."""
        cell = self.cell(series, (end_ns - (service_ns if response_ns is None else response_ns)) // NS_IN_S)
        cell.service.measured.record(service_ns)
        if response_ns is not None:
            cell.response.measured.record(response_ns)
        cell.outcomes[OK] += 1
        self.cell(series, end_ns // NS_IN_S).done += 1

    def failed(self, series: str, due_ns: int, outcome: str, text: str = "") -> None:
        """A failure of a class, of what was due or began at `due_ns`."""
        self.cell(series, due_ns // NS_IN_S).outcomes[outcome] += 1
        self.examples.setdefault(f"{series}: {outcome}", text)

    def outstanding(
        self, series: str, end_ns: int, outcome: str, service_ns: int | None = None, response_ns: int | None = None
    ) -> None:
        """CUT_OFF or UNSENT at the end of the test; how long it has waited since its send, and since it was due."""
        waited_ns = max(service_ns or 0, response_ns or 0)
        cell = self.cell(series, (end_ns - waited_ns) // NS_IN_S)
        cell.outcomes[outcome] += 1
        if service_ns is not None:
            cell.service.censored.record(service_ns)
        if response_ns is not None:
            cell.response.censored.record(response_ns)

    def cell(self, series: str, second: int) -> Cell:
        seconds = self.cells.setdefault(series, {})
        cell = seconds.get(second)
        if cell is None:
            cell = seconds[second] = Cell()
        return cell

    # Reading

    def exchange_series(self) -> list[str]:
        """The types of exchange that were recorded, in order."""
        return sorted(series for series in self.cells if series not in PHASES and series != TASK)

    def attempts(self, start: int | None = None, end: int | None = None) -> dict[str, Counter[str]]:
        """Series -> outcomes, of everything that a server may fail at."""
        return {
            series: outcomes
            for series in self.cells
            if series != TASK and (outcomes := self.total([series], start, end).outcomes)
        }

    def total(self, series: Iterable[str] | None = None, start: int | None = None, end: int | None = None) -> Cell:
        """All cells of `series` (default: all) with start <= second < end, as one."""
        total = Cell()
        for name in self.cells if series is None else series:
            seconds = self.cells.get(name, {})
            if start is not None and end is not None and end - start < len(seconds):  # a second of a run of an hour
                inside = [seconds[second] for second in range(start, end) if second in seconds]
            else:
                inside = [
                    cell
                    for second, cell in seconds.items()
                    if (start is None or second >= start) and (end is None or second < end)
                ]
            for cell in inside:
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

    def ticks(self, start: int, end: int) -> float:
        """Tasks that were begun because it was their time, in start <= second < end."""
        return sum(
            values.get("ticks", 0)
            for health in self.health.values()
            for second, values in health.items()
            if start <= second < end
        )

    def asked_per_s(self, start: int, end: int) -> float | None:
        """Tasks a second that the schedules of the users asked for, on average; None if no user has one."""
        by_second = Counter[int]()
        for health in self.health.values():
            for second, values in health.items():
                if start <= second < end:
                    by_second[second] += values.get("asked_per_s", 0)  # type: ignore[assignment]
        return sum(by_second.values()) / len(by_second) if any(by_second.values()) else None

    def missing(self) -> list[str]:
        """A sentence for each worker that has sent its last report, but not all that it recorded."""
        return [
            f"{title(process)} recorded {report['recorded']:,} outcomes, and {report['merged']:,} arrived"
            for process, report in sorted(self.reports.items())
            if report["final"] and report["recorded"] != report["merged"]
        ]

    def lost(self, start: int | None = None, end: int | None = None) -> list[str]:
        """A sentence for each worker without a last report, or that left before `end` of the measured phase."""
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
                    second: [[each.counts for each in _histograms(cell).values()], dict(cell.outcomes), cell.done]
                    for second, cell in seconds.items()
                }
                for series, seconds in self.cells.items()
            },
            "health": self.health,
            "examples": self.examples,
        }
        self.cells, self.health, self.examples = {}, {}, {}
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
        book["merged"] += sum(sum(outcomes.values()) for seconds in cells for _, outcomes, _ in seconds.values())
        book["recorded"] = max(book["recorded"], report["recorded"])
        book["final"] = report["final"]
        recording = report["recording"]
        health = recording["health"].get(report["process"])
        self.merge({**recording, "health": {process: health} if health else {}})

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what take() handed over elsewhere."""
        for series, seconds in data["cells"].items():
            for second, (histograms, outcomes, done) in seconds.items():
                cell = self.cell(series, int(second))
                for histogram, counts in zip(_histograms(cell).values(), histograms, strict=True):
                    histogram.add(counts)
                cell.outcomes.update(outcomes)
                cell.done += done
        for process, health in data["health"].items():
            self.health.setdefault(process, {}).update(health)
        for failure, text in data["examples"].items():
            self.examples.setdefault(failure, text)

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
            "examples": self.examples,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recording:
        """The recording that to_json() made; KeyError, TypeError or ValueError if it did not."""
        recording = cls()
        for series, seconds in data["cells"].items():
            for second, kept in seconds.items():
                cell = recording.cell(series, int(second))
                cell.outcomes.update(kept["outcomes"])
                cell.done = kept.get("done", cell.outcomes[OK])  # what schema 2 kept was filed by its end
                for name, histogram in _histograms(cell).items():
                    if name in kept:
                        histogram.add(Histogram.decode(kept[name]).counts)
        for process, health in data["health"].items():
            recording.health[process] = {int(second): values for second, values in health.items()}
        recording.reports = dict(data["reports"])
        recording.examples = dict(data.get("examples", {}))
        return recording


def _histograms(cell: Cell) -> dict[str, Histogram]:
    """The histograms of a cell, by the names under which they are kept."""
    return {
        "service_hdr": cell.service.measured,
        "response_hdr": cell.response.measured,
        "service_censored_hdr": cell.service.censored,
        "response_censored_hdr": cell.response.censored,
    }


def _kept(cell: Cell) -> dict[str, Any]:
    """A cell as it is kept; a histogram that counted nothing is left out."""
    return {
        "outcomes": dict(cell.outcomes),
        "done": cell.done,
        **{name: histogram.encode() for name, histogram in _histograms(cell).items() if histogram.counts},
    }


def _when(second: float | None, start: int | None, end: int | None) -> str:
    """Where in a run that was, from the second in which it is measured first."""
    if second is None or start is None or end is None or start == end:
        return ""
    if second < start:
        return " before the measured phase"
    return f" {second - start:g} s into the measured phase" if second < end else " after the measured phase"
