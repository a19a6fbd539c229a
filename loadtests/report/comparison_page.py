"""The page of a comparison, and that of several."""

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
from loadtests.report.html_page import ShownPicture, filled_in, isolated, shown_picture
from loadtests.report.run_data import Evidence, evidence_in, evidence_of
from loadtests.report.run_tables import Table
from loadtests.report.summary import (
    WITHHELD,
    Stamp,
    as_sentence,
    changed,
    moment,
    shortened,
    titled_figure,
    version_of,
)
from loadtests.results.store import ResultError, Run

__all__ = ["pictures_of", "render_comparison_html", "render_overview_html"]

_SENTENCES = {
    "better": "B is better in {better}, and worse in nothing.",
    "worse": "B is worse in {worse}.",
    "equivalent": "A and B are the same in everything that was judged, as far as it matters.",
    "inconclusive": "These runs do not tell whether A and B differ in {inconclusive}.",
}


@dataclass(frozen=True)
class JudgedRow:
    """A headline figure: its cells, and what is said under its verdict."""

    figure: str
    a: str
    b: str
    change: str
    interval: str
    answer: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ShownComparison:
    """All that a page shows of a comparison; `prefix` keeps its anchors apart from those of others."""

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
    """The comparison as one HTML file. Pictures over time are made of the folders of its runs, if those are there."""
    shown = _shown(comparison, pictures_of(comparison))
    return filled_in(
        "comparison.html.j2", kind="Comparison of load tests", title=shown.title, lines=shown.lines, shown=shown
    )


def render_overview_html(comparisons: Sequence[Comparison]) -> str:
    """Several comparisons as one HTML file: side by side, then each by itself."""
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
    others = [_cells(figure) for figure in comparison.figures if not figure.headline]
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
        Table(("figure", "A", "B", "B against A", "interval"), tuple(others)),
        tuple(shown_picture(picture) for picture in pictures),
    )


def pictures_of(comparison: Comparison) -> list[Picture]:
    """Every picture of a comparison."""
    return comparison_pictures(comparison, {"A": _evidence(comparison.a), "B": _evidence(comparison.b)})


def _evidence(side: Side) -> list[Evidence]:
    """What the folders of the runs still have; each says itself what it lacks."""
    return [_found(run) for run in side.runs]


def _found(run: Run) -> Evidence:
    if not run.path.is_dir():
        return evidence_of(run, Recording(), [], ["everything is missing"])
    try:
        return evidence_in(run)
    except ResultError as error:
        return evidence_of(run, Recording(), [], [str(error).removeprefix(f"{run.path}/")])


def _stamp(comparison: Comparison) -> Stamp:
    named = {
        answer: _listed([titled_figure(each.name) for each in comparison.headlines if each.answer == answer])
        for answer in _SENTENCES
    }
    sentence = _SENTENCES[comparison.answer].format(**named) if comparison.headlines else "There is nothing to judge."
    refusals = [f"Not comparable, and forced: {refusal}" for refusal in comparison.refusals]
    known = (*refusals, *comparison.notes)
    parts = (("What to know", known),) if known else ()
    return Stamp(comparison.answer, comparison.answer.capitalize(), sentence, parts)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "anything"


def _side(letter: str, side: Side, paired: bool) -> str:
    count = len(side.runs)
    unit = ("pair" if paired else "run") + ("" if count == 1 else "s")
    began = moment(min(run.started_at for run in side.runs))
    return f"{letter}: {isolated(side.title)}, {count} {unit}, from {began}"


def _server(letter: str, side: Side) -> str:
    """Where the servers of a side were, what started them, and their version."""
    addresses = list(dict.fromkeys(str(run.server.get("address", "not known")) for run in side.runs))
    hosts = list(dict.fromkeys(address.rpartition(":")[0] for address in addresses))
    where = addresses[0] if len(addresses) == 1 else f"{_listed(hosts)} (a port for each run)"
    commands = dict.fromkeys(shortened(str(run.server.get("command", ""))) for run in side.runs)
    versions = dict.fromkeys(version_of(run) for run in side.runs)
    parts = (", ".join((where, *map(isolated, commands))), *versions)
    return f"Server of {letter}: {'. '.join(part for part in parts if part)}"


def _judged(figure: FigureComparison, comparison: Comparison) -> JudgedRow:
    needed = "pairs" if comparison.paired else "runs on each side"
    remarks = [as_sentence(figure.reason)] if figure.reason else []
    remarks += [f"{figure.needed:,} {needed} would tell."] if figure.needed else []
    return JudgedRow(*_cells(figure), str(figure.answer), tuple(remarks))


def _withheld(comparison: Comparison) -> list[JudgedRow]:
    """Headline figures that cannot be judged, because a run of a side does not give them, with its reason."""
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
            rows.append(JudgedRow(titled_figure(name), a, b, "-", "-", "not judged", tuple(reasons)))
    return rows


def _typical(side: Side, name: str) -> str:
    found = [figure for run in side.runs if (figure := run.figure(name))]
    return quantity(median(figure.value for figure in found), found[0].unit) if found else WITHHELD


def _summarised(figure: FigureComparison | None) -> tuple[str, str, str]:
    """The change, its interval and the verdict."""
    if figure is None:
        return "-", "", ""
    *_, change, interval = _cells(figure)
    return change, interval, str(figure.answer)


def _cells(figure: FigureComparison) -> tuple[str, str, str, str, str]:
    interval = "-"
    if figure.low is not None and figure.high is not None:
        interval = f"{changed(figure, figure.low)} to {changed(figure, figure.high)}"
    values = (quantity(figure.a_typical, figure.unit), quantity(figure.b_typical, figure.unit))
    return titled_figure(figure.name), *values, changed(figure, figure.change), interval


def _differences(differences: Sequence[KeyDifference]) -> Table:
    return Table(("", "A", "B"), tuple((each.key, each.a, each.b) for each in differences))
