"""Reports on a terminal, in Markdown and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from loadtests.report.json_report import render_json
from loadtests.report.markdown import render_markdown, render_markdown_of_all
from loadtests.report.run_tables import figures_of
from loadtests.report.terminal import render_summary, render_terminal
from loadtests.results.figure_catalog import title_of
from loadtests.results.store import Run
from loadtests.results.validity import Verdict
from tests.helpers.golden import assert_golden
from tests.helpers.loadtests_reports import PHASES
from tests.helpers.loadtests_runs import make_run

AWAY = "It was away for 5 of 16 s."
ENVIRONMENT = {"gserver": "0.1.0", "source": "fedcba987654", "python": "3.11.7", "cores": 2}


def sound() -> Run:
    return make_run(label="pooled", phases=PHASES, environment=ENVIRONMENT)


def doubtful() -> Run:
    return make_run(
        label="dedicated",
        scale=1.5,
        environment=ENVIRONMENT,
        verdict=Verdict("generator-bound", ["The generator used 97% of a core.", AWAY], [AWAY]),
        errors={"SUM: reset": 1200, "SUM: wrong reply": 7},
        examples={"SUM: wrong reply": "expected (32,), got (33,)"},
        figures=[figure for figure in make_run(scale=1.5).figures if figure.name != "server_rss_per_socket"],
        withheld={"server_rss_per_socket": "only 200 sockets were open"},
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


def test_everything_on_a_terminal_fits_100_columns() -> None:
    texts = [render_terminal(runs) for runs in ([sound()], [doubtful()], [sound(), doubtful()])]

    assert max(len(line) for text in texts for line in text.splitlines()) <= 100


def test_what_went_wrong_is_in_every_output() -> None:
    for text in (render_summary(doubtful()), render_markdown(doubtful()), render_json([doubtful()])):
        assert "Error: SUM: reset: 1,200" in text
        assert "Warning: interrupted before its time" in text
        assert "The generator used 97% of a core." in text


def test_a_run_that_saw_nothing_can_be_shown() -> None:
    run = make_run(figures=[], environment={}, server={}, phases={})

    assert "no connect succeeded" in render_summary(run)
    assert "no connect succeeded" in render_markdown(run)
    assert json.loads(render_json([run]))["runs"][0]["figures"] == {}


def test_a_percentile_of_few_replies_stands_in_no_table() -> None:
    figures = [replace(each, count=3) if each.name == "response_p99" else each for each in sound().figures]
    run = replace(sound(), figures=figures)
    (row,) = [line for line in render_markdown(run).splitlines() if line.startswith("| latency, all exchanges")]

    assert "- of 3" in [cell.strip() for cell in row.split("|")]
    assert '"- of 3" stands for' in render_markdown(run)
    assert '"- of 3" stands for' not in render_markdown(sound())
    assert "not known from only 3 replies" in render_terminal([run])


def test_a_value_with_a_bar_does_not_break_a_table() -> None:
    assert "a \\| b" in render_markdown(make_run(server={"command": "a | b"}))
    assert "json: a \\| b" in render_markdown_of_all([make_run(label="a | b"), make_run()])


def test_words_in_brackets_are_text_on_a_terminal() -> None:
    assert "[bold]" in render_summary(make_run(label="[bold]"))
    assert "[red]" in render_terminal([make_run(label="[red]"), make_run()])


def test_shortfalls_of_the_server_stand_before_doubts_about_the_figures() -> None:
    for text in (render_summary(doubtful()), render_markdown(doubtful())):
        order = [
            "Generator-bound.",
            "What the server did not do",
            AWAY,
            "Why the figures are doubtful",
            "97% of a core",
        ]
        assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
        assert text.count(AWAY) == 1
    verdict = json.loads(render_json([doubtful()]))["runs"][0]["verdict"]
    assert (verdict["shortfalls"], verdict["doubts"]) == ([AWAY], ["The generator used 97% of a core."])


def test_a_valid_run_of_a_server_that_was_away_shows_it() -> None:
    away = make_run(verdict=Verdict("valid", [AWAY], [AWAY]))

    for text in (render_summary(away), render_markdown(away)):
        assert "What the server did not do" in text
        assert "Why the figures are doubtful" not in text


def test_the_first_text_of_a_failure_stands_with_it() -> None:
    assert "the first: expected (32,), got (33,)" in render_summary(doubtful())
    assert "- Error: SUM: wrong reply: 7; the first: `expected (32,), got (33,)`" in render_markdown(doubtful())
    errors = json.loads(render_json([doubtful()]))["runs"][0]["errors"]
    assert errors[1] == {"what": "SUM: wrong reply", "count": 7, "example": "expected (32,), got (33,)"}


def test_a_figure_that_is_withheld_keeps_its_place_with_the_reason() -> None:
    why = "Only 200 sockets were open."

    assert why in " ".join(render_summary(doubtful()).split())
    markdown = render_markdown(doubtful())
    assert f"not known; peak memory 72.4 MiB. {why}" in markdown
    assert re.search(r"\| memory per connection +\| +withheld +\|", markdown)
    assert f"Withheld: memory per connection. {why}" in markdown
    assert "withheld" in render_terminal([sound(), doubtful()])


def test_text_from_outside_is_escaped_on_a_terminal_and_in_markdown() -> None:
    text = "\x1b[31mred\r\nnew `line` <b>|*x*" + "y" * 1000
    run = make_run(label="a <b> & *c*", errors={"SUM: <i>": 1}, examples={"SUM: <i>": text})
    shown, markdown = render_summary(run), render_markdown(run)

    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
    assert "more characters)" in " ".join(shown.split())
    assert "\x1b" not in markdown
    assert markdown.startswith("# json: a &lt;b> & \\*c\\*\n")
    assert "``" in markdown
    assert "y" * 400 not in markdown


def test_many_classes_of_failure_do_not_fill_a_terminal() -> None:
    run = make_run(errors={f"SUM: class {number}": number for number in range(1, 101)})

    assert "Error: SUM: class 100: 100" in render_summary(run)
    assert "90 more classes of failure" in render_summary(run)
    assert render_markdown(run).count("Error: SUM: class") == 100


def test_a_run_of_an_older_version_has_the_tables_that_it_has_figures_for() -> None:
    new = ("answered_", "failed_")
    old = make_run(
        schema=2,
        figures=[each for each in make_run().figures if not each.name.startswith(new) and "p95" not in each.name],
    )

    assert "| latency |   mean |    min |    p50 |    p90 |     p99 |   p99.9 |     max |" in render_markdown(old)


def test_a_run_of_schema_2_has_no_error_rate_of_the_measured_phase() -> None:
    figures = [each for each in make_run().figures if not each.name.startswith("attempts")]
    run = make_run(schema=2, figures=figures)
    shown = " ".join(render_summary(run).split())

    assert run.figure("error_rate")
    assert "error rate - not known for the measured phase; " in shown
    assert "attempts of the whole run failed" in shown
    assert title_of("error_rate") not in [row[0] for row in figures_of(run).rows]
