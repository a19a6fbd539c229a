"""Figures from a recording and samples whose arithmetic is known."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.figures import Window, figures_of, steady_window
from loadtests.recording import CUT_OFF, Recording

S, MS = 10**9, 10**6


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
    return {figure.name: figure.value for figure in figures_of(make_recording(), make_samples())}


def test_the_steady_window_is_the_whole_seconds_with_all_sockets() -> None:
    assert steady_window(make_recording()) == Window(103, 107)


def test_counts_are_of_the_whole_run(figures: dict[str, float]) -> None:
    assert figures["sockets_peak"] == 10
    assert (figures["connects_ok"], figures["connects_failed"]) == (10, 1)
    assert (figures["exchanges_ok"], figures["exchanges_failed"], figures["exchanges_cut_off"]) == (350, 1, 1)


def test_rates_and_latencies_are_of_the_window(figures: dict[str, float]) -> None:
    assert figures["steady_s"] == 4
    assert figures["throughput"] == 50
    for name in ("latency_p50", "latency_max", "latency_SUM_p99"):
        assert figures[name] == pytest.approx(2000, rel=0.001)
    assert figures["connect_p50"] == pytest.approx(5000, rel=0.001)


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
    assert not [figure for figure in figures_of(make_recording(), []) if figure.name.startswith("server")]


def test_a_run_that_saw_nothing_has_no_rates() -> None:
    names = {figure.name: figure.value for figure in figures_of(Recording(), make_samples())}

    assert names["exchanges_ok"] == 0
    assert "throughput" not in names
    assert "server_cpu_per_exchange" not in names


def test_a_server_that_died_at_once_is_no_division_by_zero() -> None:
    dead = [{"time_s": 104.0, "processes": []}, {"time_s": 104.25, "processes": []}]

    assert figures_of(make_recording(), dead)


def test_a_generator_that_was_read_once_in_the_window_has_no_processor_use() -> None:
    """Not 0: what it used is known only between two readings."""
    recording = make_recording()
    recording.health["a"] = {second: values for second, values in recording.health["a"].items() if second in (102, 104)}
    recording.health["a"][105] = {"sockets": 10, "cpu_s": 60.0, "lag_ns": MS}
    names = {figure.name for figure in figures_of(recording, [])}

    assert steady_window(recording) == Window(103, 105)
    assert "generator_cpu" not in names
    assert "generator_lag_max" in names


def test_a_gap_in_the_readings_does_not_change_the_processor_use() -> None:
    recording = make_recording()
    del recording.health["a"][103]

    assert {f.name: f.value for f in figures_of(recording, [])}["generator_cpu"] == pytest.approx(50)


def test_a_worker_that_was_replaced_takes_back_nothing_that_was_used() -> None:
    """Process 2 ends at 105, and 3 begins there: of the window's processor time 2 s x 0.1 are not known any more."""
    samples = make_samples()
    for sample in samples:
        if sample["time_s"] >= 105:
            sample["processes"][1] |= {"pid": 3, "cpu_user_s": 0.1 * (sample["time_s"] - 105), "cpu_system_s": 0.0}
    figures = {figure.name: figure.value for figure in figures_of(make_recording(), samples)}

    elapsed_s = 3.75  # from the first sample of the window to its last
    assert figures["server_cpu"] == pytest.approx(100 * (0.1 * elapsed_s + 0.1 * (elapsed_s - 2)) / elapsed_s)
