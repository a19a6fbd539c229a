"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.comparison import Comparison, FigureComparison, KeyDifference, Side
from loadtests.report.comparison_pictures import comparison_pictures
from loadtests.report.evidence import Evidence, load_evidence
from loadtests.report.page import filled_in, shown_picture
from loadtests.report.pictures import Picture
from loadtests.report.tables import Table
from loadtests.report.words import Stamp, changed, moment, quantity, titled_figure
from loadtests.results import ResultError

__all__ = ["pictures_of", "render_comparison_html"]

_SENTENCES = {
    "better": "B is better in {better}, and worse in nothing.",
    "worse": "B is worse in {worse}.",
    "equivalent": "A and B are the same in everything that was judged, as far as it matters.",
    "inconclusive": "These runs do not tell whether A and B differ in {inconclusive}.",
}


def render_comparison_html(comparison: Comparison) -> str:
    """The comparison as one HTML file. Pictures over time are made of the folders of its runs, if those are there."""
    judged = [figure for figure in comparison.figures if figure.headline]
    return filled_in(
        "comparison.html.j2",
        kind="Comparison of load tests",
        title=f"{comparison.b.title} against {comparison.a.title}",
        lines=(_side("A", comparison.a, comparison.paired), _side("B", comparison.b, comparison.paired)),
        verdict=_stamp(comparison),
        level=f"{100 * comparison.level:.3g}%",
        judged=[(_row(figure), figure.answer, figure.reason, figure.needed) for figure in judged],
        needed="pairs" if comparison.paired else "runs on each side",
        others=Table(
            ("figure", "A", "B", "B against A"),
            tuple(_row(figure)[:4] for figure in comparison.figures if not figure.headline),
        ),
        pictures=[shown_picture(picture) for picture in pictures_of(comparison)],
        environment=_differences(comparison.environment),
        workload=_differences(comparison.workload),
    )


def pictures_of(comparison: Comparison) -> list[Picture]:
    """Every picture of a comparison."""
    return comparison_pictures(comparison, {"A": _evidence(comparison.a), "B": _evidence(comparison.b)})


def _evidence(side: Side) -> list[Evidence]:
    """What the folders of the runs still have; a run without is left out of the pictures over time."""
    found = []
    for run in side.runs:
        try:
            found.append(load_evidence(run.path))
        except ResultError:
            continue
    return found


def _stamp(comparison: Comparison) -> Stamp:
    named = {
        answer: _listed([titled_figure(each.name) for each in comparison.headlines if each.answer == answer])
        for answer in _SENTENCES
    }
    sentence = _SENTENCES[comparison.answer].format(**named) if comparison.headlines else "There is nothing to judge."
    refusals = [f"Not comparable, and forced: {refusal}" for refusal in comparison.refusals]
    return Stamp(comparison.answer, comparison.answer.capitalize(), sentence, (*refusals, *comparison.notes))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "anything"


def _side(letter: str, side: Side, paired: bool) -> str:
    count = len(side.runs)
    unit = ("pair" if paired else "run") + ("" if count == 1 else "s")
    return f"{letter}: {side.title}, {count} {unit}, from {moment(min(run.started_at for run in side.runs))}"


def _row(figure: FigureComparison) -> tuple[str, ...]:
    interval = "-"
    if figure.low is not None and figure.high is not None:
        interval = f"{changed(figure, figure.low)} to {changed(figure, figure.high)}"
    values = (quantity(figure.a_typical, figure.unit), quantity(figure.b_typical, figure.unit))
    return titled_figure(figure.name), *values, changed(figure, figure.change), interval


def _differences(differences: Sequence[KeyDifference]) -> Table:
    return Table(("", "A", "B"), tuple((each.key, each.a, each.b) for each in differences))
