"""Recordings as HdrHistogram's own logs, read by its own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtests.recording.histogram import HIGHEST_NS
from loadtests.recording.recording import Recording
from loadtests.results.hdr_logs import write_hdr_logs

S = 10**9


def read(path: Path) -> list[tuple[float, float, HdrHistogram]]:
    """What HdrHistogram's reader finds: start and end in milliseconds, and the histogram."""
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    found = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found.append((histogram.get_start_time_stamp(), histogram.get_end_time_stamp(), histogram))
    return found


@pytest.fixture
def recording() -> Recording:
    recording = Recording()
    for second in (7000, 7001, 7003):
        for number in range(1, 101):
            recording.succeeded("SUM", second * S + number, number * 100_000 + second, number * 200_000)
    recording.succeeded("connect", 6999 * S, 70_000)
    recording.failed("get /a b", 7000 * S, "reset")
    return recording


def test_hdrhistograms_reader_finds_every_second_and_every_count(recording: Recording, tmp_path: Path) -> None:
    write_hdr_logs(recording, tmp_path)
    for kind in ("service", "response"):
        intervals = read(tmp_path / f"SUM.{kind}.hlog")

        assert [(start, end) for start, end, _ in intervals] == [(1000, 2000), (2000, 3000), (4000, 5000)]
        for second, (_, _, histogram) in zip((7000, 7001, 7003), intervals, strict=True):
            ours = getattr(recording.cells["SUM"][second], kind).all
            assert histogram.get_total_count() == 100
            for quantile, value in ours.percentiles([1, 50, 99, 100]).items():
                assert histogram.get_value_at_percentile(quantile) == value


def test_there_is_a_log_for_each_series_and_latency_that_has_any(recording: Recording, tmp_path: Path) -> None:
    recording.succeeded("get /a b", 7000 * S, 1000)
    written = write_hdr_logs(recording, tmp_path / "logs")

    assert sorted(path.name for path in written) == [
        "SUM.response.hlog",
        "SUM.service.hlog",
        "connect.service.hlog",
        "get %2Fa b.service.hlog",
    ]
    assert sorted(written) == sorted((tmp_path / "logs").iterdir())


def test_the_logs_of_an_empty_recording_are_none(tmp_path: Path) -> None:
    assert write_hdr_logs(Recording(), tmp_path) == []
