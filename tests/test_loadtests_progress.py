"""The progress of a run."""

from __future__ import annotations

import pytest

from loadtests.profiles import PROFILES
from loadtests.progress import Progress, render_progress

LINE = {"second": 1.0, "sockets": 1999.0, "exchanges": 1500.0, "p99_ns": 2_500_000.0, "failures": 3.0}


def test_a_line_says_time_sockets_rate_latency_and_failures() -> None:
    assert render_progress(PROFILES["c2k"], 7.4, LINE) == (
        "  7 of 25 s  1,999 of 2,000 sockets  1,500 exchanges/s  p99 2,500 us  3 failures"
    )


def test_where_there_is_no_terminal_only_some_lines_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(PROFILES["c2k"]) as progress:
        progress.show([])
        progress.show([LINE])
        progress.show([LINE, LINE])

    shown = capsys.readouterr().err
    assert shown.count("1,999 of 2,000 sockets") == 1
    assert "\r" not in shown


def test_a_sampled_server_is_in_the_line() -> None:
    assert render_progress(PROFILES["c2k"], 7.4, LINE, 17.25).endswith("3 failures  server 17.2% of a core")


def test_a_second_without_exchanges_has_no_latency() -> None:
    assert "p99 -  " in render_progress(PROFILES["c2k"], 7.4, {**LINE, "exchanges": 0.0, "p99_ns": 0.0})


def test_the_servers_use_is_that_of_about_the_last_second(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [
        {"time_s": quarter / 4, "processes": [{"pid": 1, "cpu_user_s": cpu_s, "cpu_system_s": 0.0}]}
        for quarter, cpu_s in enumerate([0.0, 9.0, 9.1, 9.2, 9.3, 9.4])
    ]
    with Progress(PROFILES["c2k"]) as progress:
        progress.show([LINE], samples)

    assert "server 40.0% of a core" in capsys.readouterr().err
