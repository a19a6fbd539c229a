"""Render one comparison, or several, as an HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.comparison.compare import HEADLINES
from loadtests.comparison.model import Comparison, FigureComparison, KeyDifference, Side
from loadtests.formatting import quantity
from loadtests.recording.recording import Recording
from loadtests.report.charts.comparison_charts import comparison_pictures, verdict_picture
from loadtests.report.charts.picture import Picture
from loadtests.report.comparison_overview import NOTE, SHOWN
from loadtests.report.comparison_text import cells_of, verdict_sentence
from loadtests.report.html_page import ShownPicture, filled_in, isolated, shown_picture
from loadtests.report.run_data import Evidence, evidence_in, evidence_of
from loadtests.report.run_tables import Table
from loadtests.report.summary import (
    UNKNOWN,
    WITHHELD,
    Stamp,
    as_sentence,
    listed,
    moment,
    shortened,
    version_of,
)
from loadtests.results.figure_catalog import kind_of, title_of
from loadtests.results.store import ResultError, Run

__all__ = ["pictures_of", "render_comparison_html", "render_overview_html"]


@dataclass(frozen=True)
class JudgedRow:
    """The row of a headline figure: its cells, and remarks below its verdict; `about` explains the figure."""

    figure: str
    a: str
    b: str
    change: str
    interval: str
    answer: str
    remarks: tuple[str, ...]
    about: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the row without its verdict."""
        return self.figure, self.a, self.b, self.change, self.interval


@dataclass(frozen=True)
class ShownComparison:
    """Everything that a page shows of a comparison. `prefix` makes its anchors unique in the page."""

    prefix: str
    title: str
    lines: tuple[str, ...]
    verdict: Stamp
    level: str
    judged: tuple[JudgedRow, ...]
    differences: tuple[tuple[str, Table], ...]
    others: Table
    pictures: tuple[ShownPicture, ...]


def render_comparison_html(comparison: Comparison) -> str:
    """The comparison as one HTML file. Its charts over time are drawn from the folders of the runs, if they exist."""
    shown = _shown(comparison, pictures_of(comparison))
    return filled_in(
        "comparison.html.j2", kind="Comparison of load tests", title=shown.title, lines=shown.lines, shown=shown
    )


def render_overview_html(comparisons: Sequence[Comparison]) -> str:
    """Several comparisons as one HTML file: a table of all, then each of them."""
    shown = [
        _shown(comparison, comparison_pictures(comparison, {})[:1], f"comparison-{place}-")
        for place, comparison in enumerate(comparisons, start=1)
    ]
    return filled_in(
        "overview.html.j2",
        kind="Comparisons of load tests",
        title=f"{len(comparisons)} comparisons",
        lines=(NOTE,),
        comparisons=shown,
        figures=list(SHOWN.values()),
        rows=[
            (each, [_summarised(comparison.figure(name)) for name in SHOWN])
            for each, comparison in zip(shown, comparisons, strict=True)
        ],
        pictures=[shown_picture(verdict_picture(comparisons, name)) for name in SHOWN],
    )


def _shown(comparison: Comparison, pictures: Sequence[Picture], prefix: str = "") -> ShownComparison:
    others = [(title_of(figure.name), *cells_of(figure)) for figure in comparison.figures if not figure.headline]
    differences = {"The workloads differ": comparison.workload, "The environments differ": comparison.environment}
    return ShownComparison(
        prefix,
        f"{isolated(comparison.b.title)} against {isolated(comparison.a.title)}",
        (
            _side("A", comparison.a, comparison.paired),
            _server("A", comparison.a),
            _side("B", comparison.b, comparison.paired),
            _server("B", comparison.b),
        ),
        _stamp(comparison),
        f"{100 * comparison.level:.3g}%",
        (*(_judged(figure, comparison) for figure in comparison.headlines), *_withheld(comparison)),
        tuple((title, _differences(found)) for title, found in differences.items() if found),
        Table(("figure", "A", "B", "change", "interval"), tuple(others)),
        tuple(shown_picture(picture) for picture in pictures),
    )


