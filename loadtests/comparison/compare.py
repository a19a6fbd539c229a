"""Compare two sides of runs, and judge each figure. Pure.

The verdict on a figure comes from the exact confidence interval of its change, and from the p-value of its exact test
with Holm's correction:

    equivalent      the interval lies within the band: a change, if any, is too small to matter
    better, worse   not equivalent, and the test finds a difference
    inconclusive    neither: more runs are needed
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from loadtests.comparison.model import (
    BETTER,
    EQUIVALENT,
    INCONCLUSIVE,
    WORSE,
    Answer,
    Comparison,
    FigureComparison,
    KeyDifference,
    QuantileCurve,
    Side,
)
from loadtests.comparison.noise_floor import NoiseFloor
from loadtests.comparison.quantile_curves import quantile_curve
from loadtests.comparison.run_identity import address_of
from loadtests.formatting import number
from loadtests.inference.power import cautious, needed_pairs, needed_runs
from loadtests.inference.rank_tests import (
    Looks,
    Shift,
    holm,
    pairs_shift,
    sets_shift,
    single_shift,
    smallest_p_of_pairs,
    smallest_p_of_sets,
)
from loadtests.recording.histogram import Histogram
from loadtests.results.figure_catalog import title_of
from loadtests.results.metrics import ENOUGH_BEYOND, Figure
from loadtests.results.store import Run

__all__ = ["HEADLINES", "Latencies", "Plan", "compare", "headlines_of", "is_believable", "missing_in", "plan_of_pairs"]

HEADLINES = (
    "throughput",
    "response_p50",
    "response_p99",
    "response_p99.9",
    "service_p50",
    "service_p99",
    "error_rate",
    "server_cpu_per_exchange",
    "server_rss_per_socket",
)
#: Figures that are shown but not judged, because each further judged figure needs more runs.
OTHERS = ("response_p90", "service_p90", "service_p99.9", "connect_p50", "connect_p99", "server_rss_peak")
#: The shape of the profile for memory alone, and the figures that its runs are judged by.
MEMORY_SHAPE = "doublings"
MEMORY = ("server_rss_per_socket",)
TOO_FEW = "too few to tell"
#: Keys of a server that change with each run and do not identify it. (The address of a server that ran already does;
#: address_of() covers that.)
NOT_ENVIRONMENT = ("address", "pid", "port")


@dataclass(frozen=True)
class Plan:
    """How to compare.

    Attributes:
        paired: True if the n-th run of A and the n-th of B are a pair.
        band: changes within it are too small to matter: 0.03 is 3 %.
        alpha: probability of a false difference over all headline figures together; at an interim look of ab, the part
            that this look may spend.
        total_alpha: the same for all looks together; None: there is one look.
        noise: the noise floor of this host, for a comparison of one run with one run; None if not measured.
        cut_short: why fewer pairs were made than planned, as a sentence without full stop; or "".
    """

    paired: bool = False
    band: float = 0.03
    alpha: float = 0.05
    total_alpha: float | None = None
    noise: NoiseFloor | None = None
    cut_short: str = ""


@dataclass(frozen=True)
class Latencies:
    """The latencies of each run of a side in the measured phase, one histogram a run."""

    service: list[Histogram] = field(default_factory=list)
    response: list[Histogram] = field(default_factory=list)


def headlines_of(workload: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures that runs of a workload are judged by. Fewer figures need fewer runs."""
    return MEMORY if workload.get("shape") == MEMORY_SHAPE else HEADLINES


def plan_of_pairs(workload: Mapping[str, Any], band: float, looks: Looks, pairs: int, cut_short: str = "") -> Plan:
    """How to compare `pairs` pairs of runs of a workload: one of the `looks`.

    Pairs keep drift of the host out of a comparison. Memory does not drift with the host (the servers in README used
    the same memory in all runs, on a busy host or not), so runs of the memory profile are compared as two sets. 4 runs
    on each side can prove a difference of one figure (2 of the 70 ways to choose 4 of 8 are as extreme: p = 0.029). As
    pairs it takes 6 (2 of 64: p = 0.031).
    """
    return Plan(
        paired=headlines_of(workload) is HEADLINES,
        band=band,
        alpha=looks.alpha_at(pairs),
        total_alpha=looks.alpha if looks.looks > 1 else None,
        cut_short=cut_short,
    )


