"""Whether TCP retransmissions explain slow exchanges."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.host import kernel_counters
from loadtests.recording.recording import CUT_OFF, Recording
from loadtests.results.metrics import Window
from loadtests.results.retransmits import explained_percent, retransmit_warnings, retransmitted

WINDOW = Window(10, 20)
SERVER, SWARM = 1, 2
NS_IN_S = 10**9


def make_recording(exchanges: int, **processes: tuple[int, int, int]) -> Recording:
    """Processes with their namespace, and what it counted before the window and at its end."""
    recording = Recording()
    for number in range(exchanges):
        recording.succeeded("SUM", 15 * NS_IN_S, (300 if number % 50 == 0 else 1) * 1_000_000)
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


SLOW = {50.0: 1e6, 90.0: 3e8, 99.0: 4e8, 99.9: 5e8}


@pytest.mark.parametrize(
    ("count", "exchanges", "latencies_ns", "percent"),
    [
        (0, 0, {}, None),
        (0, 1000, SLOW, None),
        (1, 1000, SLOW, None),
        (2, 1000, SLOW, 99.9),
        (31, 10_000, SLOW, 99.9),
        (101, 10_000, SLOW, 99.0),
        (1001, 10_000, SLOW, 90.0),
        (9000, 10_000, SLOW, 90.0),  # the median took less than any timeout
        (101, 10_000, {**SLOW, 99.0: 1e8}, 99.9),
        (9000, 10_000, {50.0: 1e6, 99.9: 5e6}, None),  # another's segments, on the same host
    ],
)
def test_as_many_segments_as_lie_beyond_a_percentile_explain_it_if_it_took_a_timeout(
    count: int, exchanges: int, latencies_ns: dict[float, float], percent: float | None
) -> None:
    assert explained_percent(count, exchanges, latencies_ns) == percent


def test_the_window_is_counted_in_each_namespace_once() -> None:
    recording = make_recording(10, a=(SWARM, 5, 25), b=(SWARM, 5, 24))

    assert retransmitted(recording, make_samples(SERVER, 100, 103), WINDOW) == 20 + 3
    assert retransmitted(recording, make_samples(SWARM, 5, 25), WINDOW) == 20


def test_hosts_without_counters_give_no_warning() -> None:
    recording = make_recording(10)
    recording.health["a"] = {15: {"sockets": 1}}

    assert retransmitted(recording, [{"time_s": 15.0, "kernel": {"busy_s": 1.0}}], WINDOW) == 0
    assert retransmit_warnings(recording, [], WINDOW) == []


def test_a_quantile_that_they_explain_is_named_beside_them() -> None:
    recording = make_recording(2000, a=(SWARM, 5, 30))

    (warning,) = retransmit_warnings(recording, make_samples(SERVER, 0, 1), WINDOW)

    assert warning.startswith("26 TCP segments were sent again in the measured phase (13 for 1,000 exchanges): ")
    assert warning.endswith("the network may cause the p99")
    assert retransmit_warnings(recording, [], Window(0, 0)) == []


def test_the_kernel_counts_them_for_a_namespace_that_has_a_number_of_its_own() -> None:
    assert kernel_counters.retransmits() >= 0
    assert kernel_counters.namespace() == kernel_counters.namespace("self") > 0
    assert kernel_counters.network()["retransmits"] >= kernel_counters.retransmits() - 1000


def test_exchanges_that_were_cut_off_count_where_none_ended() -> None:
    """A server that dies while its peers send again leaves nothing but these."""
    recording = make_recording(0, a=(SWARM, 5, 8))
    for _ in range(4):
        recording.outstanding("SUM", 18 * NS_IN_S, CUT_OFF, 3 * NS_IN_S)

    (warning,) = retransmit_warnings(recording, [], WINDOW)

    assert warning.startswith("3 TCP segments were sent again in the measured phase (750 for 1,000 exchanges)")
