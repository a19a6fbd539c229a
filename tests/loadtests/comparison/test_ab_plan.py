from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtests.comparison.ab_plan import AbRecord, Repeated, draw, floor_of, is_settled, load_record, unsettled
from loadtests.comparison.compare import Plan, compare
from loadtests.comparison.model import Comparison, Side
from loadtests.results.store import Run
from tests.helpers.loadtests_runs import make_run


def test_the_order_within_the_pairs_is_that_of_the_seed_and_as_often_one_as_the_other() -> None:
    assert draw(7, 20) == draw(7, 20)
    assert draw(7, 20) != draw(8, 20)
    assert draw(7, 8) == draw(7, 20)[:8]
    counted = Counter(order for seed in range(100) for order in draw(seed, 20))
    assert set(counted) == {"ab", "ba"}
    assert abs(counted["ab"] - 1000) < 3 * math.sqrt(500)


def test_what_was_made_is_kept_as_json_with_its_kind_and_version() -> None:
    made = AbRecord("gserver:json", "peer:node-json", 7, 12, 3, 0.03, ["ba"], [("one", "two")])
    made.repeated.append(Repeated("bad", "b", ["steal was 9%"]))
    kept = json.loads(made.to_json())

    assert (kept["kind"], kept["schema_version"]) == ("gserver load test pairs", 1)
    assert (kept["seed"], kept["order"], kept["pairs"]) == (7, ["ba"], [["one", "two"]])
    assert kept["repeated"] == [{"run": "bad", "side": "b", "reasons": ["steal was 9%"]}]


def test_a_file_needs_only_pairs(tmp_path: Path) -> None:
    (tmp_path / "ab.json").write_text('{"pairs": [["one", "two"]], "added later": 1}')
    record = load_record(tmp_path)

    assert (record.a, record.b, record.planned_pairs, record.looks) == ("A", "B", 1, 1)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    record = AbRecord("a", "b", 7, 12, 3, 0.03, ["ba"], [("one", "two")], [Repeated("bad", "b", ["noise"])], "settled")
    (tmp_path / "ab.json").write_text(record.to_json())

    assert load_record(tmp_path) == record


def runs(scales: list[float], **changes: Any) -> tuple[Run, ...]:
    return tuple(make_run(scale=scale, **changes) for scale in scales)


def comparison(b: float) -> Comparison:
    noise = [1 + 0.001 * (place * 7 % 11) for place in range(12)]
    a_side, b_side = Side("A", runs(noise)), Side("B", runs([b * value**1.01 for value in noise]))
    return compare(a_side, b_side, Plan(paired=True, band=0.03))


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_pairs_that_are_equal_or_differ_beyond_doubt_are_settled(scale: float) -> None:
    assert is_settled(comparison(scale))


def test_inconclusive_pairs_are_not_settled() -> None:
    few = compare(Side("A", runs([1.0])), Side("B", runs([2.0])), Plan(paired=True))

    assert not is_settled(few)
    assert "response_p99" in unsettled(few)


def test_the_noise_floor_is_the_distance_of_equal_pairs_on_that_host() -> None:
    host = {"system": "Linux", "processor": "a", "cores": 2, "python": "3.11"}
    a, b = runs([1.0, 1.0, 1.0], environment=host), runs([1.01, 1 / 1.02, 1.1], environment=host)
    floor = floor_of(a, b)

    assert floor.pairs == 3
    assert floor.workload_hash == a[0].workload_hash
    assert floor.environment == {"system": "Linux", "processor": "a", "cores": 2}
    assert floor.floors["response_p99"] == pytest.approx(math.log(1.1))
    assert floor.floors["throughput"] == pytest.approx(math.log(1.1))
    assert not floor.objections_to(a[0])


def test_a_missing_or_zero_figure_has_no_noise_floor() -> None:
    without = [dataclasses.replace(run, figures=run.figures[:8]) for run in runs([1.0, 1.0])]
    floor = floor_of(runs([1.0, 1.0]), without)

    assert "error_rate" not in floor.floors
    assert "response_p99" not in floor.floors
