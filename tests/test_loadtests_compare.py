"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.compare import CAVEAT, Difference, compare, render_comparison
from loadtests.figures import Figure
from tests.helpers.loadtests_runs import make_run

TABLE = """\
A: before (pooled), 2026-01-02T03:04:05+00:00
B: after, 2026-01-02T03:04:05+00:00

| figure                              |                 A |                 B |  B against A |
|-------------------------------------|------------------:|------------------:|-------------:|
| throughput                          | 2,000 exchanges/s | 1,333 exchanges/s | -33.3% worse |
| response time p50                   |            200 us |            300 us | +50.0% worse |
| response time p90                   |            400 us |            600 us | +50.0% worse |
| response time p99                   |          1,234 us |          1,852 us | +50.0% worse |
| response time p99.9                 |          5,678 us |          8,517 us | +50.0% worse |
| service time p50                    |            200 us |            300 us | +50.0% worse |
| service time p90                    |            400 us |            600 us | +50.0% worse |
| service time p99                    |          1,234 us |          1,852 us | +50.0% worse |
| service time p99.9                  |          5,678 us |          8,517 us | +50.0% worse |
| connect p99                         |          1,234 us |          1,234 us |        +0.0% |
| server: processor time per exchange |             85 us |            128 us | +50.0% worse |
| server: memory per connection       |          0.62 KiB |          0.94 KiB | +50.0% worse |
| server: memory, peak                |          48.2 MiB |          72.4 MiB | +50.0% worse |
| exchanges that failed               |       0 exchanges |       0 exchanges |            - |

"""


def test_the_table_has_both_values_and_the_difference() -> None:
    before = make_run(label="pooled", path=Path("results/before"))
    after = make_run(scale=1.5, path=Path("results/after"))

    assert render_comparison(compare(before, after)) == TABLE + CAVEAT


@pytest.mark.parametrize(
    ("a", "b", "better", "relative", "direction"),
    [
        (100.0, 110.0, "higher", 0.1, "better"),
        (100.0, 110.0, "lower", 0.1, "worse"),
        (100.0, 90.0, "lower", -0.1, "better"),
        (100.0, 110.0, "", 0.1, ""),
        (100.0, 100.01, "lower", 0.0001, ""),
        (0.0, 3.0, "lower", None, "worse"),
        (0.0, 0.0, "lower", None, ""),
    ],
)
def test_a_difference_is_relative_and_has_a_direction(
    a: float, b: float, better: str, relative: float | None, direction: str
) -> None:
    difference = Difference("x", Figure("x", a, "us", better), Figure("x", b, "us", better))

    assert difference.relative == (None if relative is None else pytest.approx(relative))
    assert difference.direction == direction


def test_a_figure_that_one_side_lacks_is_shown_for_the_other() -> None:
    without = make_run(figures=[f for f in make_run().figures if f.name != "server_cpu_per_exchange"])
    text = render_comparison(compare(make_run(), without))

    assert any("85 us |" in line and line.count(" - |") == 2 for line in text.splitlines())


def test_what_differs_in_the_environment_stands_above() -> None:
    other = make_run(
        environment={"python": "3.13.0", "cores": 2}, server={"address": "x", "command": "gserver json -w 2"}
    )
    comparison = compare(make_run(), other)

    assert comparison.environment == [
        ("python", "3.11.7", "3.13.0"),
        ("command", "gserver json -w 1", "gserver json -w 2"),
    ]
    text = render_comparison(comparison)
    assert text.index("3.13.0") < text.index("throughput")


def test_different_workloads_are_said_to_measure_different_things() -> None:
    other = make_run(workload={"user": "JsonUser", "sockets": 100, "rate": 10})
    text = render_comparison(compare(make_run(), other))

    assert "The workloads differ" in text
    assert "| sockets" in text


def test_one_run_each_proves_nothing() -> None:
    assert "proves nothing" in render_comparison(compare(make_run(), make_run()))
