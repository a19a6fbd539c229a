"""Whether segments that were sent again explain slow exchanges."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests import kernel
from loadtests.figures import Window
from loadtests.recording import Recording
from loadtests.retransmits import explained_quantile, retransmit_warnings, retransmitted

WINDOW = Window(10, 20)
SERVER, SWARM = 1, 2
NS_IN_S = 10**9


def make_recording(exchanges: int, **processes: tuple[int, int, int]) -> Recording:
    """Processes with their namespace, and what it counted before the window and at its end."""
    recording = Recording()
    for _ in range(exchanges):
        recording.ended("SUM", 15 * NS_IN_S, "ok")
    for process, (namespace, before, after) in processes.items():
        counts = {8: 0, 9: before, 19: after, 20: after + 1000}
        recording.health[process] = {
            second: {"sockets": 1, "namespace": namespace, "retransmits": count} for second, count in counts.items()
        }
    return recording


def make_samples(namespace: int, before: int, after: int) -> list[dict[str, Any]]:
    counts = {9.9: 0, 10.0: before, 19.9: after, 20.1: after + 1000}
    return [
        {"time_s": time_s, "kernel": {"namespace": namespace, "retransmits": count}} for time_s, count in counts.items()
    ]


@pytest.mark.parametrize(
    ("count", "exchanges", "quantile"),
    [
        (0, 0, ""),
        (3, 0, ""),
        (0, 1000, ""),
        (1, 1000, ""),
        (2, 1000, "p99.9"),
        (31, 10_000, "p99.9"),
        (101, 10_000, "p99"),
        (1001, 10_000, "p90"),
        (9000, 10_000, "p50"),
    ],
)
def test_as_many_segments_as_lie_beyond_a_quantile_explain_it(count: int, exchanges: int, quantile: str) -> None:
    assert explained_quantile(count, exchanges) == quantile


def test_the_window_is_counted_in_each_namespace_once() -> None:
    recording = make_recording(10, a=(SWARM, 5, 25), b=(SWARM, 5, 24))

    assert retransmitted(recording, make_samples(SERVER, 100, 103), WINDOW) == 20 + 3
    assert retransmitted(recording, make_samples(SWARM, 5, 25), WINDOW) == 20


def test_hosts_that_do_not_count_say_nothing() -> None:
    recording = make_recording(10)
    recording.health["a"] = {15: {"sockets": 1}}

    assert retransmitted(recording, [{"time_s": 15.0, "kernel": {"busy_s": 1.0}}], WINDOW) == 0
    assert retransmit_warnings(recording, [], WINDOW) == []


def test_a_quantile_that_they_explain_is_named_beside_them() -> None:
    recording = make_recording(2000, a=(SWARM, 5, 30))

    assert retransmit_warnings(recording, make_samples(SERVER, 0, 1), WINDOW) == [
        "26 TCP segments were sent again in the measured phase (13 for 1,000 exchanges): "
        "latencies from p99 on may be the network's"
    ]
    assert retransmit_warnings(recording, [], Window(0, 0)) == []


def test_the_kernel_counts_them_for_a_namespace_that_has_a_number_of_its_own() -> None:
    assert kernel.retransmits() >= 0
    assert kernel.namespace() == kernel.namespace("self") > 0
    assert kernel.network()["retransmits"] >= kernel.retransmits() - 1000