def compare(
    a: Side, b: Side, plan: Plan, a_latencies: Latencies | None = None, b_latencies: Latencies | None = None
) -> Comparison:
    """Compare `b` with `a`. Only the curves by quantile need the latencies."""
    headlines = headlines_of(a.runs[0].workload)
    found = [each for name in headlines if (each := _figure(name, a, b, plan))]
    judged = _judge(found, plan)
    shown = [name for name in (*HEADLINES, *OTHERS) if name not in headlines]
    others = [each for name in shown if (each := _figure(name, a, b, plan))]
    return Comparison(
        a=a,
        b=b,
        paired=plan.paired,
        band=plan.band,
        alpha=plan.alpha,
        total_alpha=plan.total_alpha,
        level=1 - plan.alpha,
        figures=(*judged, *(figure for figure, _ in others)),
        curves=_curves(a_latencies or Latencies(), b_latencies or Latencies(), plan),
        order=_order(a, b),
        environment=_differing(_places(a), _places(b)),
        workload=_differing([run.workload for run in a.runs], [run.workload for run in b.runs]),
        refusals=tuple(_refusals(a, b)),
        notes=(
            *_notes(a, b, plan),
            *_too_few(judged, sum(figure.scale == "ratio" or not shift.tied for figure, shift in found), plan),
        ),
    )


# Figures


def _figure(name: str, a: Side, b: Side, plan: Plan) -> tuple[FigureComparison, Shift] | None:
    """One figure without a verdict; None if no run of a side has it, or only as a quantile of too few values."""
    before, after = [run.headline(name) for run in a.runs], [run.headline(name) for run in b.runs]
    one = next((figure for figure in before if figure), None)
    if one is None or not any(after):
        return None
    a_values, b_values = _known(before, after, plan.paired)
    if not a_values or not b_values:
        return None
    is_ratio = min(*a_values, *b_values) > 0
    if is_ratio:
        shift = _shift(name, [math.log(value) for value in a_values], [math.log(value) for value in b_values], plan)
    else:
        shift = _shift("", a_values, b_values, plan)
    low, high = shift.interval or (None, None)
    shown = _as_change if is_ratio else _as_is
    found = FigureComparison(
        name=name,
        unit=one.unit,
        better=one.better,
        a=tuple(figure.value if figure else None for figure in before),
        b=tuple(figure.value if figure else None for figure in after),
        a_typical=median(a_values),
        b_typical=median(b_values),
        scale="ratio" if is_ratio else "difference",
        change=shown(shift.estimate) or 0.0,
        low=shown(low),
        high=shown(high),
        p=shift.p,
    )
    return found, shift


def _known(
    before: Sequence[Figure | None], after: Sequence[Figure | None], paired: bool
) -> tuple[list[float], list[float]]:
    if not paired:
        return [each.value for each in before if each], [each.value for each in after if each]
    both = [(x.value, y.value) for x, y in zip(before, after, strict=True) if x and y]
    return [x for x, _ in both], [y for _, y in both]


def _shift(name: str, a: Sequence[float], b: Sequence[float], plan: Plan) -> Shift:
    """The shift between two sides of logarithms. With an empty `name` of plain values, which have no noise floor."""
    if len(a) == len(b) == 1:
        difference = b[0] - a[0]
        floor = plan.noise.floors.get(name) if plan.noise else None
        if floor is None or plan.noise is None:
            return Shift(difference, None, 1.0, 0.0, difference == 0)
        return single_shift(difference, floor, plan.noise.pairs)
    if plan.paired:
        return pairs_shift([y - x for x, y in zip(a, b, strict=True)], plan.alpha)
    return sets_shift(a, b, plan.alpha)


def _as_change(logarithm: float | None) -> float | None:
    return None if logarithm is None else math.expm1(logarithm)


def _as_is(value: float | None) -> float | None:
    return value


# Verdicts


def _judge(figures: Sequence[tuple[FigureComparison, Shift]], plan: Plan) -> list[FigureComparison]:
    # A figure with one value in all runs is no hypothesis. Leaving it out keeps the error rate: whether a figure is
    # tied does not depend on which side a run belongs to, and the tests hold for any values if chance decides that.
    adjusted = holm({figure.name: shift.p for figure, shift in figures if not shift.tied})
    alpha = plan.alpha / max(1, len(adjusted))
    return [_judged(figure, shift, adjusted.get(figure.name, 1.0), alpha, plan) for figure, shift in figures]


