"""The recording of a swarm: latencies and outcomes for each series and second. Pure; recordings merge without loss.

A series is a phase of a connection, or a type of exchange. It has two latencies: the service time, from the send, and
the response time, from when the send was due. An exchange without a schedule has no response time. Failures are not
counted in latencies.

An exchange belongs to the second in which it was due, or in which it began if it has no schedule. If it belonged to the
second of its end, a request that was due in the measured phase and answered after it would be in no percentile, and a
server that stalls until the end would seem fast. For the same reason, requests that are outstanding at the end of the
test are counted: an exchange in flight is `cut_off`, an exchange that was due and not sent is `unsent`. The time that
they have waited by then is kept as a censored latency: the true latency is at least that.

Seconds are whole seconds of the run's clock, the monotonic clock of the master's host, which the sampler also uses.
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
#: In flight, or due and not sent, when the test ended. These are neither successes nor failures.
CUT_OFF, UNSENT = "cut_off", "unsent"
_OUTSTANDING = (CUT_OFF, UNSENT)
#: The series of the phases of a connection.
PHASES = ("connect", "tls", "first_byte", "close")
#: The series of exceptions in a user's code. Every series except this one and PHASES is a type of exchange.
TASK = "task"
#: The type of exchange for a tick without a send, because the type that it would have had is not known.
NEVER_SENT = "(never sent)"


def failures(outcomes: Mapping[str, int]) -> int:
    """How many outcomes are failures: neither successes nor outstanding at the end."""
    return sum(count for outcome, count in outcomes.items() if outcome != OK and outcome not in _OUTSTANDING)


class Latency:
    """Service or response times.

    Attributes:
        measured: of successes.
        censored: how long requests had waited that were outstanding at the end.
    """

    __slots__ = ("censored", "measured")

    def __init__(self) -> None:
        self.measured = Histogram()
        self.censored = Histogram()

    def add(self, other: Latency) -> None:
        self.measured.add(other.measured.counts)
        self.censored.add(other.censored.counts)

    @property
    def all(self) -> Histogram:
        """Both histograms as one. A quantile of it is a lower bound of the true quantile."""
        if not self.censored.counts:
            return self.measured
        both = Histogram()
        both.add(self.measured.counts)
        both.add(self.censored.counts)
        return both

    def is_lower_bound(self, latency_ns: float) -> bool:
        """Whether the true quantile may exceed this one, because a censored latency is not longer."""
        return bool(self.censored.counts) and min(self.censored.counts) <= latency_ns


class Cell:
    """One second of one series.

    Attributes:
        service, response: latencies of the exchanges that were due in this second, or began in it.
        outcomes: outcome -> how many of these exchanges ended with it.
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
        """Whether any exchange had a schedule."""
        return bool(self.response.measured.counts or self.response.censored.counts)

    @property
    def latency(self) -> Latency:
        """The response time if there is a schedule, else the service time."""
        return self.response if self.is_scheduled else self.service


