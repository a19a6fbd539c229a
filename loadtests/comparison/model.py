"""What a comparison of two sides says: values only, everything that a renderer or a chart needs. compare() makes them.

A side is one run or many of them; a run is one observation. Changes are of B against A, as fractions: 0.05 is five
percent more. A change of a figure whose values are not all above zero has no ratio: there it is a difference in the
figure's own unit (`scale`), and so are its ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadtests.results.store import Run

__all__ = [
    "BETTER",
    "EQUIVALENT",
    "INCONCLUSIVE",
    "WORSE",
    "Answer",
    "Comparison",
    "FigureComparison",
    "KeyDifference",
    "QuantileCurve",
    "QuantilePoint",
    "Side",
]

Answer = Literal["better", "worse", "equivalent", "inconclusive"]
BETTER: Answer = "better"
WORSE: Answer = "worse"
EQUIVALENT: Answer = "equivalent"
INCONCLUSIVE: Answer = "inconclusive"


@dataclass(frozen=True)
class Side:
    """A or B: `title` is what a person calls it; `runs` are in the order of the comparison: by pair, or by time."""

    title: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class KeyDifference:
    """What differs beside the figures: the values seen on each side, joined by a comma where its runs differ."""

    key: str
    a: str
    b: str


@dataclass(frozen=True)
class FigureComparison:
    """One figure of both sides.

    Attributes:
        a, b: one value for each run, in the order of the side's runs; None where a run has no such figure.
        a_typical, b_typical: medians over the runs.
        scale: "ratio" (change, low and high are fractions) or "difference" (they are in `unit`).
        change: Hodges-Lehmann estimate of B against A.
        low, high: its exact confidence interval, None where there are too few runs for one.
        p: of the exact test, of this figure alone; p_adjusted: with all headline figures looked at (Holm).
        answer: the verdict; None for a figure that is shown and not judged.
        reason: why the answer is inconclusive, or what to know about it; one sentence, or "".
        needed: pairs, or runs on each side, that tell a difference as large as the band; None where that is not known.
    """

    name: str
    unit: str
    better: str
    a: tuple[float | None, ...]
    b: tuple[float | None, ...]
    a_typical: float
    b_typical: float
    scale: Literal["ratio", "difference"]
    change: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    answer: Answer | None = None
    reason: str = ""
    needed: int | None = None

    @property
    def headline(self) -> bool:
        return self.answer is not None

    @property
    def same(self) -> bool:
        """Whether all runs of both sides have one and the same value, as errors have where there are none."""
        return len({*self.a, *self.b}) == 1


@dataclass(frozen=True)
class QuantilePoint:
    """A quantile (in percent) of all runs of a side together, in microseconds, and the change with its bootstrap band.

    `enough` is false where too few exchanges are slower than this for the quantile to mean something: draw it grey.
    """

    quantile: float
    a_us: float
    b_us: float
    change: float
    low: float | None
    high: float | None
    enough: bool


@dataclass(frozen=True)
class QuantileCurve:
    """`latency` ("service" or "response") by quantile; a_runs and b_runs: one curve in microseconds for each run."""

    latency: Literal["service", "response"]
    points: tuple[QuantilePoint, ...]
    a_runs: tuple[tuple[float, ...], ...]
    b_runs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        paired: whether the n-th run of A was made beside the n-th of B.
        band: changes within it do not matter: 0.03 is three percent.
        alpha: how often at most equal sides may be called different, over all headline figures together.
        level: confidence level of the intervals.
        figures: the headline figures first, then those that are shown and not judged.
        order: ("A" or "B", place in that side's runs) in the order in which the runs were made, for a dot plot.
        refusals: why these runs should not be compared; not empty only where that was forced.
        notes: what to know before the figures are believed; one sentence each.
    """

    a: Side
    b: Side
    paired: bool
    band: float
    alpha: float
    level: float
    figures: tuple[FigureComparison, ...]
    curves: tuple[QuantileCurve, ...] = ()
    order: tuple[tuple[str, int], ...] = ()
    environment: tuple[KeyDifference, ...] = ()
    workload: tuple[KeyDifference, ...] = ()
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def figure(self, name: str) -> FigureComparison | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def headlines(self) -> tuple[FigureComparison, ...]:
        return tuple(figure for figure in self.figures if figure.headline)

    @property
    def settled(self) -> bool:
        """Whether more runs would tell nothing new."""
        return bool(self.headlines) and all(figure.answer != INCONCLUSIVE for figure in self.headlines)

    @property
    def answer(self) -> Answer:
        """Of the whole: worse if anything is, better if something is and all else is no worse, and so on."""
        answers = {figure.answer for figure in self.headlines}
        if WORSE in answers:
            return WORSE
        if not answers or INCONCLUSIVE in answers:
            return INCONCLUSIVE
        return BETTER if BETTER in answers else EQUIVALENT
