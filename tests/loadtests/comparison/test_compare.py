"""The verdicts of comparisons: the rate of false differences, the power to find a change, and the texts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from loadtests.comparison.compare import Plan, compare, missing_in, plan_of_pairs
from loadtests.comparison.model import Comparison, FigureComparison, KeyDifference, Side
from loadtests.comparison.noise_floor import NoiseFloor
from loadtests.comparison.run_identity import CHOSEN
from loadtests.inference.power import cautious, needed_pairs
from loadtests.inference.rank_tests import Looks, noise_floor
from loadtests.results.store import Run
from loadtests.results.validity import Verdict
from loadtests.servers.target import RAN_ALREADY
from tests.helpers.comparisons import NOISE, run_of, simulated

PAIRED, SETS = Plan(paired=True), Plan()


def claims(comparison: Comparison) -> set[str]:
    """The figures that are called better or worse."""
    return {figure.name for figure in comparison.headlines if figure.answer in ("better", "worse")}


def first(side: Side, runs: int) -> Side:
    return dataclasses.replace(side, runs=side.runs[:runs])


def in_turns(a: Side, b: Side, looks: Looks) -> Comparison:
    """Make pairs as ab does: until a look finds everything settled, or all pairs are made."""
    for count in looks.at:
        comparison = compare(first(a, count), first(b, count), Plan(paired=True, alpha=looks.alpha_at(count)))
        if comparison.settled:
            break
    return comparison


def any_claim(a: Side, b: Side, looks: Looks) -> bool:
    """Harsher than stopping: a claim at any look counts, whether the pairs would have ended there or not."""
    return any(
        claims(compare(first(a, count), first(b, count), Plan(paired=True, alpha=looks.alpha_at(count))))
        for count in looks.at
    )


def wrong_about_equal_sides(kind: str, trials: int) -> int:
    draw = np.random.default_rng(7)
    return sum(is_wrong(kind, draw) for _ in range(trials))


def is_wrong(kind: str, draw: np.random.Generator) -> bool:
    if kind == "in turns":
        return any_claim(*simulated(draw, 14), Looks(14, 3))
    if kind == "pairs":
        return bool(claims(compare(*simulated(draw, 10), PAIRED)))
    if kind == "sets":
        return bool(claims(compare(*simulated(draw, 8, drifts=False), SETS)))
    return bool(claims(compare(*simulated(draw, 1), Plan(noise=floor_of(*simulated(draw, 20))))))


def floor_of(a: Side, b: Side) -> NoiseFloor:
    pairs = list(zip(a.runs, b.runs, strict=True))
    floors = {name: noise_floor([np.log(value(y, name) / value(x, name)) for x, y in pairs]) for name in NOISE}
    return NoiseFloor(a.runs[0].workload_hash, a.runs[0].environment, len(pairs), floors)


def value(run: Run, name: str) -> float:
    figure = run.figure(name)
    assert figure
    return figure.value


KINDS = ["pairs", "sets", "in turns", "single"]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_sides_are_seldom_called_different(kind: str) -> None:
    """Of 40 one in twenty is 2; more than 6 happen by chance once in two hundred times."""
    assert wrong_about_equal_sides(kind, 40) <= 6


@pytest.mark.longhaul
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_thousand_equal_sides_at_most_one_in_twenty_is_called_different(kind: str) -> None:
    assert wrong_about_equal_sides(kind, 1000) <= 50


@pytest.mark.longhaul
@pytest.mark.parametrize("name", ["response_p50", "server_cpu_per_exchange"])
def test_five_percent_are_found_with_as_many_pairs_as_the_tool_predicts_from_the_noise_it_saw(name: str) -> None:
    """Measure the noise with 30 pairs of equal sides, as --aa does, then compare the predicted number of pairs."""
    assert found_of(name, 200) >= 0.87 * 200


def found_of(name: str, trials: int) -> int:
    draw = np.random.default_rng(3)
    return sum(name in claims(compare(*simulated(draw, predicted(draw, name), 0.05), PAIRED)) for _ in range(trials))


def predicted(draw: np.random.Generator, name: str) -> int:
    figure = one(compare(*simulated(draw, 30), PAIRED), name)
    logs = np.log(np.array(figure.b, dtype=float) / np.array(figure.a, dtype=float))
    pairs = needed_pairs(float(np.log1p(0.05)), cautious(float(logs.std(ddof=1)), 29), 0.05 / len(NOISE))
    assert pairs
    return pairs


def test_a_difference_is_found_with_the_pairs_predicted() -> None:
    assert found_of("response_p50", 30) >= 23


# What it says


def one(comparison: Comparison, name: str) -> FigureComparison:
    figure = comparison.figure(name)
    assert figure
    return figure


def sides(changes: dict[str, float], runs: int = 10, noise: float = 0.0001) -> tuple[Side, Side]:
    """Two sides with next to no noise, so that the verdict is known."""
    a = tuple(run_of({name: noise * np.sin(number) for name in NOISE}, 2 * number) for number in range(runs))
    b = tuple(
        run_of({name: noise * np.cos(number) + np.log1p(changes.get(name, 0.0)) for name in NOISE}, 2 * number + 1)
        for number in range(runs)
    )
    return Side("before", a), Side("after", b)


@pytest.mark.parametrize("plan", [PAIRED, SETS])
@pytest.mark.parametrize(
    ("name", "change", "answer"),
    [
        ("response_p50", 0.05, "worse"),
        ("response_p50", -0.05, "better"),
        ("throughput", 0.05, "better"),
        ("throughput", -0.05, "worse"),
        ("throughput", 0.02, "equivalent"),
        ("service_p99", 0.0, "equivalent"),
    ],
)
def test_a_verdict_knows_which_direction_is_better(plan: Plan, name: str, change: float, answer: str) -> None:
    comparison = compare(*sides({name: change}), plan)

    assert one(comparison, name).answer == answer
    assert one(comparison, name).change == pytest.approx(change, abs=0.001)
    assert comparison.answer == answer
    assert comparison.settled


def test_a_change_within_the_band_is_equivalent_though_the_test_finds_it() -> None:
    figure = one(compare(*sides({"service_p50": 0.02}), PAIRED), "service_p50")

    assert figure.p_adjusted is not None
    assert figure.p_adjusted < 0.05
    assert figure.answer == "equivalent"
    assert one(compare(*sides({"service_p50": 0.02}), Plan(paired=True, band=0.01)), "service_p50").answer == "worse"


def test_worse_weighs_more_than_better() -> None:
    assert compare(*sides({"service_p50": 0.1, "throughput": 0.1}), PAIRED).answer == "worse"


def test_few_pairs_claim_nothing_and_give_the_number_that_is_needed() -> None:
    comparison = compare(*sides({"service_p50": 0.5}, runs=5), PAIRED)

    assert {figure.answer for figure in comparison.headlines} == {"inconclusive"}
    assert one(comparison, "service_p50").reason == "too few to tell"
    assert one(comparison, "service_p50").needed == 9
    assert any("for 8 figures it takes 9 pairs" in note for note in comparison.notes)
    assert claims(compare(*sides({"service_p50": 0.5}, runs=9), PAIRED)) == {"service_p50"}


def test_one_run_on_each_side_claims_nothing_without_a_noise_floor() -> None:
    a, b = sides({"service_p50": 0.5}, runs=1)
    floor = NoiseFloor("0123456789ab", {}, 20, dict.fromkeys(NOISE, 0.01))

    assert claims(compare(a, b, SETS)) == set()
    assert "no claim" in compare(a, b, SETS).notes[0]
    assert claims(compare(a, b, Plan(noise=floor))) == {"service_p50"}
    assert one(compare(a, b, Plan(noise=floor)), "throughput").answer == "equivalent"


def with_errors(rates: list[float]) -> Side:
    return Side("", tuple(run_of({}, number, rate) for number, rate in enumerate(rates)))


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        ([0.0] * 10, [0.0] * 10, "equivalent"),
        ([0.0] * 10, [0.01 * each for each in range(1, 11)], "worse"),
        ([0.01 * each for each in range(1, 11)], [0.0] * 10, "better"),
        ([0.0] * 10, [0.0] * 9 + [3.0], "inconclusive"),
    ],
)
def test_error_rates_are_compared_by_their_difference_because_zero_has_no_ratio(
    a: list[float], b: list[float], answer: str
) -> None:
    figure = one(compare(with_errors(a), with_errors(b), PAIRED), "error_rate")

    assert figure.scale == "difference"
    assert figure.answer == answer


def test_a_tied_figure_needs_no_more_pairs() -> None:
    """Nine figures would take ten pairs; the ninth is errors, and there are none."""
    assert claims(compare(*sides({"throughput": -0.1}, runs=9), PAIRED)) == {"throughput"}


def test_runs_of_different_workloads_are_refused_with_what_differs() -> None:
    a, b = sides({}, runs=2)
    other = tuple(
        dataclasses.replace(run, workload={**run.workload, "sockets": 100}, workload_hash="f") for run in b.runs
    )
    comparison = compare(a, Side("after", other), SETS)

    assert comparison.workload == (KeyDifference("sockets", "200", "100"),)
    assert comparison.refusals == (
        "the workloads differ, so the figures do not measure the same thing: sockets 200 against 100",
    )


def test_a_run_that_is_not_valid_is_refused_with_its_reasons() -> None:
    a, b = sides({}, runs=2)
    bound = dataclasses.replace(b.runs[0], verdict=Verdict("generator-bound", ["it used 97% of a core"]))

    assert compare(a, Side("after", (bound, b.runs[1])), SETS).refusals == (
        "run-001 is generator-bound: it used 97% of a core",
    )


def test_differences_of_the_environment_are_listed_with_all_their_values() -> None:
    a, b = sides({}, runs=2)
    upgraded = dataclasses.replace(b.runs[1], environment={"python": "3.13.0", "cores": 2}, server={"command": "x"})
    comparison = compare(a, Side("after", (b.runs[0], upgraded)), SETS)

    assert comparison.environment == (
        KeyDifference("python", "3.11.7", "3.11.7, 3.13.0"),
        KeyDifference("command", "gserver json -w 1", "gserver json -w 1, x"),
    )


def test_the_order_is_that_in_which_the_runs_were_made() -> None:
    assert compare(*sides({}, runs=2), PAIRED).order == (("A", 0), ("B", 0), ("A", 1), ("B", 1))


def test_a_figure_that_one_side_lacks_is_not_compared() -> None:
    a, b = sides({}, runs=2)
    without = [
        dataclasses.replace(run, figures=[each for each in run.figures if each.name != "throughput"]) for run in b.runs
    ]

    assert compare(a, Side("after", tuple(without)), SETS).figure("throughput") is None
    partly = compare(a, Side("after", (b.runs[0], without[1])), PAIRED).figure("throughput")
    assert partly
    assert partly.b[1] is None
    assert partly.b_typical == partly.b[0]


def test_a_percentile_of_few_replies_is_neither_judged_nor_shown() -> None:
    a, b = sides({}, runs=2)
    few = [dataclasses.replace(each, count=500) if each.name.endswith("_p99") else each for each in b.runs[0].figures]
    comparison = compare(a, Side("after", tuple(dataclasses.replace(run, figures=few) for run in b.runs)), PAIRED)

    names = {figure.name for figure in comparison.figures}
    assert {"response_p50", "response_p99.9", "throughput"} <= names
    assert not [name for name in names if name.endswith("_p99")]
    (note,) = [note for note in comparison.notes if note.startswith("Left out")]
    assert "p99 latency, p99 service time" in note


def test_errors_of_any_run_are_in_the_notes() -> None:
    a, b = sides({}, runs=2)
    runs = [dataclasses.replace(run, errors={"SUM: reset": 2, "close: timeout": 1}) for run in b.runs]

    assert (
        "after had failures: SUM: reset (4), close: timeout (2)."
        in compare(a, Side("after", tuple(runs)), PAIRED).notes
    )


def test_two_addresses_are_a_difference_but_two_random_ports_are_none() -> None:
    a, b = sides({}, runs=2)

    def served(side: Side, *servers: dict[str, Any]) -> Side:
        runs = zip(side.runs, servers, strict=True)
        return Side(side.title, tuple(dataclasses.replace(run, server=server) for run, server in runs))

    def differences(*servers: dict[str, Any]) -> dict[str, tuple[str, str]]:
        found = compare(served(a, *servers[:2]), served(b, *servers[2:]), SETS).environment
        return {each.key: (each.a, each.b) for each in found}

    first, second = ({"address": f"tcp://10.0.0.{host}:3001", "command": RAN_ALREADY} for host in (1, 2))
    started = [{"address": f"tcp://127.0.0.1:{port}", "command": "gserver json", "workers": 2} for port in (1, 2, 3, 4)]
    more = [{**each, "workers": 4} for each in started]

    assert differences(first, first, second, second) == {"address": ("tcp://10.0.0.1:3001", "tcp://10.0.0.2:3001")}
    assert differences(*started) == {}
    assert differences(*started[:2], *more[2:]) == {"workers": ("2", "4")}
    assert differences(*started[:2], first, first)["address"] == (CHOSEN, "tcp://10.0.0.1:3001")


def test_runs_of_another_schema_are_refused_with_the_reason() -> None:
    a, b = sides({}, runs=2)
    older = Side("after", tuple(dataclasses.replace(run, schema=2) for run in b.runs))

    assert compare(a, b, SETS).refusals == ()
    (refusal,) = compare(a, older, SETS).refusals
    assert refusal.startswith("the runs have schemas 2 and 3 of run.json. Their figures mean different things: since")


def test_shortfalls_of_a_server_are_notes_and_no_refusals() -> None:
    a, b = sides({}, runs=2)
    away = "It was away for 5 s."
    failed = dataclasses.replace(b.runs[1], verdict=Verdict("valid", [away], [away]))
    doubted = dataclasses.replace(b.runs[1], verdict=Verdict("noisy-host", ["It was noisy.", away], [away]))

    believed = compare(a, Side("after", (b.runs[0], failed)), SETS)
    assert believed.refusals == ()
    assert f"after did not do all that was requested in 1 of 2 runs: {away}" in believed.notes
    assert compare(a, Side("after", (b.runs[0], doubted)), SETS).refusals == ("run-003 is noisy-host: It was noisy.",)


MEMORY = {"user": "JsonUser", "sockets": 4000, "shape": "doublings"}


def of_memory(side: Side, **changes: Any) -> Side:
    return dataclasses.replace(
        side, runs=tuple(dataclasses.replace(run, workload=MEMORY, **changes) for run in side.runs)
    )


def test_runs_of_the_memory_profile_are_judged_by_memory_alone_and_four_on_each_side_suffice() -> None:
    a, b = (of_memory(side) for side in simulated(np.random.default_rng(3), 4, 0.5))
    comparison = compare(a, b, plan_of_pairs(MEMORY, 0.03, Looks(len(a.runs), 1), len(a.runs)))

    assert [figure.name for figure in comparison.headlines] == ["server_rss_per_socket"]
    assert comparison.headlines[0].answer == "worse"
    assert comparison.figure("response_p50") is not None
    assert not comparison.paired
    assert plan_of_pairs({"shape": "hold"}, 0.03, Looks(10, 1), 10).paired


@pytest.mark.parametrize(("state", "refused"), [("noisy-host", 0), ("generator-bound", 0), ("incomplete", 8)])
def test_a_disturbed_run_can_still_be_judged_by_memory(state: Any, refused: int) -> None:
    a, b = (of_memory(side, verdict=Verdict(state, ["because"])) for side in simulated(np.random.default_rng(3), 4))

    assert len(compare(a, b, SETS).refusals) == refused


def test_a_run_of_the_memory_profile_without_memory_has_a_reason() -> None:
    run = dataclasses.replace(run_of({}), workload=MEMORY, withheld={"server_rss_per_socket": "memory grew"})
    bare = dataclasses.replace(run, figures=[each for each in run.figures if each.name != "server_rss_per_socket"])

    assert missing_in(run) == []
    assert missing_in(bare) == ["There is no memory per connection: memory grew."]
    assert missing_in(dataclasses.replace(bare, workload={})) == []
