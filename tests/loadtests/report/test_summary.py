"""A run in words: its verdict and its key figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtests.report.summary import (
    DOUBTS,
    UNKNOWN,
    VERDICTS,
    key_figures,
    latency_note,
    server_of,
    summary_of,
    verdict_of,
    version_of,
    workload_of,
)
from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from loadtests.results.validity import Verdict
from tests.helpers.loadtests_runs import make_run


def run_without(*prefixes: str, **changes: Any) -> Run:
    return make_run(
        figures=[figure for figure in make_run().figures if not figure.name.startswith(prefixes)], **changes
    )


def words_of(run: Run) -> dict[str, str]:
    return {key.figure: f"{key.value} {key.words}" for key in key_figures(run)}


def test_there_are_ten_key_figures_with_short_titles_of_their_own() -> None:
    titles = [key.title for key in key_figures(make_run())]

    assert titles[:3] == ["throughput", "p50 latency", "p99 latency"]
    assert len(set(titles)) == 10
    assert max(map(len, titles)) <= 21


def test_every_key_figure_keeps_its_place_if_the_run_has_none() -> None:
    keys = key_figures(make_run(figures=[]))

    assert len(keys) == 10
    assert all(key.value == UNKNOWN and key.words for key in keys)


def test_latencies_are_response_times_where_there_are_some() -> None:
    with_schedule = make_run(figures=[*run_without("response").figures, Figure("response_p99", 5000, "us", "lower")])

    assert words_of(with_schedule)["response_p99"].startswith("5 ms")
    assert words_of(run_without("response"))["service_p99"].startswith("1.23 ms")
    assert "from the moment a request was due" in latency_note(make_run())
    assert "from the send" in latency_note(run_without("response"))
    assert latency_note(run_without("response", "service")) == ""


def of_few(count: int, *names: str) -> Run:
    """A run in which these figures are computed from `count` values."""
    figures = [replace(each, count=count) if each.name in names else each for each in make_run().figures]
    return make_run(figures=figures)


@pytest.mark.parametrize(("quantile", "enough"), [("p50", 20), ("p99", 1000), ("p99.9", 10_000)])
def test_a_percentile_is_stated_where_ten_replies_lie_beyond_it(quantile: str, enough: int) -> None:
    name = f"response_{quantile}"

    assert not words_of(of_few(enough, name))[name].startswith(UNKNOWN)
    assert words_of(of_few(enough - 1, name))[name].startswith(f"{UNKNOWN} ")
    assert f"not known from only {enough - 1:,} replies" in words_of(of_few(enough - 1, name))[name]


def test_the_maximum_is_known_even_from_few_replies() -> None:
    words = words_of(of_few(3, "response_p99.9"))["response_p99.9"]

    assert words.startswith(UNKNOWN)
    assert words.endswith("; the slowest took 12.3 ms")


def test_a_few_connects_have_neither_a_median_nor_a_tail() -> None:
    names = ("connect_p50", "connect_p99")

    assert words_of(of_few(1, *names))["connect_p50"] == ("- not known from only 1 connect; the slowest took 12.3 ms")
    assert "; p99 " not in words_of(of_few(999, *names))["connect_p50"]
    assert "; p99 1.23 ms" in words_of(of_few(1000, *names))["connect_p50"]


def test_missing_connections_are_shown() -> None:
    workload = {"user": "JsonUser", "sockets": 500, "rate": 10}

    assert words_of(make_run(workload=workload))["sockets_peak"].endswith(", of 500 requested")
    assert words_of(make_run())["sockets_peak"].endswith("all that were requested")


def test_failures_are_a_share_and_counts_of_the_measured_phase() -> None:
    failed = [
        Figure("attempts", 400, "attempts"),
        Figure("attempts_failed", 4, "attempts", "lower"),
        Figure("attempts_failed_exchange", 1, "attempts", "lower"),
        Figure("attempts_failed_tls", 3, "attempts", "lower"),
        Figure("error_rate", 1, "%", "lower"),
    ]
    errors = {"SUM: reset": 1, "tls: tls": 5, "task: KeyError": 9}
    run = make_run(figures=[*run_without("attempts", "attempts_failed", "error_rate").figures, *failed], errors=errors)

    assert words_of(run)["error_rate"] == (
        "1% failed: 4 of 400 attempts (1 exchange, 3 TLS handshakes); 2 failed before or after the measured phase"
    )
    assert words_of(make_run())["error_rate"] == "0% none of 36,000 attempts failed"


def test_without_a_measured_phase_failures_are_those_of_the_whole_run() -> None:
    run = make_run(figures=run_without("attempts", "error_rate").figures, errors={"connect: refused": 7})

    assert words_of(run)["error_rate"] == (
        "- not known for the measured phase; 7 of 36,007 attempts of the whole run failed"
    )


def test_connections_that_were_lost_are_not_held() -> None:
    lost = [Figure("sockets_least", 0, "sockets"), Figure("sockets_mean", 120.5, "sockets")]
    again = Figure("reconnects", 31, "connects", "lower")
    workload = {**make_run().workload, "shape": "hold"}
    run = make_run(figures=[*run_without("sockets_least").figures, *lost, again], workload=workload)

    assert words_of(run)["sockets_peak"] == (
        "200 all requested connections, but not all the time: min 0, mean 120; 31 lost and opened again"
    )


def test_connections_that_users_close_are_not_missing() -> None:
    peak = Figure("sockets_peak", 1, "sockets")
    run = make_run(figures=[peak, *run_without("sockets_peak", "sockets_least").figures])

    assert words_of(run)["sockets_peak"] == "1 the most open at once: the users open and close connections"


def test_without_an_exchange_there_is_still_the_cpu_use_of_the_server() -> None:
    run = make_run(figures=run_without("server_cpu_per").figures)

    assert words_of(run)["server_cpu_per_exchange"] == ("- no exchange succeeded; server CPU 17% of a core")


def test_a_lower_bound_is_marked_with_at_least() -> None:
    cut = Figure("response_p99", 7_000_000, "us", "lower", at_least=True)
    run = make_run(figures=[*run_without("response_p99").figures, cut])

    assert words_of(run)["response_p99"].startswith("at least 7 s ")


def test_memory_per_connection_has_its_interval() -> None:
    assert "(95% interval 0.50 KiB to 0.75 KiB)" in words_of(make_run())["server_rss_per_socket"]


def test_memory_that_is_withheld_has_its_reason() -> None:
    run = make_run(figures=run_without("server_rss").figures, withheld={"server_rss_per_socket": "there were few"})
    (key,) = [each for each in key_figures(run) if each.figure == "server_rss_per_socket"]

    assert words_of(run)["server_rss_per_socket"] == "- not known"
    assert key.why == "There were few."


def test_growth_of_memory_is_shown_with_it() -> None:
    run = make_run(figures=[*make_run().figures, Figure("server_memory_growth", 170, "KiB/s", "lower")])

    assert "memory also grew by 170 KiB/s at a constant number of connections" in words_of(run)["server_rss_per_socket"]


def test_cpu_time_that_is_a_lower_bound_is_marked() -> None:
    bound = Figure("server_cpu_per_exchange", 85, "us", "lower", at_least=True)
    run = make_run(figures=[*run_without("server_cpu_per").figures, bound])

    assert words_of(run)["server_cpu_per_exchange"].startswith("at least 85 µs ")
    assert words_of(make_run())["server_cpu_per_exchange"].startswith("85 µs ")


@pytest.mark.parametrize("state", VERDICTS)
def test_every_state_of_a_run_has_a_sentence_and_keeps_its_reasons(state: Any) -> None:
    stamp = verdict_of(make_run(verdict=Verdict(state, ["because"])))

    assert stamp.sentence.endswith(".")
    assert stamp.parts == ((DOUBTS, ("because",)),)
    assert not stamp.is_short


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (20, "20 exchanges a second on each"),
        (2.5, "2.50 exchanges a second on each"),
        (1, "an exchange a second on each"),
        (1 / 120, "an exchange every 120 seconds on each"),
        (0.3, "an exchange every 3.33 seconds on each"),
    ],
)
def test_a_slow_rate_is_shown_as_an_interval(rate: float, words: str) -> None:
    assert workload_of(make_run(workload={"sockets": 20, "rate": rate})) == f"20 connections, {words}"


def test_a_workload_without_a_rate_shows_none() -> None:
    assert workload_of(make_run(workload={"sockets": 2000})) == "2,000 connections"


def test_a_row_of_runs_with_and_without_a_schedule_has_both_titles() -> None:
    _, _, _, p50, *_ = summary_of([make_run(), run_without("response")])

    assert p50 == ("p50 latency or p50 service time", "200 µs", "200 µs")


def test_runs_beside_each_other_have_a_column_each() -> None:
    table = summary_of([make_run(label="a"), make_run(label="b"), make_run()])

    assert table[0] == ("", "json: a", "json: b", "json")
    assert {len(row) for row in table} == {4}


@pytest.mark.parametrize(
    ("server", "environment", "said"),
    [
        ("gserver json -w 1", {"gserver": "1.0", "source": "abc"}, "Version: gserver 1.0 (source abc)"),
        ("gserver:echo", {"gserver": "1.0"}, "Version: gserver 1.0"),
        (
            "gserver:echo@0123456789ab",
            {"gserver": "1.0"},
            "Version: commit 0123456789ab, measured with gserver 1.0",
        ),
        ("peer:node-echo", {"gserver": "1.0"}, "Version: not known, measured with gserver 1.0"),
        ("was running already", {"gserver": "1.0"}, "Version: not known, measured with gserver 1.0"),
        ("gserver json", {}, ""),
    ],
)
def test_the_version_is_that_of_the_server_as_far_as_it_is_known(
    server: str, environment: dict[str, str], said: str
) -> None:
    assert version_of(make_run(server={"command": server}, environment=environment)) == said


def test_the_server_has_its_address_and_its_command() -> None:
    assert server_of(make_run()) == "Server: tcp://127.0.0.1:3001, gserver json -w 1"
    assert server_of(make_run(server={})) == "Server: not known"
    long = make_run(server={"address": "tcp://[::1]:3", "command": "x" * 1000})
    assert server_of(long).endswith("... (700 more characters)")


def test_a_tail_that_is_withheld_is_not_that_of_the_other_latency() -> None:
    run = run_without("response_p99.9", withheld={"response_p99.9": "only 3 answers were slower"})
    (key,) = [each for each in key_figures(run) if each.figure == "response_p99.9"]

    assert (key.value, key.why) == (UNKNOWN, "Only 3 answers were slower.")
