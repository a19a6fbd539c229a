"""A run in words."""

from __future__ import annotations

from loadtests.report import render_markdown, render_summary
from loadtests.verdict import Verdict
from tests.helpers.loadtests_runs import make_run

SUMMARY = """\
json (before), 2026-01-02T03:04:05+00:00: 200 sockets at once, 36,000 exchanges, no errors

  sockets held at once  200 sockets of 200 wanted
  connect               p50 200 us, p99 1,234 us, max 12,345 us
  throughput            2,000 exchanges/s over 18 s
  response time         p50 200 us, p90 400 us, p99 1,234 us, p99.9 5,678 us, max 12,345 us
  service time          p50 200 us, p90 400 us, p99 1,234 us, p99.9 5,678 us, max 12,345 us
  server processor      17% of a core, 85 us per exchange
  server memory         48.2 MiB peak, 0.62 KiB per connection
  generator             41.2% of a core, 7.50 ms worst lateness"""


def test_the_summary_says_what_a_person_wants_to_know() -> None:
    assert render_summary(make_run(label="before")) == SUMMARY


def test_errors_and_warnings_are_in_both() -> None:
    figures = [f for f in make_run().figures if f.name != "exchanges_failed"]
    run = make_run(errors={"SUM: reset": 1200}, warnings=["interrupted before its time"], figures=figures)

    for text in (render_summary(run), render_markdown(run)):
        assert "ERROR SUM: reset: 1,200" in text
        assert "WARNING interrupted before its time" in text


def test_a_run_without_a_sampled_server_has_no_lines_of_it() -> None:
    run = make_run(figures=[figure for figure in make_run().figures if not figure.name.startswith("server")])

    assert "server" not in render_summary(run)
    assert "| throughput" in render_markdown(run)


def test_a_run_that_saw_nothing_can_be_shown() -> None:
    run = make_run(figures=[], environment={}, server={})

    assert "nothing" in render_summary(run)
    assert render_markdown(run).startswith("# json")


def test_the_report_has_a_row_of_latencies_for_each_series() -> None:
    text = render_markdown(make_run())

    assert "| series       |    p50 |    p90 |      p99 |    p99.9 |       max |" in text
    assert "| response     | 200 us | 400 us | 1,234 us | 5,678 us | 12,345 us |" in text
    assert "| service SUM  | 200 us | 400 us | 1,234 us | 5,678 us | 12,345 us |" in text


def test_a_value_with_a_bar_does_not_break_the_table() -> None:
    assert "a \\| b" in render_markdown(make_run(server={"command": "a | b"}))


def test_a_run_that_cannot_be_believed_says_so_first() -> None:
    run = make_run(verdict=Verdict("noisy-host", ["3% of the time was stolen."]))

    assert render_summary(run).splitlines()[1:3] == [
        "  NOISY-HOST, not to be believed:",
        "    3% of the time was stolen.",
    ]
    assert "**noisy-host**. 3% of the time was stolen." in render_markdown(run)
