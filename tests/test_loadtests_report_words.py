"""A run in words a person says."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.figures import Figure
from loadtests.report.words import (
    DOUBTS,
    TITLES,
    UNKNOWN,
    VERDICTS,
    latency_note,
    quantity,
    sayings,
    server_of,
    summary_of,
    verdict_of,
    version_of,
    workload_of,
)
from loadtests.results import Run
from loadtests.verdict import Verdict
from tests.helpers.loadtests_runs import make_run


def run_without(*prefixes: str, **changes: Any) -> Run:
    return make_run(
        figures=[figure for figure in make_run().figures if not figure.name.startswith(prefixes)], **changes
    )


def said_of(run: Run) -> dict[str, str]:
    return {saying.figure: f"{saying.value} {saying.words}" for saying in sayings(run)}


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.4, "us", "0.40 µs"),
        (999.0, "us", "999 µs"),
        (1234.5, "us", "1.23 ms"),
        (69_534.0, "us", "69.5 ms"),
        (2_500_000.0, "us", "2.50 s"),
        (7.5, "ms", "7.50 ms"),
        (0.625, "KiB", "0.62 KiB"),
        (2048.0, "KiB", "2 MiB"),
        (1536.0, "MiB", "1.50 GiB"),
        (41.25, "% of a core", "41.2% of a core"),
        (12345.0, "exchanges/s", "12,345 exchanges/s"),
        (-5000.0, "us", "-5 ms"),
    ],
)
def test_a_figure_is_said_with_three_digits_in_the_unit_that_suits_it(value: float, unit: str, said: str) -> None:
    assert quantity(value, unit) == said


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


def test_connections_that_were_wanted_and_not_held_are_said() -> None:
    workload = {"user": "JsonUser", "sockets": 500, "rate": 10}

    assert said_of(make_run(workload=workload))["sockets_peak"].endswith("of 500 that were wanted")
    assert said_of(make_run())["sockets_peak"].endswith("all that were wanted")


def test_failures_are_a_share_and_counts() -> None:
    failed = [Figure("exchanges_failed", 3, "exchanges"), Figure("error_rate", 0.25, "%")]
    run = make_run(figures=[*run_without("exchanges_failed", "error_rate").figures, *failed])

    assert said_of(run)["error_rate"] == "0.25% failed: 3 of 36,003 exchanges, and 0 connects"
    assert said_of(make_run())["error_rate"] == "none of 36,000 exchanges failed"


def test_memory_of_a_connection_has_its_interval() -> None:
    assert "(0.50 KiB to 0.75 KiB)" in said_of(make_run())["server_rss_per_socket"]


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