def pictures_of(comparison: Comparison) -> list[Picture]:
    """Every chart of a comparison."""
    return comparison_pictures(comparison, {"A": _evidence(comparison.a), "B": _evidence(comparison.b)})


def _evidence(side: Side) -> list[Evidence]:
    """The files of the runs that still exist. A run without some of them names those in `missing`."""
    return [_found(run) for run in side.runs]


def _found(run: Run) -> Evidence:
    if not run.path.is_dir():
        return evidence_of(run, Recording(), [], ["everything is missing"])
    try:
        return evidence_in(run)
    except ResultError as error:
        return evidence_of(run, Recording(), [], [str(error).removeprefix(f"{run.path}/")])


def _stamp(comparison: Comparison) -> Stamp:
    refusals = [f"NOT COMPARABLE, but forced: {refusal}" for refusal in comparison.refusals]
    known = (*refusals, *comparison.notes)
    parts = (("Notes", known),) if known else ()
    return Stamp(comparison.answer, comparison.answer.capitalize(), verdict_sentence(comparison), parts)


def _side(letter: str, side: Side, paired: bool) -> str:
    count = len(side.runs)
    unit = ("pair" if paired else "run") + ("" if count == 1 else "s")
    began = moment(min(run.started_at for run in side.runs))
    return f"{letter}: {isolated(side.title)}, {count} {unit}, from {began}"


def _server(letter: str, side: Side) -> str:
    """The addresses, commands and versions of the servers of a side."""
    addresses = list(dict.fromkeys(str(run.server.get("address", "not known")) for run in side.runs))
    hosts = list(dict.fromkeys(address.rpartition(":")[0] for address in addresses))
    where = addresses[0] if len(addresses) == 1 else f"{listed(hosts)} (another port for each run)"
    commands = dict.fromkeys(shortened(str(run.server.get("command", ""))) for run in side.runs)
    versions = dict.fromkeys(version_of(run) for run in side.runs)
    parts = (", ".join((where, *map(isolated, commands))), *versions)
    return f"Server of {letter}: {'. '.join(part for part in parts if part)}"


def _judged(figure: FigureComparison, comparison: Comparison) -> JudgedRow:
    needed = "pairs" if comparison.paired else "runs on each side"
    remarks = [as_sentence(figure.reason)] if figure.reason else []
    remarks += [f"About {figure.needed:,} {needed} would decide."] if figure.needed else []
    kind = kind_of(figure.name)
    return JudgedRow(kind.title, *cells_of(figure), str(figure.answer), tuple(remarks), kind.about)


def _withheld(comparison: Comparison) -> list[JudgedRow]:
    """The headline figures that cannot be judged because a run withholds them, with the reason."""
    rows = []
    for name in HEADLINES:
        reasons = {
            f"{letter}: {as_sentence(run.withheld[name])}": None
            for letter, side in (("A", comparison.a), ("B", comparison.b))
            for run in side.runs
            if name in run.withheld
        }
        if reasons and not comparison.figure(name):
            a, b = (_typical(side, name) for side in (comparison.a, comparison.b))
            kind = kind_of(name)
            rows.append(JudgedRow(kind.title, a, b, UNKNOWN, UNKNOWN, "not judged", tuple(reasons), kind.about))
    return rows


def _typical(side: Side, name: str) -> str:
    found = [figure for run in side.runs if (figure := run.figure(name))]
    return quantity(median(figure.value for figure in found), found[0].unit) if found else WITHHELD


def _summarised(figure: FigureComparison | None) -> tuple[str, str, str]:
    """The change, its interval and the verdict."""
    if figure is None:
        return UNKNOWN, "", ""
    *_, change, interval = cells_of(figure)
    return change, "" if interval == UNKNOWN else interval, str(figure.answer)


def _differences(differences: Sequence[KeyDifference]) -> Table:
    return Table(("", "A", "B"), tuple((each.key, each.a, each.b) for each in differences))
