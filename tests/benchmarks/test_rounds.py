from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from benchmarks.failures import Failed
from benchmarks.figures import Measurement
from benchmarks.jobs import JOBS, Scenario, with_axes
from benchmarks.rounds import Results, Turn, carry_out, order

SCENARIOS = with_axes(JOBS["echo"], {"connections": (1, 2)}).scenarios()
NAMES = ["ours", "c", "node"]


def turns(seed: int, rounds: int = 20) -> list[Turn]:
    return list(order(SCENARIOS, NAMES, rounds, random.Random(seed)))


def test_every_server_is_measured_once_in_every_round_and_scenario() -> None:
    seen = Counter((turn.round, turn.scenario, turn.contestant) for turn in turns(1))

    assert len(seen) == 20 * len(SCENARIOS) * len(NAMES)
    assert set(seen.values()) == {1}


def test_the_servers_of_a_scenario_are_measured_one_after_the_other() -> None:
    found = turns(1)
    blocks = [found[start : start + len(NAMES)] for start in range(0, len(found), len(NAMES))]

    assert all(len({(turn.round, turn.scenario) for turn in block}) == 1 for block in blocks)


def test_the_order_is_random_and_the_same_with_the_same_seed() -> None:
    firsts = {turn.contestant for turn in turns(1)[:: len(NAMES)]}

    assert firsts == set(NAMES)
    assert turns(1) == turns(1)
    assert turns(1) != turns(2)


def carried_out(broken: str | None = None) -> tuple[Results, list[str]]:
    """Two rounds of all servers; `broken` fails in the first scenario."""
    reported: list[str] = []

    def measure(scenario: Scenario, command: Sequence[str]) -> Measurement:
        if command == [broken] and scenario == SCENARIOS[0]:
            raise Failed("it broke")
        return {"cpu_us": float(len(reported))}

    def report(turn: Turn, outcome: Measurement | str) -> None:
        reported.append(f"{turn.contestant}: {outcome}")

    results = Results(SCENARIOS[0].job, SCENARIOS)
    commands = {name: [name] for name in NAMES}
    carry_out(results, commands, order(SCENARIOS, NAMES, 2, random.Random(1)), measure, report)
    return results, reported


def test_each_turn_adds_figures_to_its_server_and_scenario() -> None:
    results, reported = carried_out()

    assert [len(results.values(each, name, "cpu_us")) for each in SCENARIOS for name in NAMES] == [2] * 6
    assert len(reported) == 12


def test_a_server_that_fails_in_a_scenario_is_not_measured_in_it_again() -> None:
    results, reported = carried_out(broken="c")

    assert results.failed == {SCENARIOS[0]: {"c": "it broke"}, SCENARIOS[1]: {}}
    assert list(results.measurements[SCENARIOS[0]]) == ["ours", "node"]
    assert len(results.values(SCENARIOS[1], "c", "cpu_us")) == 2
    assert reported.count("c: it broke") == 1