def _judged(figure: FigureComparison, shift: Shift, p: float, alpha: float, plan: Plan) -> FigureComparison:
    answer = _answer(figure, p, plan)
    needed, reason = None, ""
    if answer == INCONCLUSIVE:
        needed = _needed(figure, shift, alpha, plan)
        reason = _reason(figure, alpha, needed, plan)
    return dataclasses.replace(figure, p_adjusted=p, answer=answer, reason=reason, needed=needed)


def _answer(figure: FigureComparison, p: float, plan: Plan) -> Answer:
    if figure.low is not None and figure.high is not None:
        low, high = (1 / (1 + plan.band) - 1, plan.band) if figure.scale == "ratio" else (0.0, 0.0)
        if low <= figure.low and figure.high <= high:
            return EQUIVALENT
    if p > plan.alpha or figure.change == 0:
        return INCONCLUSIVE
    return BETTER if (figure.change > 0) == (figure.better == "higher") else WORSE


def _needed(figure: FigureComparison, shift: Shift, alpha: float, plan: Plan) -> int | None:
    """How many pairs or runs would decide; for a figure without a ratio, which has no band, the least of the test."""
    a, b = _counts(figure, plan)
    noise = cautious(shift.spread, a - 1 if plan.paired else a + b - 2) if figure.scale == "ratio" else 0.0
    find = needed_pairs if plan.paired else needed_runs
    return find(math.log1p(plan.band), noise, alpha)


def _counts(figure: FigureComparison, plan: Plan) -> tuple[int, int]:
    a, b = ([value for value in side if value is not None] for side in (figure.a, figure.b))
    if plan.paired:
        return (min(len(a), len(b)),) * 2
    return len(a), len(b)


def _reason(figure: FigureComparison, alpha: float, needed: int | None, plan: Plan) -> str:
    a, b = _counts(figure, plan)
    if a == b == 1 and figure.low is not None:
        return "the change is within the noise of this host"
    if _smallest_p(a, b, plan) > alpha:
        return TOO_FEW
    if figure.scale == "difference":
        return "no difference is proven"
    if needed is None or needed > min(a, b):
        return f"too noisy for this number of {'pairs' if plan.paired else 'runs'}"
    return "the change is smaller than the band, or near its edge"


def _smallest_p(a: int, b: int, plan: Plan) -> float:
    return smallest_p_of_pairs(a) if plan.paired else smallest_p_of_sets(a, b)


# Notes


def _too_few(figures: Sequence[FigureComparison], tested: int, plan: Plan) -> list[str]:
    if not tested or not any(figure.reason == TOO_FEW for figure in figures):
        return []
    runs = "pairs" if plan.paired else "runs on each side"
    least = (needed_pairs if plan.paired else needed_runs)(1.0, 0.0, plan.alpha / tested)
    figures_tested = "1 figure" if tested == 1 else f"{tested} figures"
    return [f"Too few to call anything different, whatever the change: for {figures_tested} it takes {least} {runs}."]


def _curves(a: Latencies, b: Latencies, plan: Plan) -> tuple[QuantileCurve, ...]:
    found = (
        quantile_curve("response", a.response, b.response, plan.paired),
        quantile_curve("service", a.service, b.service, plan.paired),
    )
    return tuple(curve for curve in found if curve)


def _order(a: Side, b: Side) -> tuple[tuple[str, int], ...]:
    runs = [
        (run.started_at, side, place) for side, runs in (("A", a.runs), ("B", b.runs)) for place, run in enumerate(runs)
    ]
    return tuple((side, place) for _, side, place in sorted(runs))


def _places(side: Side) -> list[dict[str, Any]]:
    servers = [{key: run.server[key] for key in run.server if key not in NOT_ENVIRONMENT} for run in side.runs]
    return [
        {**run.environment, "address": address_of(run), **server}
        for run, server in zip(side.runs, servers, strict=True)
    ]


