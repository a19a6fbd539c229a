"""The verdict on a run: each doubt is found by its figure, and nothing else is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadtests.figures import Window
from loadtests.recording import CUT_OFF, Recording
from loadtests.verdict import Evidence, judge

S, MS = 10**9, 10**6
WINDOW = Window(102, 112)


def make_recording() -> Recording:
    """20 sockets, 100 exchanges in each of the ten seconds that are measured; a generator at a fifth of a core."""
    recording = Recording()
    for _ in range(20):
        recording.succeeded("connect", 100 * S, MS)
    for second in range(WINDOW.start, WINDOW.end):
        for _ in range(100):
            recording.succeeded("SUM", second * S, MS, MS)
    recording.health["a"] = {
        second: {"sockets": 20, "cpu_s": 0.2 * second, "lag_ns": MS, "late_sends": 1}
        for second in range(100, WINDOW.end + 1)
    }
    return recording


def make_samples(**changes: float) -> list[dict[str, Any]]:
    """A quiet host of two cores: all that is used is the server's and the generator's."""
    return [sample_at(99 + quarter / 4, **changes) for quarter in range(15 * 4)]


def sample_at(time_s: float, noise: float = 0.0, steal: float = 0.0) -> dict[str, Any]:
    done = round(min(max(time_s - WINDOW.start, 0), 10) * 100)
    return {
        "time_s": time_s,
        "processes": [{"pid": 1, "cpu_user_s": 0.3 * time_s, "cpu_system_s": 0.0}],
        "generator": [{"pid": 2, "cpu_user_s": 0.2 * time_s, "cpu_system_s": 0.0}],
        "kernel": {"busy_s": (0.51 + noise) * time_s, "steal_s": steal * time_s},
        "sampler": {"cpu_s": 0.01 * time_s},
        "server": {"accepted": 0 if time_s < 100 else 20, "messages": done, "received_bytes": 40 * done},
    }


def make_evidence(**changes: Any) -> Evidence:
    evidence = Evidence(make_recording(), make_samples(), WINDOW, 10, 20, generator_cores=1, cores=2)
    return dataclasses.replace(evidence, **changes)


def test_a_run_that_nothing_speaks_against_is_valid() -> None:
    assert judge(make_evidence()).state == "valid"
    assert judge(make_evidence()).reasons == []


def test_without_samples_what_the_clients_say_must_do() -> None:
    assert judge(make_evidence(samples=[])).state == "valid"


def loaded(**values: float) -> Recording:
    """Every second's health with other values."""
    recording = make_recording()
    for second, health in recording.health["a"].items():
        health |= {name: value * second if name == "cpu_s" else value for name, value in values.items()}
    return recording


def interrupted() -> Recording:
    recording = make_recording()
    recording.reports = {"w": {"recorded": 7, "merged": 5, "final": True}}
    return recording


def bereft() -> Recording:
    recording = make_recording()
    recording.reports = {"h-1": {"recorded": 7, "merged": 7, "final": False, "left_s": 103}}
    return recording


def idle() -> Recording:
    recording = make_recording()
    recording.cells = {"connect": recording.cells["connect"]}
    return recording


