"""Figures from a recording and samples whose arithmetic is known."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.figures import figures_of, memory_plateaus
from loadtests.recording import CUT_OFF, Recording

S, MS = 10**9, 10**6
PHASES = {"ramp": [100, 103], "measure": [103, 107], "cooldown": [107, 108]}


def make_recording() -> Recording:
    """10 sockets, all open from second 102 to second 107; 50 exchanges a second of 2 ms, from 101 to 107."""
    recording = Recording()
    for _ in range(10):
        recording.succeeded("connect", 101 * S, 5 * MS)
    recording.ended("connect", 101 * S, "refused")
    for second in range(101, 108):
        for _ in range(50):
            recording.succeeded("SUM", second * S, 2 * MS)
    recording.ended("SUM", 107 * S, "reset")
    recording.ended("SUM", 107 * S, CUT_OFF)
    sockets = {101: 4, 102: 10, 103: 10, 104: 10, 105: 10, 106: 10, 107: 10, 108: 0}
    recording.health["a"] = {
        second: {"sockets": count, "cpu_s": 0.5 * second, "lag_ns": (second - 100) * MS}
        for second, count in sockets.items()
    }
    return recording


def make_samples() -> list[dict[str, Any]]:
    """Two processes, each with 0.1 s of processor time a second, and 10 KiB more for each of its 5 sockets."""

    def process(pid: int, time_s: float) -> dict[str, Any]:
        connected = 5 if time_s >= 101.5 else 0
        return {
            "pid": pid,
            "cpu_user_s": 0.075 * time_s,
            "cpu_system_s": 0.025 * time_s,
            "rss_bytes": 2**20 * 20 + connected * 10 * 1024,
            "descriptors": 10 + connected,
            "switches_voluntary": int(100 * time_s),
            "switches_involuntary": 0,
            "sockets": 2 + connected,
        }

    return [
        {"time_s": quarter / 4, "processes": [process(1, quarter / 4), process(2, quarter / 4)]}
        for quarter in range(100 * 4, 109 * 4)
    ]


@pytest.fixture
def figures() -> dict[str, float]:
    return {figure.name: figure.value for figure in figures_of(make_recording(), make_samples(), PHASES)}


def test_counts_are_of_the_whole_run(figures: dict[str, float]) -> None:
    assert figures["sockets_peak"] == 10
    assert (figures["connects_ok"], figures["connects_failed"]) == (10, 1)
    assert (figures["exchanges_ok"], figures["exchanges_failed"], figures["exchanges_cut_off"]) == (350, 1, 1)


def test_rates_and_latencies_are_of_the_window(figures: dict[str, float]) -> None:
    assert figures["steady_s"] == 4
    assert figures["throughput"] == 50
    for name in ("service_p50", "service_max", "service_SUM_p99"):
        assert figures[name] == pytest.approx(2000, rel=0.001)
    assert figures["connect_p50"] == pytest.approx(5000, rel=0.001)


def test_a_latency_has_its_mean_and_its_extremes_and_a_type_its_counts() -> None:
    recording = Recording()
    for milliseconds in range(1, 101):
        recording.succeeded("SUM", 104 * S, milliseconds * MS)
    recording.ended("SUM", 104 * S, "reset")
    recording.ended("SUM", 104 * S, CUT_OFF)
    recording.succeeded("SUM", 102 * S, MS)
    recording.ended("PING", 105 * S, "timeout")
    figures = {figure.name: figure.value for figure in figures_of(recording, [], PHASES)}

    expected = {"mean": 50.5, "min": 1, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    for name, value_ms in expected.items():
        assert figures[f"service_SUM_{name}"] == pytest.approx(1000 * value_ms, rel=0.001), name
    assert (figures["answered_SUM"], figures["failed_SUM"]) == (100, 1)
    assert (figures["answered_PING"], figures["failed_PING"]) == (0, 1)
    assert "service_PING_p50" not in figures


def test_the_generator_is_measured_in_the_window(figures: dict[str, float]) -> None:
    assert figures["generator_cpu"] == pytest.approx(50)
    assert figures["generator_lag_max"] == 6


def test_the_server_is_its_whole_tree(figures: dict[str, float]) -> None:
    assert figures["server_processes"] == 2
    assert figures["server_cpu"] == pytest.approx(20)
    assert figures["server_cpu_per_exchange"] == pytest.approx(1e6 * 0.2 / 50)
    assert figures["server_rss_per_socket"] == pytest.approx(10)
    assert figures["server_rss_peak"] == pytest.approx(40 + 100 / 1024)
    assert figures["server_sockets"] == 14
    assert figures["server_descriptors"] == 30
    assert figures["server_switches"] == pytest.approx(200, rel=0.05)


def test_without_samples_there_are_no_figures_of_the_server() -> None:
    assert not [figure for figure in figures_of(make_recording(), [], PHASES) if figure.name.startswith("server")]


def test_a_run_that_saw_nothing_has_no_rates() -> None:
    names = {figure.name: figure.value for figure in figures_of(Recording(), make_samples(), {})}

    assert names["exchanges_ok"] == 0
    assert "throughput" not in names
    assert "server_cpu_per_exchange" not in names


def test_a_server_that_died_at_once_is_no_division_by_zero() -> None:
    dead = [{"time_s": 104.0, "processes": []}, {"time_s": 104.25, "processes": []}]

    assert figures_of(make_recording(), dead, PHASES)


def test_a_generator_that_was_read_once_in_the_window_has_no_processor_use() -> None:
    """Not 0: what it used is known only between two readings."""
    recording = make_recording()
    recording.health["a"] = {second: values for second, values in recording.health["a"].items() if second in (102, 104)}
    names = {figure.name for figure in figures_of(recording, [], {"measure": [103, 105]})}

    assert "generator_cpu" not in names
    assert "generator_lag_max" in names


def test_a_gap_in_the_readings_does_not_change_the_processor_use() -> None:
    recording = make_recording()
    del recording.health["a"][103]

    assert {f.name: f.value for f in figures_of(recording, [], PHASES)}["generator_cpu"] == pytest.approx(50)


def test_a_worker_that_was_replaced_takes_back_nothing_that_was_used() -> None:
    """Process 2 ends at 105, and 3 begins there: of the window's processor time 2 s x 0.1 are not known any more."""
    samples = make_samples()
    for sample in samples:
        if sample["time_s"] >= 105:
            sample["processes"][1] |= {"pid": 3, "cpu_user_s": 0.1 * (sample["time_s"] - 105), "cpu_system_s": 0.0}
    figures = {figure.name: figure.value for figure in figures_of(make_recording(), samples, PHASES)}

    elapsed_s = 3.75  # from the first sample of the window to its last
    assert figures["server_cpu"] == pytest.approx(100 * (0.1 * elapsed_s + 0.1 * (elapsed_s - 2)) / elapsed_s)


