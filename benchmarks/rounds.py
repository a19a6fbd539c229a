"""The order in which servers are measured, and the results.

In each round every server is measured once in every scenario. The servers of a scenario follow each other directly, in
a random order that is drawn for each round; the same seed gives the same order. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.contestants import Command
from benchmarks.failures import Failed
from benchmarks.figures import Measurement
from benchmarks.jobs import Job, Scenario
from benchmarks.ratios import Value

__all__ = ["Results", "Turn", "carry_out", "order"]


@dataclass(frozen=True)
class Turn:
    """One measurement: which server in which scenario."""

    round: int  # from 1
    scenario: Scenario
    contestant: str


@dataclass
class Results:
    """The results of a job.

    A server that failed in a scenario is in that scenario's `failed` (server -> reason), and its measurements there are
    dropped.
    """

    job: Job
    scenarios: list[Scenario]
    measurements: dict[Scenario, dict[str, list[Measurement]]] = field(default_factory=dict)
    failed: dict[Scenario, dict[str, str]] = field(default_factory=dict)

    def values(self, scenario: Scenario, contestant: str, figure: str) -> list[Value]:
        """Return a figure of a server, one value for each round."""
        return [each.get(figure) for each in self.measurements[scenario][contestant]]


def order(
    scenarios: Sequence[Scenario], contestants: Sequence[str], rounds: int, chance: random.Random
) -> Iterator[Turn]:
    """Yield every scenario with every contestant, `rounds` times."""
    for number in range(1, rounds + 1):
        for scenario in chance.sample(scenarios, len(scenarios)):
            for contestant in chance.sample(contestants, len(contestants)):
                yield Turn(number, scenario, contestant)


def carry_out(
    results: Results,
    contestants: Mapping[str, Command],
    turns: Iterator[Turn],
    measure: Callable[[Scenario, Command], Measurement],
    report: Callable[[Turn, Measurement | str], None],
) -> None:
    """Measure turn by turn, and add to the results; `report` gets the figures of each turn, or why it failed."""
    for scenario in results.scenarios:
        results.measurements[scenario] = {name: [] for name in contestants}
        results.failed[scenario] = {}
    for turn in turns:
        measured, failed = results.measurements[turn.scenario], results.failed[turn.scenario]
        if turn.contestant in failed:
            continue
        try:
            figures = measure(turn.scenario, contestants[turn.contestant])
        except Failed as failure:
            failed[turn.contestant] = str(failure)
            del measured[turn.contestant]
            report(turn, str(failure))
        else:
            measured[turn.contestant].append(figures)
            report(turn, figures)
