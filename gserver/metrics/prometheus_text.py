"""The metrics in Prometheus' text format. docs/metrics.md lists them; a test compares it with FAMILIES.

Counters and histograms are totals over all workers since the start of the server, also those that have ended. So they
have no label of a worker, and no restart of a worker makes them smaller. Gauges of a worker have the number of its slot
as the label `worker`: a new worker takes the first free slot, so the label has few values, and a pid would have many.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import gevent
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import gserver
from gserver.connection.native_fields import IS_NATIVE
from gserver.counters import SAMPLED_ONE_OF, bus_counts, offload_counts
from gserver.errors import CloseReason
from gserver.metrics.readings import Histogram, Readings, WorkerReadings

__all__ = ["CONTENT_TYPE", "FAMILIES", "Family", "as_prometheus_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: A value and the values of its labels.
Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Family:
    """One metric: all samples of one name."""

    kind: str  # counter, gauge or histogram
    name: str  # without the suffix _total
    help: str
    samples: Callable[[Readings], Iterable[Sample]] = lambda readings: ()
    labels: tuple[str, ...] = ()
    histogram: Callable[[Readings], Histogram] | None = field(default=None)

    @property
    def full_name(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def collect(self, readings: Readings) -> Metric:
        if self.histogram is not None:
            family = HistogramMetricFamily(self.name, self.help)
            histogram = self.histogram(readings)
            bounds = [_bound(bound) for bound in histogram.bounds_s]
            family.add_metric([], list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum_s)
            return family
        kind: Any = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        made: Metric = kind(self.name, self.help, labels=self.labels)
        for labels, value in self.samples(readings):
            made.add_metric(labels, value)  # type: ignore[attr-defined]
        return made


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else repr(seconds)


def _one(value: Callable[[Readings], float]) -> Callable[[Readings], Iterable[Sample]]:
    """The samples of a metric without labels."""
    return lambda readings: [((), value(readings))]


def _known(value: Callable[[Readings], float]) -> Callable[[Readings], Iterable[Sample]]:
    """The same, without a sample if the value is 0: there is no limit, or the event has not happened."""
    return lambda readings: [((), found)] if (found := value(readings)) else []


def _each(value: Callable[[WorkerReadings], float | None]) -> Callable[[Readings], Iterable[Sample]]:
    """One sample for each worker; none for a worker without the value."""

    def samples(readings: Readings) -> Iterator[Sample]:
        for worker in readings.workers:
            found = value(worker)
            if found is not None:
                yield (str(worker.slot),), found

    return samples


def _limit(setting: str) -> Callable[[Readings], Iterable[Sample]]:
    return _known(lambda readings: getattr(readings.settings, setting))


def _closed(readings: Readings) -> Iterable[Sample]:
    closed = readings.totals.closed
    return [((reason.value,), closed[reason]) for reason in CloseReason]


def _offload_calls(readings: Readings) -> Iterable[Sample]:
    return [((pool,), counts["calls"]) for pool, counts in offload_counts(readings.totals.cells).items()]


def _offload_failures(readings: Readings) -> Iterable[Sample]:
    for pool, counts in offload_counts(readings.totals.cells).items():
        yield from (((pool, event), count) for event, count in counts.items() if event != "calls")


def _resident_bytes(worker: WorkerReadings) -> float | None:
    try:
        with open(f"/proc/{worker.pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:  # it has just ended, or its slot is reserved and has no process yet
        return None


def _build(readings: Readings) -> Iterable[Sample]:
    implementation = "native" if IS_NATIVE else "python"
    return [((gserver.__version__, platform.python_version(), gevent.__version__, implementation), 1)]


_WORKER = ("worker",)
#: All metrics, in the order of the output.
FAMILIES = (
    # The server.
    Family(
        "gauge",
        "gserver_build_info",
        "Always 1; the labels are the versions, and whether the message loop is compiled.",
        _build,
        ("version", "python", "gevent", "implementation"),
    ),
    Family("gauge", "gserver_start_time_seconds", "When the server started.", _one(lambda of: of.started_at)),
    Family("gauge", "gserver_live", "Whether /livez answers 200.", _one(lambda of: of.liveness.is_good)),
    Family("gauge", "gserver_ready", "Whether /readyz answers 200.", _one(lambda of: of.readiness.is_good)),
    Family("gauge", "gserver_stopping", "Whether the server is stopping.", _one(lambda of: of.is_stopping)),
    Family(
        "gauge",
        "gserver_taken_out",
        "Whether the operator has taken the server out of service.",
        _one(lambda of: of.is_taken_out),
    ),
    Family("gauge", "gserver_workers_wanted", "How many workers should serve.", _one(lambda of: of.target)),
    Family("gauge", "gserver_workers_serving", "Workers that accept connections.", _one(lambda of: of.serving)),
    Family(
        "gauge",
        "gserver_workers_stuck",
        "Workers whose last heartbeat is older than 5 seconds.",
        _one(lambda of: sum(worker.is_stuck for worker in of.workers)),
    ),
    Family(
        "counter",
        "gserver_worker_restarts",
        "Workers that have ended and are replaced, by cause.",
        lambda of: [((cause.value,), count) for cause, count in of.restarts.items()],
        ("cause",),
    ),
    Family("gauge", "gserver_reload_generation", "Reloads that have begun.", _one(lambda of: of.generation)),
    Family(
        "counter",
        "gserver_reloads",
        "Reloads that have ended, by outcome.",
        lambda of: [(("succeeded",), of.reloads_succeeded), (("failed",), of.reloads_failed)],
        ("outcome",),
    ),
    Family(
        "gauge",
        "gserver_last_reload_successful",
        "Whether the last reload succeeded; 1 before the first.",
        _one(lambda of: not of.last_reload_failed),
    ),
    Family(
        "gauge",
        "gserver_last_reload_timestamp_seconds",
        "When the last reload ended; absent before the first.",
        _known(lambda of: of.last_reload_at),
    ),
    # Traffic: totals over all workers.
    Family(
        "counter",
        "gserver_connections_accepted",
        "Connections that were accepted, also those that were refused.",
        _one(lambda of: of.totals.accepted),
    ),
    Family(
        "counter",
        "gserver_connections_closed",
        "Connections that were closed, by close reason.",
        _closed,
        ("reason",),
    ),
    Family("counter", "gserver_messages", "Messages that were handled.", _one(lambda of: of.totals.messages)),
    Family(
        "counter",
        "gserver_errors",
        "Exceptions of handlers, and violations of the framing or the content by clients.",
        _one(lambda of: of.totals.errors),
    ),
    Family(
        "counter",
        "gserver_received_bytes",
        "Bytes received, up to a second old.",
        _one(lambda of: of.received_bytes),
    ),
    Family("counter", "gserver_sent_bytes", "Bytes sent, up to a second old.", _one(lambda of: of.sent_bytes)),
    Family(
        "counter",
        "gserver_offload_calls",
        "Calls of offload.thread() and offload.process(), by pool: thread or process.",
        _offload_calls,
        ("pool",),
    ),
    Family(
        "counter",
        "gserver_offload_failures",
        "Failed calls: the queue was full (refused), the time was over (timeouts), or the process died (died).",
        _offload_failures,
        ("pool", "reason"),
    ),
    Family(
        "counter",
        "gserver_bus_published",
        "Messages of bus.publish().",
        _one(lambda of: bus_counts(of.totals.cells)["published"]),
    ),
    Family(
        "counter",
        "gserver_bus_delivered",
        "Messages of gserver.bus by connections that got them.",
        _one(lambda of: bus_counts(of.totals.cells)["delivered"]),
    ),
    Family(
        "counter",
        "gserver_bus_dropped",
        "Messages of gserver.bus that a worker, Redis or a connection did not get.",
        _one(lambda of: bus_counts(of.totals.cells)["dropped"]),
    ),
    Family(
        "histogram",
        "gserver_event_loop_lag_seconds",
        "Seconds of all workers by the largest delay of the event loop in that second.",
        histogram=lambda of: of.lags,
    ),
    Family(
        "histogram",
        "gserver_handler_duration_seconds",
        f"Time that a handler took for a message, with its waiting, of one message in {SAMPLED_ONE_OF}.",
        histogram=lambda of: of.handlers,
    ),
    # Workers.
    Family(
        "gauge",
        "gserver_worker_serving",
        "Whether the worker accepts connections.",
        _each(lambda worker: worker.is_serving),
        _WORKER,
    ),
    Family("gauge", "gserver_connections_open", "Open connections.", _each(lambda worker: worker.open), _WORKER),
    Family(
        "gauge",
        "gserver_worker_heartbeat_age_seconds",
        "Time since the last heartbeat; absent before the first.",
        _each(lambda worker: worker.heartbeat_age_s),
        _WORKER,
    ),
    Family(
        "gauge",
        "gserver_worker_lag_seconds",
        "Delay of the event loop in the last second, or the present one if that is larger.",
        _each(lambda worker: worker.lag_s),
        _WORKER,
    ),
    Family(
        "gauge",
        "gserver_worker_lag_max_seconds",
        "The largest delay of the event loop since the worker's start.",
        _each(lambda worker: worker.lag_max_s),
        _WORKER,
    ),
    Family("gauge", "gserver_worker_resident_memory_bytes", "Resident memory.", _each(_resident_bytes), _WORKER),
    Family(
        "gauge",
        "gserver_tls_certificate_not_after_timestamp_seconds",
        "When the first of the certificates expires that the worker uses; absent without TLS.",
        _each(lambda worker: worker.not_after),
        _WORKER,
    ),
    # Limits: absent if there is none.
    Family(
        "gauge",
        "gserver_worker_connections_limit",
        "Setting worker_connections: maximum of open connections of one worker.",
        _limit("worker_connections"),
    ),
    Family(
        "gauge",
        "gserver_connections_limit",
        "Setting max_connections: maximum of open connections of all workers; absent without a limit.",
        _limit("max_connections"),
    ),
    Family(
        "gauge",
        "gserver_accept_queue_limit",
        "Setting backlog: maximum length of the accept queue of each listener.",
        _limit("backlog"),
    ),
    Family(
        "gauge",
        "gserver_heartbeat_timeout_seconds",
        "Setting timeout: time without a heartbeat after which a worker is killed; absent without a limit.",
        _limit("timeout"),
    ),
)


def as_prometheus_text(readings: Readings) -> str:
    """Return all metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(readings))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield family.collect(self._readings)
