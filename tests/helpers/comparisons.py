"""Simulated sides of a comparison, with the noise of real runs: correlated within a run, and with outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loadtests.comparison.model import Side
from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from tests.helpers.loadtests_runs import make_run

__all__ = ["NOISE", "run_of", "simulated"]

#: Headline figure -> usual value, unit, better, and the noise of one run as a standard deviation of its logarithm.
NOISE = {
    "throughput": (2000.0, "exchanges/s", "higher", 0.01),
    "response_p50": (210.0, "us", "lower", 0.02),
    "response_p99": (1250.0, "us", "lower", 0.05),
    "response_p99.9": (5700.0, "us", "lower", 0.1),
    "service_p50": (200.0, "us", "lower", 0.02),
    "service_p99": (1200.0, "us", "lower", 0.05),
    "server_cpu_per_exchange": (85.0, "us", "lower", 0.015),
    "server_rss_per_socket": (0.62, "KiB", "lower", 0.01),
}


def run_of(logs: dict[str, float], number: int = 0, errors: float = 0.0) -> Run:
    """Return a run with figures that differ from the usual ones by these logarithms."""
    figures = [
        Figure(name, value * float(np.exp(logs.get(name, 0.0))), unit, better)
        for name, (value, unit, better, _) in NOISE.items()
    ]
    figures.append(Figure("error_rate", errors, "%", "lower"))
    started_at = f"2026-01-02T03:{number // 60:02}:{number % 60:02}+00:00"
    return make_run(figures=figures, started_at=started_at, path=Path(f"results/run-{number:03}"))


def simulated(
    draw: np.random.Generator, runs: int, change: float = 0.0, scale: float = 1.0, drifts: bool = True
) -> tuple[Side, Side]:
    """Return two sides whose runs alternate; the costs of B are higher by the fraction `change`.

    Half of the noise of a run is common to all its figures, and one run in ten is an outlier. drifts: the host gets
    slower or faster from pair to pair. scale: factor on the noise.
    """
    a, b = [], []
    drift = np.cumsum(draw.normal(size=runs)) * 0.5 * drifts
    for number in range(runs):
        for side, shift in ((a, 0.0), (b, float(np.log1p(change)))):
            logs = {name: -shift if name == "throughput" else shift for name in NOISE}
            size = 3.0 if draw.random() < 0.1 else 1.0
            own = draw.normal(size=len(NOISE)) + draw.normal()
            for place, (name, (_, _, better, noise)) in enumerate(NOISE.items()):
                direction = -1 if better == "higher" else 1
                logs[name] += direction * scale * noise * (size * own[place] / np.sqrt(2) + drift[number])
            side.append(run_of(logs, 2 * number + (side is b)))
    return Side("before", tuple(a)), Side("after", tuple(b))
