"""Reports on a terminal, in Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from loadtests.report.document import render_json
from loadtests.report.markdown import render_markdown, render_markdown_of_all
from loadtests.report.terminal import render_summary, render_terminal
from loadtests.results import Run
from loadtests.verdict import Verdict
from tests.helpers.golden import assert_golden
from tests.helpers.loadtests_reports import PHASES
from tests.helpers.loadtests_runs import make_run


def sound() -> Run:
    return make_run(label="pooled", phases=PHASES)


def doubtful() -> Run:
    return make_run(
        label="dedicated",
        scale=1.5,
        verdict=Verdict("generator-bound", ["The generator used 97% of a core."]),
        errors={"SUM: reset": 1200},
        warnings=["interrupted before its time"],
    )


def test_a_run_on_a_terminal_is_as_it_was_last_seen() -> None:
    assert_golden("reports/run.txt", render_terminal([sound()]) + "\n")


def test_several_runs_on_a_terminal_are_as_they_were_last_seen() -> None:
    assert_golden("reports/runs.txt", render_terminal([sound(), doubtful()]) + "\n")


def test_a_run_in_markdown_is_as_it_was_last_seen() -> None:
    assert_golden("reports/run.md", render_markdown(sound()))


def test_several_runs_in_markdown_are_as_they_were_last_seen() -> None:
    assert_golden("reports/runs.md", render_markdown_of_all([sound(), doubtful()]))


def test_runs_as_json_are_as_they_were_last_seen() -> None:
    assert_golden("reports/runs.json", render_json([sound(), doubtful()]) + "\n")


def test_what_went_wrong_is_in_every_output() -> None:
    for text in (render_summary(doubtful()), render_markdown(doubtful()), render_json([doubtful()])):
        assert "Error: SUM: reset: 1,200" in text
        assert "Warning: interrupted before its time" in text
        assert "The generator used 97% of a core." in text


def test_a_run_that_saw_nothing_can_be_shown() -> None:
    run = make_run(figures=[], environment={}, server={}, phases={})

    assert "nobody connected" in render_summary(run)
    assert "nobody connected" in render_markdown(run)
    assert json.loads(render_json([run]))["runs"][0]["figures"] == {}


def test_a_percentile_of_few_answers_stands_in_no_table() -> None:
    figures = [replace(each, count=3) if each.name == "response_p99" else each for each in sound().figures]
    run = replace(sound(), figures=figures)
    (row,) = [line for line in render_markdown(run).splitlines() if line.startswith("| response time, all exchanges")]

    assert "- of 3" in [cell.strip() for cell in row.split("|")]
    assert '"- of 3" stands for' in render_markdown(run)
    assert '"- of 3" stands for' not in render_markdown(sound())
    assert "not known from only 3 answers" in render_terminal([run])


def test_a_value_with_a_bar_does_not_break_a_table() -> None:
    assert "a \\| b" in render_markdown(make_run(server={"command": "a | b"}))
    assert "json: a \\| b" in render_markdown_of_all([make_run(label="a | b"), make_run()])


def test_words_in_brackets_are_text_on_a_terminal() -> None:
    assert "[bold]" in render_summary(make_run(label="[bold]"))
    assert "[red]" in render_terminal([make_run(label="[red]"), make_run()])
