"""Make the input of reports and comparisons: a run with recording and samples, and a comparison of two sides."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

from vl_convert import vegalite_to_svg

from loadtests.comparison.model import (
    Answer,
    Comparison,
    FigureComparison,
    KeyDifference,
    QuantileCurve,
    QuantilePoint,
    Side,
)
from loadtests.recording.recording import Recording
from loadtests.report.run_data import Evidence, evidence_of
from loadtests.results.store import Run, save_run
from tests.helpers.loadtests_runs import make_run

START = 1000
SECONDS = 20
PHASES = {
    "ramp": [START, START + 2],
    "warmup": [START + 2, START + 5],
    "measure": [START + 5, START + 18],
    "cooldown": [START + 18, START + SECONDS],
}


def make_recording(response: bool = True, failures: bool = True, scale: float = 1.0) -> Recording:
    """Return a recording of 200 sockets; in the tenth second a stall makes response times exceed service times."""
    dice = random.Random(7)
    recording = Recording()
    for second in range(START, START + SECONDS):
        at_ns = second * 10**9 + 500_000_000
        if second < START + 2:
            for _ in range(100):
                recording.succeeded("connect", at_ns, int(200_000 * math.exp(dice.gauss(0, 0.7))))
        for _ in range(300):
            service_ns = int(scale * 250_000 * math.exp(dice.gauss(0, 0.5)))
            waited_ns = int(dice.random() * 4e7) if second == START + 9 else 0
            recording.succeeded("SUM", at_ns, service_ns, service_ns + waited_ns if response else None)
        if failures and second == START + 12:
            recording.failed("SUM", at_ns, "reset")
    recording.health["host-1"] = {
        second: {
            "sockets": min(200, 100 * (second - START + 1)),
            "cpu_s": 0.4 * (second - START),
            "lag_ns": 2e6 + 5e5 * (second % 3),
            "late_sends": 4 if second == START + 9 else 0,
        }
        for second in range(START, START + SECONDS)
    }
    return recording


def make_samples(overflows: int = 3) -> list[dict[str, Any]]:
    """Return samples of a master and two workers, from two seconds before the load begins."""
    return [_sample(START - 2 + tick / 2, overflows) for tick in range(2 * (SECONDS + 2))]


def _sample(time_s: float, overflows: int) -> dict[str, Any]:
    elapsed_s = max(0.0, time_s - START)
    held = min(200.0, 100 * elapsed_s)
    shares = (0.001, 0.06, 0.07)
    processes = [
        {
            "pid": 100 + place,
            "cpu_user_s": 0.3 + 0.7 * share * elapsed_s,
            "cpu_system_s": 0.1 + 0.3 * share * elapsed_s,
            "rss_bytes": 24 * 2**20 + (int(held * 1024 * 0.35) if place else 0),
            "descriptors": 8 + int(held / 2) * (place > 0),
            "switches_voluntary": int(100 * elapsed_s),
            "switches_involuntary": 3,
        }
        for place, share in enumerate(shares)
    ]
    dropped = {"listener": overflows * (elapsed_s > 1)}
    return {"time_s": time_s, "processes": processes, "kernel": {"listen_overflows": 100, "listeners": dropped}}


def make_evidence(run: Run | None = None, **recording: Any) -> Evidence:
    """Return a run with phases, a recording and samples."""
    return evidence_of(run or make_run(phases=PHASES), make_recording(**recording), make_samples())


def save_evidence(folder: Path, evidence: Evidence) -> Path:
    """Write a run to `folder` as `loadtests run` does; return the folder."""
    folder.mkdir(parents=True)
    save_run(folder, evidence.run)
    (folder / "client.json").write_text(json.dumps(evidence.recording.to_json()))
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in evidence.samples))
    return folder


def warm_renderer() -> None:
    """Draw once, because vl-convert opens files at its first drawing and keeps them: they are no leak of a test."""
    vegalite_to_svg({"data": {"values": []}, "mark": "point"})


def make_comparison(folder: Path | None = None, **changes: Any) -> Comparison:
    """Return a comparison of eight pairs with every verdict; with `folder`, the first run of each side is saved."""
    sides = [
        _side(name, title, scale, folder) for name, title, scale in (("a", "pooled", 1.0), ("b", "dedicated", 1.06))
    ]
    values: dict[str, Any] = {
        "a": sides[0],
        "b": sides[1],
        "paired": True,
        "band": 0.03,
        "alpha": 0.05,
        "level": 0.95,
        "figures": _figures(),
        "curves": (_curve("response"), _curve("service")),
        "order": tuple((letter, pair) for pair in range(8) for letter in ("AB" if pair % 3 else "BA")),
        "environment": (KeyDifference("source", "0123456789ab", "ba9876543210"),),
        "notes": ("The host was measured to be no steadier than 2.1%.",),
        **changes,
    }
    return Comparison(**values)


def _side(name: str, title: str, scale: float, folder: Path | None) -> Side:
    runs = []
    for place in range(8):
        run = make_run(label=title, scale=scale, phases=PHASES)
        if folder and place < 1:
            evidence = evidence_of(run, make_recording(scale=scale, failures=False), make_samples())
            run = dataclasses.replace(run, path=save_evidence(folder / f"{name}{place}", evidence))
        runs.append(run)
    return Side(title, tuple(runs))


def _figures() -> tuple[FigureComparison, ...]:
    return (
        _figure("throughput", "exchanges/s", "higher", 2000, 0.001, 0.004, "equivalent"),
        _figure("response_p50", "us", "lower", 200, 0.052, 0.012, "worse"),
        _figure("response_p99", "us", "lower", 1234, 0.021, 0.06, "inconclusive", needed=34),
        _figure("server_cpu_per_exchange", "us", "lower", 85, -0.081, 0.02, "better"),
        _figure("server_rss_per_socket", "KiB", "lower", 0.62, 1.9, 0.2, "worse"),
        FigureComparison(
            "error_rate", "%", "lower", (0.0,) * 8, (0.0,) * 8, 0, 0, "difference", 0.0, answer="equivalent"
        ),
        FigureComparison("server_rss_peak", "MiB", "lower", (48.0,) * 8, (51.0,) * 8, 48.0, 51.0, "ratio", 0.0625),
    )


def _figure(
    name: str,
    unit: str,
    better: str,
    value: float,
    change: float,
    half: float,
    answer: Answer,
    needed: int | None = None,
) -> FigureComparison:
    dice = random.Random(name)
    a = tuple(round(value * (1 + dice.gauss(0, half)), 3) for _ in range(8))
    b = tuple(round(value * (1 + change + dice.gauss(0, half)), 3) for _ in range(8))
    reason = "the interval reaches beyond the band on both sides." if needed else ""
    ends = {"low": change - half, "high": change + half, "p": 0.01, "p_adjusted": 0.04}
    typical = (value, round(value * (1 + change), 3))
    return FigureComparison(
        name, unit, better, a, b, *typical, "ratio", change, answer=answer, reason=reason, needed=needed, **ends
    )


def _curve(latency: Any) -> QuantileCurve:
    quantiles = [100 * (1 - 10 ** (-place / 8)) for place in range(33)] + [100.0]
    points = tuple(
        QuantilePoint(
            quantile, 100 * 1.1**place, 104 * 1.101**place, 0.04 + 0.001 * place, 0.03, 0.06 + 0.003 * place, place < 28
        )
        for place, quantile in enumerate(quantiles)
    )
    runs = [tuple(round(point.a_us * (0.9 + 0.05 * run), 3) for point in points) for run in range(4)]
    return QuantileCurve(latency, points, tuple(runs[:2]), tuple(runs[2:]))