class Recording:
    """Cells by series and second, and the health of each generator process by second.

    Attributes:
        cells: series -> second -> Cell.
        health: process -> second -> figures of the process in or at the end of that second:
            "sockets": open; "users": that run; "cpu_s": CPU time so far; "waited_s": time so far in which it waited for
            a CPU; "lag_ns": worst delay of its event loop; "asked_per_s": tasks a second by the schedules of its users;
            "ticks": scheduled tasks that began; "late_sends": how many of these were sent late although their user was
            free; "late_ns", "latest_ns": the sum and the maximum of their delays. On a worker also "clock_offset_ns":
            add it to the worker's clock to get the run's, and "clock_uncertainty_ns". If the kernel has them also
            "namespace": its network namespace, and "retransmits": TCP segments sent again in it so far. Figures that
            are not available are left out.
        examples: "series: outcome" -> the text of the first such failure.
        reports: worker process -> {"recorded": outcomes that it has recorded, by its own count, "merged": outcomes that
            have arrived, "final": whether its last report has come}; empty in a run of one process. A worker that left
            before the end, or was lost, also has {"left_s": the second in which its last message came}.
    """

    def __init__(self) -> None:
        self.cells: dict[str, dict[int, Cell]] = {}
        self.health: dict[str, dict[int, dict[str, float]]] = {}
        self.reports: dict[str, dict[str, int | bool]] = {}
        self.examples: dict[str, str] = {}

    # Recording

    def succeeded(self, series: str, end_ns: int, service_ns: int, response_ns: int | None = None) -> None:
        """Record a success; response_ns: None without a schedule."""
        cell = self.cell(series, (end_ns - (service_ns if response_ns is None else response_ns)) // NS_IN_S)
        cell.service.measured.record(service_ns)
        if response_ns is not None:
            cell.response.measured.record(response_ns)
        cell.outcomes[OK] += 1
        self.cell(series, end_ns // NS_IN_S).done += 1

    def failed(self, series: str, due_ns: int, outcome: str, text: str = "") -> None:
        """Record a failure of an exchange that was due, or began, at `due_ns`; `text`: an example for people."""
        self.cell(series, due_ns // NS_IN_S).outcomes[outcome] += 1
        self.examples.setdefault(f"{series}: {outcome}", text)

    def outstanding(
        self, series: str, end_ns: int, outcome: str, service_ns: int | None = None, response_ns: int | None = None
    ) -> None:
        """Record an exchange that is outstanding at the end of the test.

        outcome: CUT_OFF or UNSENT. service_ns, response_ns: how long it has waited since its send and its due time.
        """
        waited_ns = max(service_ns or 0, response_ns or 0)
        cell = self.cell(series, (end_ns - waited_ns) // NS_IN_S)
        cell.outcomes[outcome] += 1
        if service_ns is not None:
            cell.service.censored.record(service_ns)
        if response_ns is not None:
            cell.response.censored.record(response_ns)

    def cell(self, series: str, second: int) -> Cell:
        """The cell of a series and second; an empty one is added if there is none."""
        seconds = self.cells.setdefault(series, {})
        cell = seconds.get(second)
        if cell is None:
            cell = seconds[second] = Cell()
        return cell

    # Reading

    def exchange_series(self) -> list[str]:
        """The types of exchange that were recorded, sorted."""
        return sorted(series for series in self.cells if series not in PHASES and series != TASK)

    def attempts(self, start: int | None = None, end: int | None = None) -> dict[str, Counter[str]]:
        """Series -> outcomes, of every series in which a server may fail: all but TASK."""
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
            if start is not None and end is not None and end - start < len(seconds):  # short intervals of long runs
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
        """All outcomes so far. It does not read latencies, and is cheap enough to call while the swarm runs."""
        outcomes: Counter[str] = Counter()
        for seconds in self.cells.values():
            for cell in seconds.values():
                for outcome, count in cell.outcomes.items():
                    outcomes[outcome] += count
        return outcomes

    def ticks(self, start: int, end: int) -> float:
        """How many scheduled tasks began, in start <= second < end."""
        return sum(
            values.get("ticks", 0)
            for health in self.health.values()
            for second, values in health.items()
            if start <= second < end
        )

    def asked_per_s(self, start: int, end: int) -> float | None:
        """Tasks a second that the schedules of the users demand, on average; None if no user has a schedule."""
        by_second = Counter[int]()
        for health in self.health.values():
            for second, values in health.items():
                if start <= second < end:
                    by_second[second] += values.get("asked_per_s", 0)  # type: ignore[assignment]
        return sum(by_second.values()) / len(by_second) if any(by_second.values()) else None

    def missing(self) -> list[str]:
        """A sentence for each worker whose last report came, but not everything that it has recorded."""
        return [
            f"{title(process)} recorded {report['recorded']:,} outcomes, and {report['merged']:,} arrived"
            for process, report in sorted(self.reports.items())
            if report["final"] and report["recorded"] != report["merged"]
        ]

    def lost(self, start: int | None = None, end: int | None = None) -> list[str]:
        """A sentence for each worker without a last report, or that left before the measured phase ended at `end`."""
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
        """Second -> open sockets of all processes.

        A process without figures for a second counts with its last ones, until the second in which it left.
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
        """Record that a worker left, or was lost: after this second its sockets count as closed."""
        self._report_of(process)["left_s"] = second

    def returned(self, process: str) -> None:
        """Record that a worker that seemed lost sends again."""
        self._report_of(process).pop("left_s", None)

    def has_left(self, process: str) -> bool:
        """Whether left() was called for a worker, without returned() after it."""
        return "left_s" in self.reports.get(process, {})

    def _report_of(self, process: str) -> dict[str, int | bool]:
        return self.reports.setdefault(process, {"recorded": 0, "merged": 0, "final": False})

    # Moving

    def take(self) -> dict[str, Any]:
        """Return everything as plain values for merge() in another process, and become empty."""
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
        """Like take(), with counts by which merge_report() can check that everything has arrived.

        recorded: outcomes so far, including those of this report; is_final: no other report follows.
        """
        return {"process": process, "recorded": recorded, "final": is_final, "recording": self.take()}

    def merge_report(self, report: Mapping[str, Any], process: str | None = None) -> None:
        """Add what report() returned in another process; `process`: a unique name, if it is not the report's own."""
        process = process or report["process"]
        counts = self._report_of(process)
        cells = report["recording"]["cells"].values()
        counts["merged"] += sum(sum(outcomes.values()) for seconds in cells for _, outcomes, _ in seconds.values())
        counts["recorded"] = max(counts["recorded"], report["recorded"])
        counts["final"] = report["final"]
        recording = report["recording"]
        health = recording["health"].get(report["process"])
        self.merge({**recording, "health": {process: health} if health else {}})

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what take() returned in another process."""
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
        """The recording as it is written to client.json: with encoded histograms, and keys as text."""
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
        """The recording that to_json() returned as `data`; KeyError, TypeError or ValueError if it is not one."""
        recording = cls()
        for series, seconds in data["cells"].items():
            for second, kept in seconds.items():
                cell = recording.cell(series, int(second))
                cell.outcomes.update(kept["outcomes"])
                # The cells of schema 2 have no "done": exchanges belonged to the second of their end.
                cell.done = kept.get("done", cell.outcomes[OK])
                for name, histogram in _histograms(cell).items():
                    if name in kept:
                        histogram.add(Histogram.decode(kept[name]).counts)
        for process, health in data["health"].items():
            recording.health[process] = {int(second): values for second, values in health.items()}
        recording.reports = dict(data["reports"])
        recording.examples = dict(data.get("examples", {}))
        return recording


def _histograms(cell: Cell) -> dict[str, Histogram]:
    """The histograms of a cell, by their names in client.json."""
    return {
        "service_hdr": cell.service.measured,
        "response_hdr": cell.response.measured,
        "service_censored_hdr": cell.service.censored,
        "response_censored_hdr": cell.response.censored,
    }


def _kept(cell: Cell) -> dict[str, Any]:
    """A cell as it is written; empty histograms are left out."""
    return {
        "outcomes": dict(cell.outcomes),
        "done": cell.done,
        **{name: histogram.encode() for name, histogram in _histograms(cell).items() if histogram.counts},
    }


def _when(second: float | None, start: int | None, end: int | None) -> str:
    """The place of a second in a run, relative to its measured phase, from `start` to `end`."""
    if second is None or start is None or end is None or start == end:
        return ""
    if second < start:
        return " before the measured phase"
    return f" {second - start:g} s into the measured phase" if second < end else " after the measured phase"
