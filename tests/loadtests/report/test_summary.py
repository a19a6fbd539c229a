"""A run in words a person says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtests.report.summary import (
    DOUBTS,
    TITLES,
    UNKNOWN,
    VERDICTS,
    latency_note,
    sayings,
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


def said_of(run: Run) -> dict[str, str]:
    return {saying.figure: f"{saying.value} {saying.words}" for saying in sayings(run)}


def test_ten_figures_matter_and_each_has_a_short_title() -> None:
    assert len(sayings(make_run())) == len(TITLES) == 10


def test_every_figure_keeps_its_place_where_nothing_is_known() -> None:
    said = sayings(make_run(figures=[]))

    assert len(said) == 10
    assert [each.figure for each in said if each.value == UNKNOWN] == [
        each.figure for each in said if each.figure != "error_rate"
    ]
    assert all(each.words for each in said)


def test_latencies_are_response_times_where_there_are_some() -> None:
    with_schedule = make_run(figures=[*run_without("response").figures, Figure("response_p99", 5000, "us", "lower")])

    assert said_of(with_schedule)["response_p99"].startswith("5 ms")
    assert said_of(run_without("response"))["service_p99"].startswith("1.23 ms")
    assert "from the moment a send was due" in latency_note(make_run())
    assert "from their send" in latency_note(run_without("response"))
    assert latency_note(run_without("response", "service")) == ""


def of_few(count: int, *names: str) -> Run:
    """A run in which these figures were taken of so many values."""
    figures = [replace(each, count=count) if each.name in names else each for each in make_run().figures]
    return make_run(figures=figures)


@pytest.mark.parametrize(("quantile", "enough"), [("p50", 20), ("p99", 1000), ("p99.9", 10_000)])
def test_a_percentile_is_stated_where_ten_answers_lie_beyond_it(quantile: str, enough: int) -> None:
    name = f"response_{quantile}"

    assert not said_of(of_few(enough, name))[name].startswith(UNKNOWN)
    assert said_of(of_few(enough - 1, name))[name].startswith(f"{UNKNOWN} ")
    assert f"not known from only {enough - 1:,} answers" in said_of(of_few(enough - 1, name))[name]


def test_the_slowest_answer_is_known_from_however_few() -> None:
    said = said_of(of_few(3, "response_p99.9"))["response_p99.9"]

    assert said.startswith(UNKNOWN)
    assert said.endswith("; the slowest took 12.3 ms")


def test_a_few_connects_have_neither_a_median_nor_a_tail() -> None:
    names = ("connect_p50", "connect_p99")

    assert said_of(of_few(1, *names))["connect_p50"] == (
        "- to connect, for half of them: not known from only 1 connect; the slowest took 12.3 ms"
    )
    assert "for 99 of 100" not in said_of(of_few(999, *names))["connect_p50"]
    assert "for 99 of 100" in said_of(of_few(1000, *names))["connect_p50"]


def test_connections_that_were_wanted_and_not_held_are_said() -> None:
    workload = {"user": "JsonUser", "sockets": 500, "rate": 10}

    assert said_of(make_run(workload=workload))["sockets_peak"].endswith("of 500 that were wanted")
    assert said_of(make_run())["sockets_peak"].endswith("all that were wanted")


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

    assert said_of(run)["error_rate"] == (
        "1% failed: 4 of 400 attempts (1 exchange, 3 TLS handshakes); 2 failed before or after the measured phase"
    )
    assert said_of(make_run())["error_rate"] == "none of 36,000 attempts failed"


def test_where_nothing_was_measured_failures_are_those_of_the_whole_run() -> None:
    run = make_run(figures=run_without("attempts", "error_rate").figures, errors={"connect: refused": 7})

    assert said_of(run)["error_rate"] == "7 of 36,007 attempts of the whole run failed"


def test_connections_that_were_lost_are_not_held() -> None:
    lost = [Figure("sockets_least", 0, "sockets"), Figure("sockets_mean", 120.5, "sockets")]
    again = Figure("reconnects", 31, "connects", "lower")
    workload = {**make_run().workload, "shape": "hold"}
    run = make_run(figures=[*run_without("sockets_least").figures, *lost, again], workload=workload)

    assert said_of(run)["sockets_peak"] == (
        "200 connections held at once, but not all the time: 0 at the least, 120 on average; 31 lost and opened again"
    )


def test_connections_that_users_close_are_not_missing() -> None:
    peak = Figure("sockets_peak", 1, "sockets")
    run = make_run(figures=[peak, *run_without("sockets_peak", "sockets_least").figures])

    assert said_of(run)["sockets_peak"] == "1 connection at once at most: the users open and close them"


def test_processor_time_without_an_exchange_is_known_in_all() -> None:
    run = make_run(figures=run_without("server_cpu_per").figures)

    assert said_of(run)["server_cpu_per_exchange"] == (
        "- of the server's processor time for an exchange, as none succeeded; 17% of a core in all"
    )


def test_what_the_end_has_cut_short_is_at_least_that() -> None:
    cut = Figure("response_p99", 7_000_000, "us", "lower", at_least=True)
    run = make_run(figures=[*run_without("response_p99").figures, cut])

    assert said_of(run)["response_p99"].startswith("at least 7 s ")


def test_memory_of_a_connection_has_its_interval() -> None:
    assert "(0.50 KiB to 0.75 KiB)" in said_of(make_run())["server_rss_per_socket"]


def test_memory_that_is_withheld_has_its_reason() -> None:
    run = make_run(figures=run_without("server_rss").figures, withheld={"server_rss_per_socket": "there were few"})
    (saying,) = [each for each in sayings(run) if each.figure == "server_rss_per_socket"]

    assert said_of(run)["server_rss_per_socket"] == "- of memory for a connection is not known"
    assert saying.why == "There were few."


def test_growth_of_memory_is_said_beside_it() -> None:
    run = make_run(figures=[*make_run().figures, Figure("server_memory_growth", 170, "KiB/s", "lower")])

    assert "memory grew by 170 KiB/s at a constant number of connections" in said_of(run)["server_rss_per_socket"]


def test_cpu_time_that_is_a_lower_bound_is_said_to_be_one() -> None:
    bound = Figure("server_cpu_per_exchange", 85, "us", "lower", at_least=True)
    run = make_run(figures=[*run_without("server_cpu_per").figures, bound])

    assert said_of(run)["server_cpu_per_exchange"].startswith("at least 85 µs ")
    assert said_of(make_run())["server_cpu_per_exchange"].startswith("85 µs ")


@pytest.mark.parametrize("state", VERDICTS)
def test_every_state_of_a_run_has_a_sentence_and_keeps_its_reasons(state: Any) -> None:
    stamp = verdict_of(make_run(verdict=Verdict(state, ["because"])))

    assert stamp.sentence.endswith(".")
    assert stamp.parts == ((DOUBTS, ("because",)),)
    assert not stamp.is_short


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (20, "20 exchanges a second on each"),
        (2.5, "2.50 exchanges a second on each"),
        (1, "an exchange a second on each"),
        (1 / 120, "an exchange every 120 seconds on each"),
        (0.3, "an exchange every 3.33 seconds on each"),
    ],
)
def test_a_slow_rate_is_said_by_its_interval(rate: float, said: str) -> None:
    assert workload_of(make_run(workload={"sockets": 20, "rate": rate})) == f"20 connections, {said}"


def test_a_workload_without_a_rate_says_none() -> None:
    assert workload_of(make_run(workload={"sockets": 2000})) == "2,000 connections"


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
    (saying,) = [each for each in sayings(run) if each.figure == "response_p99.9"]

    assert (saying.value, saying.why) == (UNKNOWN, "Only 3 answers were slower.")