@pytest.mark.parametrize(
    ("changes", "state", "says"),
    [
        ({"accidents": ["The server died."]}, "incomplete", "The server died."),
        ({"planned_s": 20}, "incomplete", "It was measured for 10 of 20 s."),
        ({"window": Window(0, 0)}, "incomplete", "It was measured for 0 of 10 s."),
        ({"sockets": 100}, "incomplete", "At most 20 of 100 sockets were open while it was measured."),
        ({"recording": idle()}, "incomplete", "Not one exchange succeeded while it was measured."),
        ({"samples": make_samples()[:30]}, "incomplete", "The samples of the server end 6 s before the measuring did."),
        ({"recording": bereft()}, "incomplete", "Worker process 1 on host h was lost 1 s into the measured phase; its"),
        ({"recording": interrupted()}, "unreconciled", "Worker w recorded 7 outcomes, and 5 arrived."),
        ({"recording": loaded(cpu_s=0.9)}, "generator-bound", "used 90% of a core, more than 85%."),
        ({"recording": loaded(lag_ns=30 * MS)}, "generator-bound", "was 30 ms late or more in more than a"),
        ({"recording": loaded(late_sends=5)}, "generator-bound", "5.0% of the sends were late by more than a"),
        ({"samples": make_samples(noise=0.3)}, "noisy-host", "Other processes used 15% of the cores, more than 10%."),
        ({"samples": make_samples(steal=0.1)}, "noisy-host", "5.0% of the host's time was stolen by its hypervisor"),
    ],
)
def test_each_doubt_has_its_state_and_its_figure(changes: dict[str, Any], state: str, says: str) -> None:
    verdict = judge(make_evidence(**changes))

    assert verdict.state == state
    assert any(says in reason for reason in verdict.reasons), verdict.reasons


def test_of_several_doubts_the_gravest_is_the_verdict_and_all_are_kept() -> None:
    verdict = judge(
        make_evidence(recording=loaded(cpu_s=0.9), samples=make_samples(noise=0.3), accidents=["It was interrupted."])
    )

    assert verdict.state == "incomplete"
    assert len(verdict.reasons) == 3


def test_processes_that_share_a_core_are_bound_together() -> None:
    recording = loaded(cpu_s=0.45, late_sends=0)
    recording.health["b"] = recording.health["a"]

    assert "together used 90% of its 1 cores" in judge(make_evidence(recording=recording)).reasons[0]
    assert judge(make_evidence(recording=recording, generator_cores=2)).state == "valid"


def test_one_late_second_is_an_accident() -> None:
    recording = make_recording()
    recording.health["a"][105]["lag_ns"] = 500 * MS

    assert judge(make_evidence(recording=recording)).state == "valid"


def counted(**changes: int) -> list[dict[str, Any]]:
    samples = make_samples()
    samples[-1]["server"] |= changes
    return samples


@pytest.mark.parametrize("messages", [999, 1004])
def test_what_the_server_has_not_seen_or_nobody_has_sent_is_found(messages: int) -> None:
    """1,000 succeeded; two failed and one was cut off, which the server may have seen or not."""
    recording = make_recording()
    for outcome in ("reset", "timeout", CUT_OFF):
        recording.ended("SUM", 105 * S, outcome)
    verdict = judge(make_evidence(recording=recording, samples=counted(messages=messages)))

    assert verdict.state == "unreconciled"
    assert verdict.reasons == [f"The server counted {messages:,} messages, the swarm 1,000 to 1,003."]
    assert judge(make_evidence(recording=recording, samples=counted(messages=1002))).state == "valid"


def test_a_connection_too_many_is_found() -> None:
    verdict = judge(make_evidence(samples=counted(accepted=21)))

    assert verdict.reasons == ["The server counted 21 connections, the swarm 20."]


@pytest.mark.parametrize(("received_bytes", "state"), [(64_000, "valid"), (64_007, "valid"), (64_128, "unreconciled")])
def test_without_framing_bytes_are_counted(received_bytes: int, state: str) -> None:
    """A server that knows no messages counts what it happens to receive at once; 7 bytes may be the probe's."""
    samples = counted(received_bytes=received_bytes, messages=3)

    assert judge(make_evidence(samples=samples, message_bytes=64)).state == state


def test_messages_of_a_protocol_that_nobody_knows_are_not_counted() -> None:
    assert judge(make_evidence(samples=counted(messages=3), message_bytes=None)).state == "valid"


def test_a_server_that_counts_nothing_is_not_asked() -> None:
    samples = make_samples()
    for sample in samples:
        del sample["server"]

    assert judge(make_evidence(samples=samples)).state == "valid"