def _differing(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> tuple[KeyDifference, ...]:
    """The keys whose values differ among the runs of both sides."""
    keys = dict.fromkeys(key for values in [*a, *b] for key in values)
    return tuple(
        KeyDifference(key, _values(key, a), _values(key, b))
        for key in keys
        if len({str(values.get(key)) for values in [*a, *b]}) > 1
    )


def _values(key: str, each: Sequence[dict[str, Any]]) -> str:
    return ", ".join(sorted({str(values.get(key, "not recorded")) for values in each}))


def _refusals(a: Side, b: Side) -> list[str]:
    runs = [*a.runs, *b.runs]
    refusals = [refusal for run in runs if (refusal := _invalid(run))]
    if len({run.workload_hash for run in runs}) > 1:
        keys = _differing([run.workload for run in a.runs], [run.workload for run in b.runs])
        what = "; ".join(f"{each.key} {each.a} against {each.b}" for each in keys)
        refusals.append(f"the workloads differ, so the figures do not measure the same thing: {what or 'by hash'}")
    if len(schemas := sorted({run.schema for run in runs})) > 1:
        refusals.append(
            f"the runs have schemas {schemas[0]} and {schemas[-1]} of run.json. Their figures mean different things: "
            "since schema 3 late replies count, and failures include those of connects and handshakes"
        )
    return refusals


def is_believable(run: Run) -> bool:
    """Whether the judged figures of a run can be believed. A busy host or generator does not change memory."""
    is_undisturbed = run.verdict.is_valid or run.verdict.state in ("generator-bound", "noisy-host")
    return run.verdict.is_valid if headlines_of(run.workload) is HEADLINES else is_undisturbed


def missing_in(run: Run) -> list[str]:
    """A sentence with the reason if a run of the memory profile has no figure of memory."""
    names = headlines_of(run.workload)
    lacking = [] if names is HEADLINES else [name for name in names if not run.figure(name)]
    return [f"There is no {title_of(name)}: {run.withheld.get(name, 'the run has none')}." for name in lacking]


def _invalid(run: Run) -> str:
    if is_believable(run):
        return ""
    return f"{run.path.name or run.name} is {run.verdict.state}: {'; '.join(run.verdict.doubts)}"


def _notes(a: Side, b: Side, plan: Plan) -> list[str]:
    notes = [f"Not all pairs were made: {plan.cut_short}."] if plan.cut_short else []
    if len(a.runs) == len(b.runs) == 1:
        if plan.noise:
            notes.append(f"One run on each side, compared with the noise floor of {plan.noise.pairs} pairs.")
        else:
            notes.append("One run on each side and no noise floor: no claim is made.")
    elif not plan.paired and headlines_of(a.runs[0].workload) is HEADLINES:  # see plan_of_pairs()
        notes.append("The runs are not pairs: a change of the host looks like a change of the server.")
    notes += _of_few([*a.runs, *b.runs])
    notes += [f"{side.title} had failures: {errors}." for side in (a, b) if (errors := _errors(side))]
    return notes + [note for side in (a, b) for note in _shortfalls(side)]


def _shortfalls(side: Side) -> list[str]:
    """What the server did not do, with one example for each side. The figures are valid, but must be read with it."""
    short = [run for run in side.runs if run.verdict.shortfalls]
    if not short:
        return []
    count = f"in {len(short)} of {len(side.runs)} runs" if len(side.runs) > 1 else "in its run"
    return [f"{side.title} did not do all that was requested {count}: {' '.join(short[0].verdict.shortfalls)}"]


def _of_few(runs: Sequence[Run]) -> list[str]:
    """A note with the percentiles that are left out."""
    found = [title_of(name) for name in (*HEADLINES, *OTHERS) if any(_is_of_few(run, name) for run in runs)]
    few = f"a run has fewer than {ENOUGH_BEYOND} values beyond the percentile"
    return [f"Left out because {few}: {', '.join(found)}."] if found else []


def _is_of_few(run: Run, name: str) -> bool:
    figure = run.figure(name)
    return figure is not None and figure.is_of_few


def _errors(side: Side) -> str:
    """The failures of a side with their counts, of every phase of a connection and every type of exchange."""
    total = sum((Counter(run.errors) for run in side.runs), Counter[str]())
    return ", ".join(f"{name} ({number(count)})" for name, count in sorted(total.items()))
