"""The progress of a run."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from loadtests.orchestration.progress import Moment, Progress, render_display, render_line
from loadtests.workloads.profiles import PROFILES

C2K = PROFILES["c2k"]
LINE = {"second": 1.0, "sockets": 1999.0, "exchanges": 1500.0, "p99_ns": 2_500_000.0, "failures": 3.0}
MOMENT = Moment(7.4, "warmup", 1999, 1500, 2_500_000, 3)


def test_a_line_has_time_phase_sockets_rate_latency_and_failures() -> None:
    assert render_line(C2K, MOMENT) == (
        "  7 of 23 s  warmup    1,999 of 2,000 sockets  1,500 exchanges/s  p99 2.50 ms  3 failures"
    )


def test_a_second_without_exchanges_has_no_latency() -> None:
    assert "p99 -  " in render_line(C2K, Moment(7.4, "ramp", 10, 0, 0, 0))


def test_without_a_terminal_only_some_lines_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(C2K) as progress:
        progress.show([])
        progress.show([LINE], phase="ramp")
        progress.show([LINE, LINE], phase="ramp")

    shown = capsys.readouterr().err
    assert shown.count("1,999 of 2,000 sockets") == 1
    assert "\r" not in shown
    assert "\x1b" not in shown


def test_each_worker_that_joins_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(C2K) as progress:
        for joined in (0, 0, 1, 1, 2):
            progress.wait(joined, 2)

    assert capsys.readouterr().err.splitlines()[1:] == [f"waiting for workers: {joined} of 2" for joined in (0, 1, 2)]


def samples(*cpu_s: float) -> list[dict[str, Any]]:
    """Four a second; the generator uses half of what the server does."""
    return [
        {
            "time_s": quarter / 4,
            "processes": [{"pid": 1, "cpu_user_s": each, "cpu_system_s": 0.0}],
            "generator": [{"pid": 2, "cpu_user_s": each / 2, "cpu_system_s": 0.0}],
        }
        for quarter, each in enumerate(cpu_s)
    ]


def test_cpu_use_is_that_of_about_the_last_second(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(C2K) as progress:
        progress.show([LINE], samples(0.0, 9.0, 9.1, 9.2, 9.3, 9.4))

    assert "server 40.0% of a core  generator 20.0% of a core" in capsys.readouterr().err


def test_a_terminal_shows_the_same_and_the_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(render_display(C2K, Moment(7.4, "measure", 1999, 1500, 2_500_000, 3, 90.0, 12.0)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]

    for words in ("c2k", "measure", "16 s left", "1,999 of 2,000", "1,500 per second, p99 2.50 ms", "90% of a core"):
        assert words in shown
