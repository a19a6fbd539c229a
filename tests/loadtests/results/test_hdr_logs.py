"""HdrHistogram logs, read back with HdrHistogram's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtests.cli import main
from loadtests.recording.histogram import HIGHEST_NS
from loadtests.recording.recording import Recording
from loadtests.results.hdr_logs import write_hdr_logs
from tests.helpers.loadtests_reports import make_evidence, save_evidence

S = 10**9


def read(path: Path) -> list[tuple[float, float, HdrHistogram]]:
    """(start in ms, end in ms, histogram) of each interval."""
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


# loadtests report RUN --hdr DIR


def test_report_writes_the_latencies_of_a_run_as_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = make_evidence()
    run = save_evidence(tmp_path / "run", evidence)

    assert main(["report", str(run), "--json", "--hdr", str(tmp_path / "new" / "logs")]) == 0
    capsys.readouterr()
    (series,) = evidence.recording.exchange_series()
    intervals = read(tmp_path / "new" / "logs" / f"{series}.service.hlog")
    counts = [cell.service.all.total for cell in evidence.recording.cells[series].values() if cell.service.all.total]
    assert [histogram.get_total_count() for _, _, histogram in intervals] == counts


def test_the_logs_of_several_runs_are_in_a_folder_for_each(tmp_path: Path) -> None:
    runs = [save_evidence(tmp_path / name, make_evidence()) for name in "ab"]

    assert main(["report", *map(str, runs), "--json", "--hdr", str(tmp_path / "logs")]) == 0
    names = [sorted(path.name for path in (tmp_path / "logs" / name).iterdir()) for name in "ab"]
    assert names[0] == names[1] != []


def test_the_logs_of_runs_with_one_folder_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    runs = [save_evidence(tmp_path / host / "run", make_evidence()) for host in "ab"]

    assert main(["report", *map(str, runs), "--json", "--hdr", str(tmp_path / "logs")]) == 0
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["run", "run-2"]


def test_what_keeps_the_logs_from_being_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_evidence(tmp_path / "run", make_evidence())
    (tmp_path / "file").write_text("")

    assert main(["report", str(run), "--json", "--hdr", str(tmp_path / "file")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line
    (run / "client.json").unlink()
    assert main(["report", str(run), "--json", "--hdr", str(tmp_path / "logs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the swarm left no recording (there is no client.json)")
