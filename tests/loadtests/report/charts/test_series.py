"""The data of the charts of a run."""

from __future__ import annotations

import dataclasses

import pytest

from loadtests.report.charts import series
from loadtests.report.run_data import Clock, evidence_of
from tests.helpers.loadtests_reports import PHASES, SECONDS, START, make_evidence, make_recording, make_samples
from tests.helpers.loadtests_runs import make_run
from tests.helpers.plateaus import MIB, on_plateaus


def test_time_begins_with_the_first_phase_or_else_with_the_first_second() -> None:
    assert (make_evidence().start, make_evidence().end) == (START, START + SECONDS)
    bare = evidence_of(make_run(phases={}), make_recording(), [])
    assert (bare.start, bare.end) == (START, START + SECONDS)
    assert bare.measured is None


@pytest.mark.parametrize(("length", "steps", "step"), [(20, 180, 1), (360, 180, 2), (361, 180, 3), (0, 180, 1)])
def test_a_clock_has_whole_seconds_and_no_more_steps_than_asked_for(length: int, steps: int, step: int) -> None:
    clock = Clock.over(START, START + length, steps)

    assert clock.step == step
    assert len(list(clock.steps())) <= steps
    assert sum(end - start for start, end in clock.steps()) == length


def test_each_nine_is_as_far_from_the_last() -> None:
    assert [series.nines(quantile) for quantile in (0, 90, 99, 99.9)] == [0, 1, 2, 3]


def test_quantiles_are_those_of_the_measured_phase() -> None:
    evidence = make_evidence()
    cell = evidence.recording.total(["SUM"], *PHASES["measure"])
    row = next(row for row in series.quantile_rows(evidence) if row["nines"] == 2)

    assert row["service"] == pytest.approx(cell.service.measured.percentiles([99])[99] / 1000, rel=1e-3)
    assert row["response"] == pytest.approx(cell.response.measured.percentiles([99])[99] / 1000, rel=1e-3)
    assert row["slower"] == cell.service.measured.total // 100


def test_quantiles_of_a_run_without_a_schedule_have_no_response() -> None:
    assert all("response" not in row for row in series.quantile_rows(make_evidence(response=False)))


def test_a_heatmap_counts_every_exchange_once() -> None:
    evidence = make_evidence()
    cells = series.heat_rows(evidence, evidence.clock(7))

    assert sum(cell["count"] for cell in cells) == 300 * SECONDS
    assert len({cell["t"] for cell in cells}) == 7
    assert all(cell["low"] < cell["high"] for cell in cells)


def test_rates_are_a_second_whatever_the_step() -> None:
    evidence = make_evidence()
    for steps in (20, 5):
        found = series.load_rows(evidence, evidence.clock(steps))
        assert {row["exchanges"] for row in found} == {300}
        assert sum(row["failed"] for row in found) * 20 / steps == 1
        assert max(row["sockets"] for row in found) == 200


def test_each_process_has_its_own_use() -> None:
    evidence = make_evidence()
    last = series.process_rows(evidence, evidence.clock(20))[-1]

    assert list(series.process_names(evidence).values()) == ["main process", "child 1", "child 2"]
    assert (last["cpu child 1"], last["cpu child 2"]) == pytest.approx((6, 7), rel=0.01)
    assert last["rss child 1"] > last["rss main process"]


def test_a_worker_that_is_replaced_starts_at_nothing() -> None:
    samples = make_samples()
    for sample in samples[30:]:
        sample["processes"][2] = {**sample["processes"][2], "pid": 999, "cpu_user_s": 0.01, "cpu_system_s": 0.0}
    evidence = evidence_of(make_run(phases=PHASES), make_recording(), samples)
    found = series.process_rows(evidence, evidence.clock(20))

    assert all(value >= 0 for row in found for value in row.values())
    assert any("cpu child 3" in row and "cpu child 2" not in row for row in found)


def test_memory_is_set_against_the_sockets_of_that_second() -> None:
    found = series.memory_rows(make_evidence())

    assert found[0]["sockets"] == 0
    assert {row["sockets"] for row in found} == {0, 100, 200}


def test_the_line_goes_through_the_plateaus_with_the_slope_of_the_run() -> None:
    recording, samples = on_plateaus(dict.fromkeys((100, 1000, 4000), 20.0 * MIB), each=640)
    evidence = evidence_of(make_run(phases={}), recording, samples)
    plateaus = series.plateau_rows(evidence)
    ends = series.fitted_rows(evidence, plateaus)

    assert [row["sockets"] for row in plateaus] == [100, 1000, 4000]
    assert {row["sockets"] for row in series.plateau_readings(evidence)} == {100, 1000, 4000}
    slope_kib = 1024 * (ends[1]["rss"] - ends[0]["rss"]) / 3900
    assert slope_kib == pytest.approx(0.625, rel=0.01)
    for row in (*ends, *plateaus):
        assert row["rss"] == pytest.approx(20 + row["sockets"] * 640 / MIB, abs=1e-3)


def test_a_run_without_the_figure_has_no_line() -> None:
    bare = make_evidence(make_run(figures=[], phases=PHASES))

    assert series.fitted_rows(bare, series.plateau_rows(bare)) == []


def test_overflows_are_what_was_added_in_each_step() -> None:
    evidence = make_evidence()
    found = series.overflow_rows(evidence, evidence.clock(20))

    assert sum(row["overflows"] for row in found) == 3
    without = dataclasses.replace(evidence, samples=[{**each, "kernel": {}} for each in evidence.samples])
    assert series.overflow_rows(without, without.clock(20)) == []


def test_connecting_is_shown_as_far_as_it_goes() -> None:
    evidence = make_evidence()

    assert series.connecting(evidence, evidence.clock(20)).length == series.SHORTEST_S
    assert sum(row["connects"] for row in series.connect_rows(evidence, evidence.clock(20))) == 200


def test_the_generator_is_all_of_its_processes() -> None:
    evidence = make_evidence()
    evidence.recording.health["host-2"] = evidence.recording.health["host-1"]
    found = series.generator_rows(evidence, evidence.clock(20))

    assert "cpu" not in found[0]
    assert {row["cpu"] for row in found[1:]} == {80}
    assert max(row["lag"] for row in found) == 3
    assert sum(row["late"] for row in found) == 8


def test_a_phase_beyond_the_clock_is_left_out() -> None:
    evidence = make_evidence()
    clock = Clock(START, START + 4, 1)

    assert [row["phase"] for row in series.phase_rows(evidence, clock)] == ["ramp", "warmup"]
    assert series.phase_rows(evidence, clock)[-1]["t_end"] == 4
