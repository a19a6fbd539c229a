"""Make a run for tests of code that reads runs."""

from __future__ import annotations

from typing import Any

from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from loadtests.results.validity import Verdict

__all__ = ["make_run"]


def make_run(name: str = "json", scale: float = 1.0, **changes: Any) -> Run:
    """Return a run; its costs are multiplied by `scale`, and its throughput is divided by it."""
    latencies = {
        "mean": 250.0,
        "min": 100.0,
        "p50": 200.0,
        "p90": 400.0,
        "p95": 600.0,
        "p99": 1234.5,
        "p99.9": 5678.0,
        "max": 12345.0,
    }
    figures = [
        Figure("sockets_peak", 200, "sockets"),
        Figure("sockets_least", 200, "sockets", "higher"),
        Figure("connects_ok", 200, "connects"),
        Figure("connects_failed", 0, "connects", "lower"),
        Figure("exchanges_ok", 36000, "exchanges"),
        Figure("exchanges_failed", 0, "exchanges", "lower"),
        Figure("exchanges_cut_off", 3, "exchanges"),
        Figure("attempts", 36000, "attempts"),
        Figure("attempts_failed", 0, "attempts", "lower"),
        Figure("error_rate", 0, "%", "lower"),
        Figure("steady_s", 18, "s"),
        Figure("throughput", 2000 / scale, "exchanges/s", "higher"),
        Figure("answered_SUM", 36000, "exchanges"),
        Figure("failed_SUM", 0, "exchanges", "lower"),
        *(Figure(f"connect_{quantile}", value, "us", "lower") for quantile, value in latencies.items()),
        *(
            Figure(f"{latency}_{quantile}", value * scale, "us", "lower")
            for latency in ("service", "response", "service_SUM", "response_SUM")
            for quantile, value in latencies.items()
        ),
        Figure("generator_cpu", 41.25, "% of a core", "lower"),
        Figure("generator_lag_max", 7.5, "ms", "lower"),
        Figure("server_rss_peak", 48.25 * scale, "MiB", "lower"),
        Figure("server_cpu", 17.0 * scale, "% of a core", "lower"),
        Figure("server_cpu_per_exchange", 85.0 * scale, "us", "lower"),
        Figure("server_rss_per_socket", 0.625 * scale, "KiB", "lower", 0.5 * scale, 0.75 * scale),
    ]
    values: dict[str, Any] = {
        "name": name,
        "label": "",
        "started_at": "2026-01-02T03:04:05+00:00",
        "workload": {"user": "JsonUser", "sockets": 200, "rate": 10},
        "workload_hash": "0123456789ab",
        "server": {"address": "tcp://127.0.0.1:3001", "command": "gserver json -w 1"},
        "environment": {"python": "3.11.7", "cores": 2},
        "figures": figures,
        "errors": {},
        "phases": {"ramp": [100, 102], "warmup": [102, 104], "measure": [104, 122], "cooldown": [122, 123]},
        "verdict": Verdict("valid"),
        "warnings": [],
        **changes,
    }
    return Run(**values)
