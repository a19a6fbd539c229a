"""Group runs of the same workload, host, server and setting into trends, and find changes. Pure.

Each headline figure is searched for changes. The probability of a false change is divided among the figures.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from loadtests.comparison.compare import HEADLINES
from loadtests.comparison.noise_floor import HOST_KEYS
from loadtests.comparison.run_identity import commit_of, server_of, setting_of
from loadtests.formatting import percent, quantity, render_text_table
from loadtests.inference.change_points import ChangePoint, change_points, fewest
from loadtests.results.figure_catalog import kind_of, title_of
from loadtests.results.metrics import Figure
from loadtests.results.store import Run

__all__ = ["Trend", "changes_of", "render_csv", "render_otava", "render_trend", "trends_of"]

#: The highest probability of a false change in a trend without changes, over all its figures.
ALPHA = 0.05
SHOWN = ("throughput", "response_p50", "response_p99", "server_cpu_per_exchange", "server_rss_per_socket")
TIME = "time"
ATTRIBUTES = ("commit", "run")


@dataclass(frozen=True)
class Trend:
    """Comparable runs, the oldest first."""

    runs: tuple[Run, ...]

    @property
    def key(self) -> str:
        """A short unique name, safe for a file: profile, workload, server, and a hash of the whole identity."""
        one = self.runs[0]
        words = re.sub(r"[^A-Za-z0-9]+", "-", f"{one.name}-{one.workload_hash}-{server_of(one)}").strip("-")[:80]
        return f"{words}-{hashlib.sha256(repr(_identity(one)).encode()).hexdigest()[:6]}"

    @property
    def title(self) -> str:
        one = self.runs[0]
        setting = "".join(f"; {name} {value}" for name, value in setting_of(one).items())
        runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        return f"{one.name} ({one.workload_hash}) on {server_of(one)}; {_host(one)}{setting}: {runs}"

    @property
    def figures(self) -> list[str]:
        """The headline figures that all runs have, without quantiles of too few values."""
        return [name for name in HEADLINES if all(run.headline(name) for run in self.runs)]

    def values(self, name: str) -> list[float]:
        return [figure.value for run in self.runs if (figure := run.figure(name))]


def trends_of(runs: Sequence[Run]) -> tuple[list[Trend], list[Run]]:
    """The trends, and the runs that are in no trend because their verdict is not valid."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        if run.verdict.is_valid:
            groups.setdefault(_identity(run), []).append(run)
    return [Trend(tuple(group)) for group in groups.values()], [run for run in runs if not run.verdict.is_valid]


def _identity(run: Run) -> tuple[str, ...]:
    """The values that all runs of a trend have in common."""
    return run.workload_hash, _host(run), server_of(run), *(f"{key} {value}" for key, value in setting_of(run).items())


def _host(run: Run) -> str:
    return ", ".join(str(run.environment.get(key, "unknown")) for key in HOST_KEYS)


def changes_of(trend: Trend) -> dict[str, list[ChangePoint]]:
    """For each figure the runs at which its level changed."""
    names = trend.figures
    return {name: change_points(trend.values(name), _alpha(names)) for name in names}


def _alpha(figures: Collection[str]) -> float:
    return ALPHA / max(1, len(figures))


# In words


def render_trend(trend: Trend) -> str:
    """A table of the runs with a mark at each change, and a line for each change."""
    changes = changes_of(trend)
    shown = [name for name in SHOWN if name in changes]
    rows = [_row(trend, place, shown, changes) for place in range(len(trend.runs))]
    table = render_text_table(["started (UTC)", "commit", *map(title_of, shown)], rows)
    return "\n\n".join([trend.title, table, _changes_in_words(trend, changes)])


def _row(trend: Trend, place: int, shown: Sequence[str], changes: dict[str, list[ChangePoint]]) -> list[str]:
    run = trend.runs[place]
    cells = [_cell(run.figure(name), any(each.at == place for each in changes[name])) for name in shown]
    return [run.started_at[:16].replace("T", " "), commit_of(run), *cells]


def _cell(figure: Figure | None, changed: bool) -> str:
    return ("* " if changed else "") + (quantity(figure.value, figure.unit) if figure else "-")


def _changes_in_words(trend: Trend, changes: dict[str, list[ChangePoint]]) -> str:
    least = fewest(_alpha(changes))
    if len(trend.runs) < least:
        return f"Too few runs to detect a change in {len(changes)} figures: it takes {least}."
    lines = [_change(trend, name, each) for name, found in changes.items() for each in found]
    return "\n".join(lines) if lines else "No change."


def _change(trend: Trend, name: str, point: ChangePoint) -> str:
    figure = trend.runs[point.at].figure(name)
    unit = figure.unit if figure else ""
    by = f" ({percent(point.change, signed=True)})" if point.change is not None else ""
    levels = f"{quantity(point.before, unit)} to {quantity(point.after, unit)}"
    return f"* {title_of(name)}: {levels}{by} from {commit_of(trend.runs[point.at])} on, p = {point.p:.4f}"


# For Apache Otava


def render_csv(trend: Trend) -> str:
    """CSV with a row for each run: its time, commit, folder, and the headline figures that all runs have."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([TIME, *ATTRIBUTES, *trend.figures])
    for place, run in enumerate(trend.runs):
        values = [f"{trend.values(name)[place]:.6g}" for name in trend.figures]
        writer.writerow([run.started_at, commit_of(run), run.path.name, *values])
    return text.getvalue()


def render_otava(files: Sequence[tuple[Trend, str]]) -> str:
    """The part of otava.yaml that describes the files and the better direction of each metric."""
    tests = "".join(_test(trend, file) for trend, file in files)
    return f"tests:\n{tests}"


def _test(trend: Trend, file: str) -> str:
    metrics = "".join(
        f"      {name}:\n        column: {name}\n        direction: {1 if kind_of(name).better == 'higher' else -1}\n"
        for name in trend.figures
    )
    head = f"  {trend.key}:\n    type: csv\n    file: '{file}'\n    time_column: {TIME}\n"
    return f"{head}    attributes: [{', '.join(ATTRIBUTES)}]\n    metrics:\n{metrics}"
