from __future__ import annotations

import json
import re

from benchmarks.document import SCHEMA_VERSION, document_of
from benchmarks.jobs import JOBS, Job, with_axes
from benchmarks.ratios import Spread
from benchmarks.rounds import Results
from benchmarks.tables import growth, render_results, shown_ratio, text_table

LARGER = with_axes(JOBS["echo"], {"payload": (64, 1024)})


def results(job: Job = JOBS["echo"], **cpu_us: list[list[float]]) -> Results:
    """Results with these CPU times: for each server a list of rounds for each scenario."""
    found = Results(job, job.scenarios())
    for index, scenario in enumerate(found.scenarios):
        found.measurements[scenario] = {
            name: [{"cpu_us": value, "msg_s": 1e6 / value, "client_cpu": 40.0} for value in rounds[index]]
            for name, rounds in cpu_us.items()
            if rounds[index]
        }
        found.failed[scenario] = {}
    return found


def test_figures_are_medians_and_ratios_are_taken_round_by_round() -> None:
    text = render_results(results(ours=[[2.0, 6.0, 4.0]], c=[[1.0, 1.0, 4.0]]))

    assert re.search(r"^ours +4\.00 +250,000 +- +- +- +40$", text, re.M)
    assert re.search(r"^c +1\.00 +1,000,000 ", text, re.M)
    assert re.search(r"^ours / c +2\.00 \(1\.50 to 4\.00\) +0\.50 \(", text, re.M)


def test_markdown_has_headings_and_tables() -> None:
    text = render_results(results(ours=[[2.0]], c=[[1.0]]), markdown=True)

    assert text.startswith("### echo: echo of raw bytes\n")
    assert re.search(r"^\| ours +\| +2\.00 \| +500,000 \|", text, re.M)
    assert re.search(r"^\| ours / c \| +2\.00 \| +0\.50 \|", text, re.M)


def test_the_cpu_time_of_the_client_has_no_ratio() -> None:
    text = render_results(results(ours=[[2.0]], c=[[1.0]]))
    header = next(line for line in text.splitlines() if line.startswith("ratio"))

    assert "client" not in header


def test_without_ours_or_without_peers_there_are_no_ratios() -> None:
    assert "ratio" not in render_results(results(ours=[[2.0]]))
    assert "ratio" not in render_results(results(c=[[2.0]], go=[[2.0]]))


def test_quartiles_are_shown_only_if_the_rounds_differ() -> None:
    assert shown_ratio(Spread(1.5, 1.5, 1.5)) == "1.50"
    assert shown_ratio(None) == "-"


def test_growth_along_an_axis_is_a_multiple_of_the_first_value() -> None:
    text = render_results(results(LARGER, ours=[[2.0, 4.0], [6.0, 12.0]]))

    assert "echo: cpu us, as a multiple of the value with 64 B" in text
    assert re.search(r"^ours +1\.00 +3\.00$", text, re.M)


def test_growth_is_unknown_if_one_of_the_two_failed() -> None:
    found = results(LARGER, ours=[[2.0], [4.0]], c=[[2.0], []], go=[[], [2.0]])

    assert growth(found, "ours", "cpu_us") == [1.0, 2.0]
    assert growth(found, "c", "cpu_us") == [1.0, None]
    assert growth(found, "go", "cpu_us") == [None, None]


def test_a_job_without_a_varied_axis_shows_no_growth() -> None:
    assert "multiple" not in render_results(results(ours=[[2.0]]))


def test_columns_are_aligned() -> None:
    assert text_table(["a", "bb"], [["long", "1"], ["b", "222"]]).splitlines() == [
        "a      bb",
        "long    1",
        "b     222",
    ]


def test_the_document_holds_every_round_and_every_ratio() -> None:
    found = results(LARGER, ours=[[2.0, 4.0], [6.0, 12.0]], c=[[1.0, 1.0], []])
    found.failed[found.scenarios[1]]["c"] = "it broke"
    document = json.loads(json.dumps(document_of({"seed": 7}, [found], ["go: go is not installed"])))

    assert document["schema_version"] == SCHEMA_VERSION
    assert (document["seed"], document["skipped"]) == (7, ["go: go is not installed"])
    first, second = document["scenarios"]
    assert (first["job"], first["connections"], first["payload_bytes"], first["depth"]) == ("echo", 50, 64, 1)
    assert [each["cpu_us"] for each in first["rounds"]["ours"]] == [2.0, 4.0]
    assert first["ratios"]["c"]["cpu_us"] == {"median": 3.0, "low": 2.5, "high": 3.5}
    assert first["ratios"]["c"]["p50_us"] is None
    assert (second["ratios"], second["failed"]) == ({}, {"c": "it broke"})
