"""Recordings: counting, merging, and their JSON."""

from __future__ import annotations

import json

import msgspec
import pytest

from loadtests.recording.recording import CUT_OFF, NEVER_SENT, OK, PHASES, TASK, UNSENT, Recording, failures

S = 10**9


def make_recording() -> Recording:
    recording = Recording()
    recording.succeeded("connect", 9 * S + S // 2, 1_000_000)
    for second in (10, 10, 11):
        recording.succeeded("SUM", second * S + S // 2, 200_000 + second, 300_000 + second)
    recording.failed("SUM", 11 * S, "reset")
    recording.outstanding("SUM", 12 * S, CUT_OFF)
    recording.health["a"] = {10: {"sockets": 3, "cpu_s": 0.5, "lag_ns": 9}}
    return recording


def test_failures_and_cut_off_exchanges_are_in_no_latency() -> None:
    total = make_recording().total(["SUM"])

    assert total.outcomes == {OK: 3, "reset": 1, CUT_OFF: 1}
    assert total.service.measured.total == 3


def test_everything_belongs_to_the_second_in_which_it_was_due_or_began() -> None:
    recording = Recording()
    recording.succeeded("SUM", 15 * S, S // 2, 4 * S + 1)
    recording.succeeded("connect", 15 * S, S // 2)
    recording.outstanding("SUM", 15 * S, CUT_OFF, 2 * S, 3 * S)

    assert recording.total(["SUM"], 10, 11).outcomes == {OK: 1}
    assert recording.total(["SUM"], 12, 13).outcomes == {CUT_OFF: 1}
    assert recording.total(["connect"], 14, 15).outcomes == {OK: 1}
    assert recording.total(["SUM"], 15, 16).done == recording.total(["SUM"]).done == 1


def test_outstanding_exchanges_are_in_the_latencies_with_the_time_that_they_waited() -> None:
    recording = Recording()
    recording.succeeded("SUM", S + 2000, 1000, 2000)
    recording.outstanding("SUM", 5 * S, CUT_OFF, 2 * S, 3 * S)
    recording.outstanding(NEVER_SENT, 5 * S, UNSENT, None, 4 * S)
    total = recording.total()

    assert total.service.all.total == 2
    assert total.response.all.total == 3
    assert total.response.is_lower_bound(3 * S)
    assert not total.response.is_lower_bound(2000)
    assert failures(total.outcomes) == 0


def test_the_first_text_of_each_class_of_failure_is_kept() -> None:
    master = Recording()
    for text in ("first", "second"):
        worker = Recording()
        worker.failed("SUM", S, "mismatch", text)
        master.merge(msgspec.msgpack.decode(msgspec.msgpack.encode(worker.take()), strict=False))

    assert Recording.from_json(master.to_json()).examples == {"SUM: mismatch": "first"}


def test_a_recording_by_the_end_of_exchanges_is_read() -> None:
    """That is schema 2."""
    kept = make_recording().to_json()
    for cell in kept["cells"]["SUM"].values():
        del cell["done"]
    del kept["examples"]

    assert Recording.from_json(kept).total(["SUM"]).done == 3


def test_scheduled_exchanges_have_a_response_time_and_phases_have_none() -> None:
    recording = make_recording()

    assert recording.total(["SUM"]).response.measured.percentiles([100]) == pytest.approx({100: 300_011}, rel=0.001)
    assert recording.total(["connect"]).response.measured.counts == {}


def test_every_series_is_a_phase_or_a_type_of_exchange() -> None:
    recording = make_recording()
    for phase in PHASES:
        recording.succeeded(phase, S, 1)
    recording.failed(TASK, S, "KeyError")

    assert recording.exchange_series() == ["SUM"]


def test_a_total_holds_its_seconds_and_no_others() -> None:
    recording = make_recording()

    assert recording.total(["SUM"], 10, 11).outcomes == {OK: 2}
    assert recording.total(["SUM"], 11).outcomes == {OK: 1, "reset": 1, CUT_OFF: 1}
    assert recording.total().outcomes[OK] == 4
    assert recording.total(["nothing"]).outcomes == {}


def test_reports_of_processes_merge_exactly() -> None:
    """Through msgpack, as Locust sends it."""
    master = Recording()
    for process in ("a", "b"):
        worker = make_recording()
        worker.health = {process: {10: {"sockets": 3, "cpu_s": 0.5, "lag_ns": 9}}}
        master.merge(msgspec.msgpack.decode(msgspec.msgpack.encode(worker.take()), strict=False))

        assert worker.cells == {}

    assert master.total(["SUM"]).outcomes == {OK: 6, "reset": 2, CUT_OFF: 2}
    once, merged = make_recording().total(["SUM"]), master.total(["SUM"])
    for latency in ("service", "response"):
        counts = getattr(once, latency).measured.counts
        assert getattr(merged, latency).measured.counts == {bucket: 2 * count for bucket, count in counts.items()}
    assert master.sockets() == {10: 6}


def test_a_process_without_figures_for_a_second_counts_as_before() -> None:
    recording = Recording()
    recording.health = {
        "a": {1: {"sockets": 5}, 2: {"sockets": 6}, 4: {"sockets": 7}},
        "b": {2: {"sockets": 10}},
    }

    assert recording.sockets() == {1: 5, 2: 16, 3: 16, 4: 17}
    assert Recording().sockets() == {}


def test_a_worker_that_left_has_no_sockets_until_it_is_back() -> None:
    recording = Recording()
    recording.health = {"a": {1: {"sockets": 5}, 4: {"sockets": 7}}, "b": {1: {"sockets": 10}}}
    recording.left("b", 2)

    assert recording.has_left("b")
    assert recording.sockets() == {1: 15, 2: 15, 3: 5, 4: 7}

    recording.returned("b")

    assert recording.sockets() == {1: 15, 2: 15, 3: 15, 4: 17}


@pytest.mark.parametrize(
    ("final", "left_s", "says"),
    [
        (True, None, []),
        (True, 20, []),
        (True, 12, ["worker process 7 on host web-1 ended 2 s into the measured phase"]),
        (True, 9, ["worker process 7 on host web-1 ended before the measured phase"]),
        (False, 19, ["was lost 9 s into the measured phase; its last report is missing, 5 outcomes arrived"]),
        (False, 20, ["was lost after the measured phase; its last report is missing, 5 outcomes arrived"]),
        (False, None, ["was lost; its last report is missing, 5 outcomes arrived"]),
    ],
)
def test_a_worker_that_was_lost_is_named_with_the_time(final: bool, left_s: int | None, says: list[str]) -> None:
    """Seconds 10 to 19 were measured; a worker that has reported everything may leave after them."""
    recording = Recording()
    recording.reports = {"web-1-7": {"recorded": 5, "merged": 5, "final": final}}
    if left_s is not None:
        recording.left("web-1-7", left_s)
    lost = recording.lost(10, 20)

    assert len(lost) == len(says)
    assert all(sentence.endswith(words) for sentence, words in zip(lost, says, strict=True))
    assert recording.missing() == []


def test_two_workers_with_one_name_are_kept_apart() -> None:
    """Hosts may have the same name, and processes the same pid."""
    master = Recording()
    for name in ("web-7", "web-7#2"):
        worker = Recording()
        worker.health = {"web-7": {1: {"sockets": 5}}}
        worker.failed("SUM", S, "reset")
        master.merge_report(worker.report("web-7", 1, True), name)

    assert master.sockets() == {1: 10}
    assert master.missing() == []
    assert set(master.reports) == {"web-7", "web-7#2"}


def test_the_json_has_everything_that_was_recorded() -> None:
    recording = make_recording()
    kept = Recording.from_json(json.loads(json.dumps(recording.to_json())))

    assert kept.to_json() == recording.to_json()
    assert kept.total().outcomes == recording.total().outcomes
    assert kept.total().service.measured.counts == recording.total().service.measured.counts
    assert kept.total().response.measured.counts == recording.total().response.measured.counts
    assert kept.sockets() == recording.sockets()


def test_the_outcomes_so_far_are_those_of_the_total() -> None:
    recording = Recording()
    for second in range(3):
        recording.succeeded("SUM", second * 10**9, 1000)
        recording.failed("connect", second * 10**9, "refused")

    assert recording.outcomes() == recording.total().outcomes == {"ok": 3, "refused": 3}


def test_the_demanded_rate_is_the_sum_over_all_processes() -> None:
    recording = Recording()
    recording.health = {
        "a": {second: {"asked_per_s": 20.0} for second in range(10)},
        "b": {second: {"asked_per_s": 5.0 if second > 3 else 0.0} for second in range(10)},
    }

    assert recording.asked_per_s(2, 6) == 22.5
    assert recording.asked_per_s(20, 30) is None
    assert Recording().asked_per_s(0, 9) is None
