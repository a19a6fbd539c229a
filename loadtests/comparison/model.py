"""The result of a comparison: plain values for renderers and charts, made by compare().

A side is one run or several; a run is one observation. Changes are of B against A, as fractions: 0.05 is 5 % more. A
figure whose values are not all above zero has no ratio: its change and the ends of its interval are differences in the
figure's own unit (`scale`).
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
    """A or B. `title` is shown to people; `runs` are in the order of the comparison: by pair, or by time."""

    title: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class KeyDifference:
    """A key of workload or environment that differs: its values on each side, separated by commas."""

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
        low, high: ends of the exact confidence interval of the change; None if there are too few runs for one.
        p: p-value of the exact test of this figure alone; p_adjusted: corrected for all headline figures (Holm).
        answer: the verdict; None for a figure that is shown but not judged.
        reason: why the verdict is inconclusive, as one sentence; or "".
        needed: pairs, or runs on each side, that detect a difference as large as the band; None if not known.
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
        """Whether all runs of both sides have the same value (as the error rate if nothing failed)."""
        return len({*self.a, *self.b}) == 1


@dataclass(frozen=True)
class QuantilePoint:
    """A quantile (in percent) of all runs of a side together, in microseconds, and the change with its bootstrap band.

    `enough` is False if too few exchanges are slower for the quantile to be reliable: draw it grey.
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
        paired: True if the n-th run of A and the n-th of B are a pair.
        band: changes within it are too small to matter: 0.03 is 3 %.
        alpha: the highest probability of a false difference between equal sides, over all headline figures together;
            at one of several looks of ab, the part of this look.
        total_alpha: the same for all looks together; None: there is one look.
        level: confidence level of the intervals.
        figures: the headline figures first, then those that are shown but not judged.
        order: ("A" or "B", place in the runs of that side) in the order in which the runs were made.
        refusals: why these runs should not be compared; empty unless the comparison was forced.
        notes: what to know before relying on the figures; one sentence each.
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
    total_alpha: float | None = None
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def figure(self, name: str) -> FigureComparison | None:
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def headlines(self) -> tuple[FigureComparison, ...]:
        return tuple(figure for figure in self.figures if figure.headline)

    @property
    def settled(self) -> bool:
        """Whether every headline figure has a verdict other than inconclusive."""
        return bool(self.headlines) and all(figure.answer != INCONCLUSIVE for figure in self.headlines)

    @property
    def answer(self) -> Answer:
        """The verdict on the whole.

        Worse if a figure is worse; else inconclusive if a figure is; else better if a figure is; else equivalent.
        """
        answers = {figure.answer for figure in self.headlines}
        if WORSE in answers:
            return WORSE
        if not answers or INCONCLUSIVE in answers:
            return INCONCLUSIVE
        return BETTER if BETTER in answers else EQUIVALENT
