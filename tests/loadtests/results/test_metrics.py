"""Figures from a recording and samples whose arithmetic is known."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.recording.recording import CUT_OFF, NEVER_SENT, TASK, UNSENT, Recording
from loadtests.results.metrics import Figure, doubts_of_server, figures_of, withheld_of
from tests.helpers.plateaus import MIB, on_plateaus, sample_of

S, MS = 10**9, 10**6
PHASES = {"ramp": [100, 103], "measure": [103, 107], "cooldown": [107, 108]}


def make_recording() -> Recording:
    """10 sockets, all open from second 102 to second 107; 50 exchanges a second of 2 ms, from 101 to 107."""
    recording = Recording()
    for _ in range(10):
        recording.succeeded("connect", 101 * S + 500 * MS, 5 * MS)
    recording.failed("connect", 101 * S, "refused")
    for second in range(101, 108):
        for _ in range(50):
            recording.succeeded("SUM", second * S + 500 * MS, 2 * MS)
    recording.failed("SUM", 107 * S, "reset")
    recording.outstanding("SUM", 107 * S, CUT_OFF)
    sockets = {101: 4, 102: 10, 103: 10, 104: 10, 105: 10, 106: 10, 107: 10, 108: 0}
    recording.health["a"] = {
        second: {"sockets": count, "cpu_s": 0.5 * second, "lag_ns": (second - 100) * MS}
        for second, count in sockets.items()
    }
    return recording


@pytest.mark.parametrize(
    ("name", "count", "is_of_few"),
    [
        ("response_p50", 19, True),
        ("response_p50", 20, False),
        ("service_SUM_p90", 99, True),
        ("service_SUM_p90", 100, False),
        ("connect_p99", 999, True),
        ("connect_p99", 1000, False),
        ("response_p99.9", 9999, True),
        ("response_p99.9", 10_000, False),
        ("response_max", 1, False),
        ("response_p99.9", None, False),
        ("throughput", 1, False),
    ],
)
def test_a_quantile_is_of_few_with_less_than_ten_values_beyond_it(
    name: str, count: int | None, is_of_few: bool
) -> None:
    assert Figure(name, 1.0, "us", count=count).is_of_few is is_of_few


def test_quantiles_have_the_number_of_their_values() -> None:
    counts = {figure.name: figure.count for figure in figures_of(make_recording(), [], PHASES)}

    assert counts["service_p99"] == counts["service_SUM_max"] == 4 * 50
    assert counts["connect_p50"] == 10
    assert counts["throughput"] is None


def make_samples() -> list[dict[str, Any]]:
    """Two processes, each with 0.1 s of CPU time a second and 10 KiB for each of its 5 sockets."""

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
    recording.failed("SUM", 104 * S, "reset")
    recording.outstanding("SUM", 104 * S, CUT_OFF)
    recording.succeeded("SUM", 102 * S, MS)
    recording.failed("PING", 105 * S, "timeout")
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


def test_a_generator_that_was_read_once_in_the_window_has_no_cpu_use() -> None:
    """None, not 0: CPU use needs two readings."""
    recording = make_recording()
    recording.health["a"] = {second: values for second, values in recording.health["a"].items() if second in (102, 104)}
    names = {figure.name for figure in figures_of(recording, [], {"measure": [103, 105]})}

    assert "generator_cpu" not in names
    assert "generator_lag_max" in names


def test_a_gap_in_the_readings_does_not_change_the_cpu_use() -> None:
    recording = make_recording()
    del recording.health["a"][103]

    assert {f.name: f.value for f in figures_of(recording, [], PHASES)}["generator_cpu"] == pytest.approx(50)


def test_a_replaced_worker_does_not_reduce_the_cpu_time() -> None:
    """Process 2 ends at 105, and 3 begins there: of what 2 used its last quarter of a second is not known."""
    samples = make_samples()
    for sample in samples:
        if sample["time_s"] >= 105:
            sample["processes"][1] |= {"pid": 3, "cpu_user_s": 0.1 * (sample["time_s"] - 105), "cpu_system_s": 0.0}
    figures = {figure.name: figure.value for figure in figures_of(make_recording(), samples, PHASES)}

    elapsed_s = 3.75  # from the first sample of the window to its last
    assert figures["server_cpu"] == pytest.approx(100 * (0.1 * elapsed_s + 0.1 * (elapsed_s - 0.25)) / elapsed_s)


def test_memory_of_a_connection_is_the_slope_over_warmed_up_plateaus() -> None:
    """20 MiB, of which 15 came with the first connections, and 10 KiB for each: the seconds in between do not count."""
    recording, samples = on_plateaus({1000: 20 * MIB, 2000: 20 * MIB, 4000: 20 * MIB}, each=10 * 1024)
    samples.insert(0, sample_of(99.5, 5 * MIB))
    (slope,) = [each for each in figures_of(recording, samples, {}) if each.name == "server_rss_per_socket"]

    assert (slope.low, slope.value, slope.high) == pytest.approx((10, 10, 10))
    assert withheld_of(recording, samples, {}) == {}


def test_a_figure_that_is_withheld_has_its_reason() -> None:
    recording, samples = on_plateaus({50: 20 * MIB}, each=0)

    assert "server_rss_per_socket" not in {each.name for each in figures_of(recording, samples, {})}
    assert "this run rested at 50 connections" in withheld_of(recording, samples, {})["server_rss_per_socket"]
    assert withheld_of(recording, [], {}) == {"server_rss_per_socket": "the server was not sampled"}


def test_connection_requests_that_were_dropped_are_those_of_the_servers_own_listeners() -> None:
    """The first listener is replaced, and the second begins at 0; what the host counts is not the server's."""
    steps = [{"a": 3}, {"a": 5}, {"b": 1}, {"b": 4}]
    samples = [
        {**sample_of(104 + at, MIB), "kernel": {"listeners": each, "listen_overflows": 100 * at}}
        for at, each in enumerate(steps)
    ]
    figures = {each.name: each.value for each in figures_of(make_recording(), samples, PHASES)}

    assert figures["listen_overflows"] == 6
    assert "host_listen_overflows" not in figures


