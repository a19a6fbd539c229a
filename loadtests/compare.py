"""Two runs side by side. Pure: differences of figures, and of everything that was not meant to differ.

One run on each side is one observation on each side, and proves nothing: the difference between them may be the host's.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.figures import QUANTILES, Figure
from loadtests.results import Run
from loadtests.text import human, render_table, title_of

__all__ = ["Comparison", "Difference", "compare", "render_comparison"]

HEADLINES = [
    "throughput",
    *(f"{latency}_{quantile}" for latency in ("response", "service") for quantile in QUANTILES if quantile != "max"),
    "connect_p99",
    "server_cpu_per_exchange",
    "server_rss_per_socket",
    "server_rss_peak",
    "exchanges_failed",
]
SHOWN = 0.0005  # a tenth of a percent, rounded
CAVEAT = "One run on each side proves nothing: run each several times, in turns, before you believe a difference."


@dataclass(frozen=True)
class Difference:
    """One figure of both runs; a side that has none is None."""

    name: str
    a: Figure | None
    b: Figure | None

    @property
    def relative(self) -> float | None:
        """(b - a) / a, or None where that says nothing."""
        if self.a is None or self.b is None or self.a.value == 0:
            return None
        return (self.b.value - self.a.value) / self.a.value

    @property
    def direction(self) -> str:
        """Whether b looks "better" or "worse"; "" where it does not differ by as much as a report shows."""
        if self.a is None or self.b is None or self.a.value == self.b.value or not self.a.better:
            return ""
        if self.relative is not None and abs(self.relative) < SHOWN:
            return ""
        return "better" if (self.b.value > self.a.value) == (self.a.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs."""

    a: Run
    b: Run
    differences: list[Difference]
    environment: list[tuple[str, str, str]]  # key, and its value on both sides
    workload: list[tuple[str, str, str]]


def compare(a: Run, b: Run) -> Comparison:
    """Set `b` against `a`."""
    names = [name for name in HEADLINES if a.figure(name) or b.figure(name)]
    return Comparison(
        a,
        b,
        [Difference(name, a.figure(name), b.figure(name)) for name in names],
        _differing(a.environment, b.environment) + _differing(a.server, b.server, ignored=("address",)),
        _differing(a.workload, b.workload),
    )


def _differing(a: dict[str, object], b: dict[str, object], ignored: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in ignored and a.get(key) != b.get(key)]
    return [(key, str(a.get(key, "not recorded")), str(b.get(key, "not recorded"))) for key in keys]


def render_comparison(comparison: Comparison) -> str:
    """The comparison as Markdown that also reads well in a terminal."""
    a, b = comparison.a, comparison.b
    parts = [f"A: {_named(a)}\nB: {_named(b)}"]
    if comparison.workload:
        parts.append("The workloads differ, so the figures do not measure the same thing:")
        parts.append(render_table(["workload", "A", "B"], [list(row) for row in comparison.workload]))
    if comparison.environment:
        parts.append(render_table(["environment", "A", "B"], [list(row) for row in comparison.environment]))
    rows = [[title_of(each.name), _cell(each.a), _cell(each.b), _change(each)] for each in comparison.differences]
    parts.append(render_table(["figure", "A", "B", "B against A"], rows))
    parts.append(CAVEAT)
    return "\n\n".join(parts)


def _named(run: Run) -> str:
    return f"{run.path.name or run.name}{f' ({run.label})' if run.label else ''}, {run.started_at}"


def _cell(figure: Figure | None) -> str:
    return human(figure.value, figure.unit) if figure else "-"


def _change(difference: Difference) -> str:
    if difference.relative is None:
        return difference.direction or "-"
    return f"{difference.relative:+.1%} {difference.direction}".strip()
