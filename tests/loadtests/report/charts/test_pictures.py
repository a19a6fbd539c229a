"""The charts of runs and comparisons, and their image files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from loadtests.recording.recording import Recording
from loadtests.report.charts.comparison_charts import comparison_pictures
from loadtests.report.charts.picture import Picture, drawn, for_page, save_pictures
from loadtests.report.charts.run_charts import overlaid_pictures, run_pictures
from loadtests.report.charts.theme import DARK, LIGHT, painted
from loadtests.report.run_data import Evidence, evidence_of
from tests.helpers.loadtests_reports import (
    PHASES,
    make_comparison,
    make_evidence,
    make_recording,
    make_samples,
    warm_renderer,
)
from tests.helpers.loadtests_runs import make_run


@pytest.fixture(scope="module", autouse=True)
def _renderer() -> None:
    warm_renderer()


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return run_pictures(make_evidence())


NAMES = ["percentiles", "heatmap", "load", "server", "memory", "connects", "generator"]


def pictures_by_name(evidence: Evidence) -> dict[str, Picture]:
    return {picture.name: picture for picture in run_pictures(evidence)}


def test_a_run_has_its_seven_pictures_each_with_its_numbers(pictures: list[Picture]) -> None:
    assert [picture.name for picture in pictures] == NAMES
    assert all(picture.panels and picture.table and picture.table.rows for picture in pictures)
    assert [panel.label for panel in pictures[2].panels] == [
        "Throughput, exchanges a second",
        "Failures a second",
        "Open connections",
    ]
    assert "Accept queue overflows" in [panel.label for panel in pictures[5].panels]


def test_a_run_without_samples_says_why_pictures_are_missing() -> None:
    pictures = pictures_by_name(evidence_of(make_run(phases=PHASES), make_recording(), []))

    for name in ("server", "memory"):
        assert not pictures[name].panels
        assert (
            pictures[name].words.endswith("the server was not sampled.") or "it was not sampled" in pictures[name].words
        )
    assert "The accept queue was not watched." in pictures["connects"].words


def test_an_empty_run_has_no_charts_but_reasons() -> None:
    pictures = run_pictures(evidence_of(make_run(figures=[], phases={}), Recording(), []))

    assert [picture.name for picture in pictures] == NAMES
    assert all(not picture.panels and picture.words.startswith("There is no ") for picture in pictures)


def test_a_run_without_a_schedule_or_a_measured_phase_says_so() -> None:
    words = pictures_by_name(evidence_of(make_run(phases={}), make_recording(response=False), []))["percentiles"].words

    assert "no measured phase" in words
    assert "There is no latency from the moment a request was due" in words


def test_absent_failures_and_overflows_are_mentioned_and_not_drawn() -> None:
    evidence = evidence_of(make_run(phases=PHASES), make_recording(failures=False), make_samples(overflows=0))
    pictures = pictures_by_name(evidence)

    assert "Nothing failed." in pictures["load"].words
    assert len(pictures["load"].panels) == 2
    assert "The accept queue was never full." in pictures["connects"].words


def test_several_runs_are_laid_over_each_other() -> None:
    (picture,) = overlaid_pictures([make_evidence(make_run(label=label, phases=PHASES)) for label in "ab"])

    assert picture.table
    assert picture.table.header == ("percentile", "1: json: a", "2: json: b")


def test_a_comparison_has_its_verdicts_its_curves_and_its_runs() -> None:
    pictures = comparison_pictures(make_comparison(), {"A": [make_evidence()], "B": [make_evidence()]})

    assert [picture.name for picture in pictures] == [
        "verdicts",
        "quantiles-response",
        "ratio-response",
        "quantiles-service",
        "ratio-service",
        "runs",
        "over-time",
    ]
    assert all(picture.panels for picture in pictures)
    assert len(pictures[5].panels) == len(make_comparison().headlines)


def test_a_comparison_of_nothing_says_why_pictures_are_missing() -> None:
    pictures = comparison_pictures(make_comparison(figures=(), curves=()), {"A": [], "B": []})

    assert [picture.name for picture in pictures] == ["verdicts", "quantiles", "runs", "over-time"]
    assert all(not picture.panels and picture.words.startswith("There is no chart") for picture in pictures)


def test_a_file_that_is_missing_in_some_folders_is_named_with_them() -> None:
    whole = make_evidence()
    bare = evidence_of(make_run(path=Path("results/bare")), Recording(), [], ["client.json is missing"])
    pictures = {
        picture.name: picture
        for picture in comparison_pictures(make_comparison(curves=()), {"A": [whole, bare], "B": [whole]})
    }

    assert pictures["over-time"].panels
    assert "client.json is missing in 1 of 3 folders (A: bare)" in pictures["over-time"].words
    assert "client.json is missing in 1 of 3 folders (A: bare)" in pictures["quantiles"].words


def test_a_file_that_is_missing_everywhere_is_named_and_the_folders_are_not_said_to_be_gone() -> None:
    bare = evidence_of(make_run(phases=PHASES), Recording(), [], ["client.json is missing", "samples.jsonl is missing"])
    pictures = {
        picture.name: picture.words
        for picture in comparison_pictures(make_comparison(curves=()), {"A": [bare], "B": [bare]})
    }

    missing = "client.json is missing in the folders of all 2 runs"
    samples = "samples.jsonl is missing in the folders of all 2 runs"
    assert pictures["over-time"] == f"There is no chart over time: {missing}; {samples}."
    assert pictures["quantiles"] == f"There is no chart of latency by percentile: {missing}."


def test_what_lies_far_off_is_marked_at_the_edge_with_its_value() -> None:
    figures = {figure.name: figure for figure in make_comparison().figures}
    far = dataclasses.replace(figures["server_rss_per_socket"], change=239.0, low=213.0, high=276.0)
    wide = dataclasses.replace(figures["response_p50"], change=0.2, low=-0.99, high=0.3)
    near = [figures[name] for name in ("response_p99", "server_cpu_per_exchange")]
    (forest, *_) = comparison_pictures(make_comparison(figures=(far, wide, *near)), {})
    svg = drawn(forest, "svg").decode()

    assert svg.count(">off the scale: 240x<") == 1
    assert "off the scale: +20" not in svg
    points = [row for row in layer_rows(forest, "point") if "edge" not in row]
    edges = {row["figure"]: row["edge"] for row in layer_rows(forest, "point") if "edge" in row}
    assert len(points) == 4
    assert edges.keys() == {"memory per connection", "p50 latency"}
    assert edges["memory per connection"] > 0 > edges["p50 latency"]


def layer_rows(picture: Picture, mark: str) -> list[dict[str, Any]]:
    """The rows of all layers of a mark, in the first panel."""
    specification = for_page(picture.panels[0])
    layers = [layer for layer in specification["layer"] if layer["mark"]["type"] == mark]
    return [row for layer in layers for row in specification["datasets"][layer["data"]["name"]]]


def test_a_figure_without_a_ratio_is_said_to_be_left_out() -> None:
    (forest, *_) = comparison_pictures(make_comparison(), {})

    assert "Left out, because a value of zero has no ratio: error rate" in forest.words


def test_lines_of_many_runs_differ_in_colour_or_dashes_and_names_are_taken_as_they_are() -> None:
    labels = [*"abcdefghi", "it's </script> \\"]
    (picture,) = overlaid_pictures([make_evidence(make_run(label=label, phases=PHASES)) for label in labels])
    legend = picture.panels[0].legend

    assert len({(key.shade, key.dashes) for key in legend}) == 10
    assert legend[-1].label == "10: json: it's </script> \\"
    assert b"10: json: it" in drawn(picture, "svg")


def test_a_legend_is_in_every_image_that_has_one() -> None:
    pictures = {picture.name: picture for picture in comparison_pictures(make_comparison(), {"A": [make_evidence()]})}

    for name in ("quantiles-response", "runs", "over-time"):
        assert b"role-legend-entry" in drawn(pictures[name], "svg"), name


def test_a_change_without_an_interval_is_a_point_alone() -> None:
    bare = [dataclasses.replace(figure, low=None, high=None) for figure in make_comparison().figures]
    curves = [
        dataclasses.replace(
            curve, points=tuple(dataclasses.replace(point, low=None, high=None) for point in curve.points)
        )
        for curve in make_comparison().curves
    ]
    comparison = make_comparison(figures=tuple(bare), curves=tuple(curves), order=())
    pictures = {picture.name: picture for picture in comparison_pictures(comparison, {})}

    assert "There are too few runs for a band." in pictures["ratio-response"].words
    assert b"<svg" in drawn(pictures["verdicts"], "svg")
    assert b"<svg" in drawn(pictures["ratio-response"], "svg")


def test_the_same_run_is_drawn_in_the_same_bytes(pictures: list[Picture]) -> None:
    again = run_pictures(make_evidence())

    for one, other in zip(pictures[:3], again[:3], strict=True):
        assert [for_page(panel) for panel in one.panels] == [for_page(panel) for panel in other.panels]
    assert drawn(pictures[2], "svg") == drawn(again[2], "svg")


def test_an_image_has_colours_and_is_well_formed(pictures: list[Picture], tmp_path: Path) -> None:
    paths = save_pictures(pictures[:3], tmp_path / "new", "svg", "before-")

    assert [path.name for path in paths] == [f"before-{name}.svg" for name in NAMES[:3]]
    for path in paths:
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "var(--" not in text
        assert LIGHT["soft"] in text


def test_an_image_can_be_a_png(pictures: list[Picture], tmp_path: Path) -> None:
    (path,) = save_pictures(pictures[4:5], tmp_path, "png")

    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_with_nothing_to_draw_makes_no_file(tmp_path: Path) -> None:
    assert save_pictures([Picture("name", "title", "why")], tmp_path, "svg") == []


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_enough_contrast(theme: dict[str, str]) -> None:
    """WCAG 2: 4.5 to 1 for words, 3 to 1 for what is drawn."""
    for name in ("ink", "soft", "blue", "good", "bad"):
        assert contrast(theme[name], theme["page"]) >= 4.5, name
    assert contrast(theme["ink"], theme["raised"]) >= 4.5
    for name in ("blue", "orange", "teal", "purple", "olive", "grey"):
        assert contrast(theme[name], theme["page"]) >= 3, name
    assert LIGHT.keys() == DARK.keys()


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_colour_that_no_theme_has_is_an_error() -> None:
    with pytest.raises(KeyError):
        painted({"color": "var(--mauve)"}, LIGHT)
