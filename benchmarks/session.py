"""Run jobs one after another, and keep their results and what was skipped."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bench import Bench
from benchmarks.contestants import Command, contestants
from benchmarks.document import document_of
from benchmarks.figures import FIGURES, Measurement
from benchmarks.jobs import Job, Scenario
from benchmarks.processors import describe as describe_cores
from benchmarks.processors import place
from benchmarks.rounds import Results, Turn, carry_out, order
from benchmarks.tables import figure_text
from benchmarks.toolchain import Toolchain, versions
from gserver.connection.native_fields import IS_NATIVE
from loadtests.host.environment import describe, sockets_within
from loadtests.servers.toolchain import Missing

__all__ = ["SECONDS", "Options", "Session", "heading"]

#: The default length of a measurement.
SECONDS = 3.0


@dataclass(frozen=True)
class Options:
    """The options of the command that apply to all jobs.

    ours: command of the server under test. peers: None for those of each job. others: further commands, by name.
    """

    toolchain: Toolchain
    ours: Command
    peers: tuple[str, ...] | None
    others: Mapping[str, Command]
    rounds: int
    seconds: float
    seed: int


@dataclass
class Session:
    """Measures jobs and keeps the results. progress: called with a line after each measurement."""

    options: Options
    progress: Callable[[str], None]
    results: list[Results] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def carry_out(self, job: Job) -> tuple[Results | None, list[str]]:
        """Measure a job; return its results (None if it was skipped), and a line for each thing that was skipped."""
        before = len(self.skipped)
        found = self._carry_out(job)
        if found is not None:
            self.results.append(found)
        return found, self.skipped[before:]

    def _carry_out(self, job: Job) -> Results | None:
        options = self.options
        try:
            bench = Bench.set_up(job, options.toolchain, options.seconds)
        except Missing as reason:
            self._skip(f"{job.name}: {reason}")
            return None
        scenarios = list(self._within_limits(job))
        if not scenarios:
            return None
        commands, missing = contestants(job, options.ours, options.peers, options.others, options.toolchain)
        for line in missing:
            self._skip(line)
        results = Results(job, scenarios)
        turns = order(scenarios, list(commands), options.rounds, random.Random(f"{options.seed} {job.name}"))
        carry_out(results, commands, turns, bench.measure, self._report)
        return results

    def _within_limits(self, job: Job) -> Iterator[Scenario]:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for scenario in job.scenarios():
            if sockets_within(limit, scenario.connections) < scenario.connections:
                self._skip(f"{scenario}: a process can open at most {limit:,} files here (ulimit -n)")
            else:
                yield scenario

    def _skip(self, line: str) -> None:
        if line not in self.skipped:
            self.skipped.append(line)

    def _report(self, turn: Turn, outcome: Measurement | str) -> None:
        headline = turn.scenario.job.figures[0]
        shown = (
            f"failed: {outcome}"
            if isinstance(outcome, str)
            else f"{figure_text(outcome[headline], headline)} {FIGURES[headline].title}"
        )
        rounds = f"round {turn.round} of {self.options.rounds}"
        self.progress(f"{turn.scenario}; {rounds}: {turn.contestant} {shown}")

    @property
    def failures(self) -> list[str]:
        """A line for each server that failed."""
        return [
            f"{scenario}: {name}: {why}"
            for results in self.results
            for scenario, failed in results.failed.items()
            for name, why in failed.items()
        ]

    def document(self) -> dict[str, Any]:
        """Return the JSON document of all results."""
        about = {
            "environment": {**describe(), "compiled": IS_NATIVE, "load_average": os.getloadavg()[0]},
            "tools": versions(),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "seed": self.options.seed,
        }
        return document_of(about, self.results, self.skipped)


def heading(options: Options) -> list[str]:
    """Return two lines about the machine, the versions and the options."""
    where = describe()
    cores = place(sorted(os.sched_getaffinity(0)), 1)
    assert cores is not None  # there is at least one
    how = "compiled" if IS_NATIVE else "not compiled"
    software = (
        f"gserver {where['gserver']} ({where['source']}, {how}), Python {where['python']}, gevent {where['gevent']}"
    )
    return [
        f"{software}, {where['system']}, {where['processor']}",
        f"{describe_cores(cores)}; rounds: {options.rounds} of {options.seconds:g} s; seed {options.seed}",
    ]