def test_memory_per_connection_is_the_slope_through_the_plateaus() -> None:
    """0, 1,000 and 3,000 sockets at 20 MiB and 10 KiB each: the seconds in between say nothing."""
    sockets = [0, 400, 1000, 1000, 1000, 1000, 2100, 3000, 3000, 3000, 3000, 0]
    recording = Recording()
    recording.health["a"] = {
        100 + at: {"sockets": count, "cpu_s": 0.0, "lag_ns": 0} for at, count in enumerate(sockets)
    }
    samples = [sample_of(99.5, 20 * 2**20)] + [
        sample_of(100.5 + at, 20 * 2**20 + (10 * 1024 * count if count in (1000, 3000) else 7 * 2**30))
        for at, count in enumerate(sockets)
    ]

    assert [count for count, _ in memory_plateaus(recording, samples)] == [0, 1000, 3000]
    (slope,) = [each for each in figures_of(recording, samples, {}) if each.name == "server_rss_per_socket"]
    assert slope.low is not None
    assert slope.high is not None
    assert (slope.low, slope.value, slope.high) == pytest.approx((10, 10, 10))


def sample_of(time_s: float, rss_bytes: float) -> dict[str, Any]:
    return {"time_s": time_s, "processes": [{"pid": 1, "cpu_user_s": 0.0, "cpu_system_s": 0.0, "rss_bytes": rss_bytes}]}


def test_connects_that_happen_while_it_is_measured_are_those_that_are_shown() -> None:
    recording = make_recording()
    for _ in range(11):
        recording.succeeded("connect", 105 * S, 9 * MS)
    figures = {figure.name: figure.value for figure in figures_of(recording, [], PHASES)}

    assert figures["connect_p50"] == pytest.approx(9000, rel=0.001)


def test_both_latencies_and_the_share_of_late_sends_are_of_what_has_a_schedule() -> None:
    recording = Recording()
    for _ in range(8):
        recording.succeeded("SUM", 100 * S, 2 * MS, 3 * MS)
    recording.ended("SUM", 100 * S, "timeout")
    recording.ended("SUM", 100 * S, CUT_OFF)
    recording.health["a"] = {100: {"sockets": 1, "cpu_s": 0.0, "lag_ns": 0, "late_sends": 5}}
    figures = {figure.name: figure.value for figure in figures_of(recording, [], {"measure": [100, 101]}, 20.0)}

    assert figures["service_p99"] == pytest.approx(2000, rel=0.001)
    assert figures["response_SUM_p99"] == pytest.approx(3000, rel=0.001)
    assert figures["generator_late"] == pytest.approx(50)
    assert figures["error_rate"] == pytest.approx(100 / 9)
    assert figures["offered"] == 20
