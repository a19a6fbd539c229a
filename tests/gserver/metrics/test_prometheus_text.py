from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

from prometheus_client.parser import text_string_to_metric_families

from gserver.config.settings import Settings
from gserver.counters import TIME_BUCKETS, Counters, offload_cell
from gserver.errors import CloseReason
from gserver.metrics.prometheus_text import FAMILIES, as_prometheus_text
from gserver.metrics.readings import read
from tests.gserver.metrics.boards import add_worker, make_board

PAGE = Path(__file__).parents[3] / "docs/metrics.md"


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_family_is_in_the_text_in_this_order() -> None:
    text = as_prometheus_text(read(make_board(), Settings()))

    assert re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M) == [(family.full_name, family.kind) for family in FAMILIES]


def test_names_keep_the_conventions() -> None:
    names = [family.name for family in FAMILIES]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"gserver_[a-z_]+", name) for name in names)
    # promtool checks the rest.
    assert not any(re.search(r"_(ms|milliseconds|kb|percent|count)\b", name) for name in names)


def test_a_worker_is_named_by_its_slot_and_a_counter_by_no_worker() -> None:
    assert {family.name for family in FAMILIES if "worker" in family.labels and family.kind != "gauge"} == set()
    found = samples(as_prometheus_text(read(make_board(workers=3), Settings())))

    assert {labels for name, labels in found if name == "gserver_connections_open"} == {("0",), ("1",), ("2",)}


def test_every_close_reason_has_a_sample_from_the_start() -> None:
    board = make_board(workers=0)
    counters = Counters(add_worker(board, 11, opened=2).cells)
    counters.ended(CloseReason.IDLE_TIMEOUT)
    found = samples(as_prometheus_text(read(board, Settings())))

    closed = {labels[0]: value for (name, labels), value in found.items() if name == "gserver_connections_closed_total"}
    assert set(closed) == {reason.value for reason in CloseReason}
    assert closed["idle_timeout"] == sum(closed.values()) == 1


def test_calls_of_offload_are_counted_by_pool_and_their_failures_by_reason() -> None:
    board = make_board(workers=0)
    for pid in (11, 12):
        cells = add_worker(board, pid).cells
        cells[offload_cell("thread", "calls")] += 4
        cells[offload_cell("process", "calls")] += 2
        cells[offload_cell("process", "died")] += 1
    found = samples(as_prometheus_text(read(board, Settings())))

    assert found["gserver_offload_calls_total", ("thread",)] == 8
    assert found["gserver_offload_calls_total", ("process",)] == 4
    failures = {labels: value for (name, labels), value in found.items() if name == "gserver_offload_failures_total"}
    assert failures.pop(("process", "died")) == 2
    assert set(failures) == {
        ("thread", "refused"),
        ("thread", "timeouts"),
        ("process", "refused"),
        ("process", "timeouts"),
    }
    assert set(failures.values()) == {0}


def buckets_of(name: str, found: dict[tuple[str, tuple[str, ...]], float]) -> dict[float, float]:
    return {float(labels[0]): value for (each, labels), value in found.items() if each == f"{name}_bucket"}


def test_a_histogram_is_cumulative_and_has_its_sum() -> None:
    board = make_board(workers=1)
    for lag_s in (0.0, 0.0005, 0.0015, 0.3, 50.0):
        board.slot(0).lag_s = lag_s
    found = samples(as_prometheus_text(read(board, Settings())))

    buckets = buckets_of("gserver_event_loop_lag_seconds", found)
    assert (buckets[0.001], buckets[0.002], buckets[0.256], buckets[0.512], buckets[math.inf]) == (2, 3, 3, 4, 5)
    assert found["gserver_event_loop_lag_seconds_count", ()] == 5
    assert found["gserver_event_loop_lag_seconds_sum", ()] == pytest.approx(50.302)


def test_the_handler_times_are_those_of_all_workers_and_of_those_that_ended() -> None:
    board = make_board(workers=1)
    ended = add_worker(board, 99)
    for slot in (board.slot(0), ended):
        for nanoseconds in (1_000, 20_000, 40_000_000, 3_600_000_000_000):
            Counters(slot.cells).handler_took(nanoseconds)
    before = as_prometheus_text(read(board, Settings()))
    board.vacate(ended)
    found = samples(as_prometheus_text(read(board, Settings())))

    name = "gserver_handler_duration_seconds"
    assert buckets_of(name, found) == buckets_of(name, samples(before))
    buckets = buckets_of(name, found)
    assert len(buckets) == TIME_BUCKETS
    assert (buckets[16e-6], buckets[32e-6], buckets[64e-6], buckets[math.inf]) == (2, 4, 4, 8)
    assert found[f"{name}_count", ()] == 8
    assert found[f"{name}_sum", ()] == pytest.approx(7200.080_042)


def test_a_value_that_does_not_exist_is_absent() -> None:
    board = make_board(workers=1)
    absent = {
        "gserver_connections_limit",
        "gserver_last_reload_timestamp_seconds",
        "gserver_tls_certificate_not_after_timestamp_seconds",
    }
    assert not absent & {name for name, _ in samples(as_prometheus_text(read(board, Settings())))}

    board.server.reload_ended(True, 5.0)
    board.slot(0).certificate_not_after = 6.0
    found = samples(as_prometheus_text(read(board, Settings.checked({"max_connections": 70}))))

    assert found["gserver_connections_limit", ()] == 70
    assert found["gserver_last_reload_timestamp_seconds", ()] == 5
    assert found["gserver_tls_certificate_not_after_timestamp_seconds", ("0",)] == 6


def test_the_page_lists_every_metric_with_its_type_labels_and_help() -> None:
    rows = re.findall(r"^\| `(gserver_\w+)` \| (\w+) \| (.*?) \| (.*?) \|", PAGE.read_text("utf-8"), re.M)

    assert rows == [
        (family.full_name, family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for family in FAMILIES
    ]