def test_without_the_listeners_overflows_are_those_of_the_host() -> None:
    samples = [{**sample_of(104 + at, MIB), "kernel": {"listen_overflows": 7 * at}} for at in range(3)]
    figures = {each.name: each.value for each in figures_of(make_recording(), samples, PHASES)}

    assert figures["host_listen_overflows"] == 14
    assert "listen_overflows" not in figures


def test_context_switches_are_withheld_if_processes_ended() -> None:
    samples = make_samples()
    assert "server_switches" not in withheld_of(make_recording(), samples, PHASES)
    for sample in samples:
        sample["processes"][0]["children_cpu_s"] = 0.01 * int(sample["time_s"])
    names = {each.name for each in figures_of(make_recording(), samples, PHASES)}

    assert "server_switches" not in names
    assert "processes of the server ended" in withheld_of(make_recording(), samples, PHASES)["server_switches"]


def test_unknown_cpu_time_makes_a_lower_bound_with_a_reason() -> None:
    samples = make_samples()
    whole = {each.name: each for each in figures_of(make_recording(), samples, PHASES)}["server_cpu"]
    for sample in samples:
        sample["processes"][0]["ignores_children"] = True
    bounded = {each.name: each for each in figures_of(make_recording(), samples, PHASES)}["server_cpu"]

    assert not whole.at_least
    assert bounded.at_least
    (sentence,) = doubts_of_server(samples, PHASES)
    assert sentence.startswith("the server's CPU time is a lower bound: process 1 ignores SIGCHLD")
    assert doubts_of_server(make_samples(), PHASES) == []


def test_connects_in_the_measured_phase_are_shown_if_most_are_there() -> None:
    recording = make_recording()
    for _ in range(11):
        recording.succeeded("connect", 105 * S + 500 * MS, 9 * MS)
    figures = {figure.name: figure.value for figure in figures_of(recording, [], PHASES)}

    assert figures["connect_p50"] == pytest.approx(9000, rel=0.001)


def test_both_latencies_and_the_share_of_late_sends_are_of_what_has_a_schedule() -> None:
    recording = Recording()
    for _ in range(8):
        recording.succeeded("SUM", 100 * S + 500 * MS, 2 * MS, 3 * MS)
    recording.failed("SUM", 100 * S, "timeout")
    recording.outstanding("SUM", 100 * S, CUT_OFF)
    recording.health["a"] = {100: {"sockets": 1, "cpu_s": 0.0, "lag_ns": 0, "ticks": 10, "late_sends": 5}}
    figures = {figure.name: figure.value for figure in figures_of(recording, [], {"measure": [100, 101]}, 20.0)}

    assert figures["service_p99"] == pytest.approx(2000, rel=0.001)
    assert figures["response_SUM_p99"] == pytest.approx(3000, rel=0.001)
    assert figures["generator_late"] == pytest.approx(50)
    assert figures["error_rate"] == pytest.approx(100 / 9)
    assert figures["offered"] == 20


def stalled(answered: bool) -> Recording:
    """Ten requests a second for four seconds; from the third on the server stalls until second 110, or the end."""
    recording = Recording()
    for tick in range(40):
        due_ns = 100 * S + tick * S // 10 + 50 * MS
        if tick < 20:
            recording.succeeded("SUM", due_ns + 2 * MS, 2 * MS, 2 * MS)
        elif answered:
            recording.succeeded("SUM", 110 * S, MS, 110 * S - due_ns)
        else:
            recording.outstanding(NEVER_SENT, 110 * S, UNSENT, None, 110 * S - due_ns)
    return recording


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_due_in_the_window_counts_however_late_it_was_answered(answered: bool) -> None:
    found = {figure.name: figure for figure in figures_of(stalled(answered), [], {"measure": [100, 104]}, 10.0)}

    assert found["throughput"].value == 5, "only what was answered in the window"
    assert found["response_p50"].value == pytest.approx(2000, rel=0.01)
    assert found["response_p99"].value == pytest.approx(7_950_000, rel=0.01)
    assert found["response_p99"].at_least is not answered
    assert not found["response_p50"].at_least
    assert found["response_mean"].at_least is not answered


def test_every_phase_that_fails_is_an_attempt_that_failed() -> None:
    recording = make_recording()
    for series in ("connect", "tls", "tls", "close", "SUM"):
        recording.failed(series, 104 * S, "reset")
    recording.failed(TASK, 104 * S, "KeyError")
    figures = {figure.name: figure.value for figure in figures_of(recording, [], PHASES)}

    assert (figures["attempts"], figures["attempts_failed"]) == (205, 5)
    assert figures["error_rate"] == pytest.approx(100 * 5 / 205)
    assert figures["attempts_failed_tls"] == 2
    assert figures["attempts_failed_exchange"] == 1


def test_missing_connections_are_in_the_figures() -> None:
    recording = make_recording()
    recording.health["a"][104]["sockets"] = 2
    for _ in range(8):
        recording.succeeded("connect", 105 * S, MS)
    figures = {figure.name: figure.value for figure in figures_of(recording, [], PHASES)}

    assert (figures["sockets_least"], figures["sockets_mean"], figures["reconnects"]) == (2, 8, 8)


def test_sockets_that_users_close_are_not_lost() -> None:
    recording = make_recording()
    recording.succeeded("close", 105 * S, MS)

    assert "reconnects" not in {figure.name for figure in figures_of(recording, [], PHASES)}
