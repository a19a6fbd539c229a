"""The verdict on a run: each doubt is found by its figure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadtests.recording.recording import CUT_OFF, NEVER_SENT, TASK, UNSENT, Recording
from loadtests.results.metrics import Window
from loadtests.results.validity import Evidence, judge

S, MS = 10**9, 10**6
WINDOW = Window(102, 112)


def make_recording() -> Recording:
    """20 sockets, 100 exchanges in each of the ten seconds that are measured; a generator at a fifth of a core."""
    recording = Recording()
    for _ in range(20):
        recording.succeeded("connect", 100 * S + 500 * MS, MS)
    for second in range(WINDOW.start, WINDOW.end):
        for _ in range(100):
            recording.succeeded("SUM", second * S + 500 * MS, MS, MS)
    recording.health["a"] = {
        second: {"sockets": 20, "cpu_s": 0.2 * second, "lag_ns": MS, "users": 20, "ticks": 100, "late_sends": 1}
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


def test_a_run_without_doubts_is_valid() -> None:
    assert judge(make_evidence()).state == "valid"
    assert judge(make_evidence()).reasons == []


def test_without_samples_the_recording_decides() -> None:
    assert judge(make_evidence(samples=[])).state == "valid"


def loaded(**values: float) -> Recording:
    """Every second's health with other values."""
    recording = make_recording()
    for second, health in recording.health["a"].items():
        health |= {name: value * second if name == "cpu_s" else value for name, value in values.items()}
    return recording


def waiting(share: float) -> Recording:
    """Late event loops in a process that waits for a CPU for this share of the time."""
    recording = loaded(lag_ns=30 * MS)
    for second, health in recording.health["a"].items():
        health["waited_s"] = share * second
    return recording


def raising() -> Recording:
    recording = make_recording()
    for _ in range(3):
        recording.failed(TASK, 105 * S, "KeyError", "'name'")
    return recording


def limited() -> Recording:
    recording = make_recording()
    recording.failed("connect", 100 * S, "own_descriptors", "Too many open files")
    return recording


def interrupted() -> Recording:
    recording = make_recording()
    recording.reports = {"box-12": {"recorded": 7, "merged": 5, "final": True}}
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
        ({"planned_s": 20}, "incomplete", "The measured phase lasted 10 of 20 s."),
        ({"window": Window(0, 0)}, "incomplete", "The measured phase lasted 0 of 10 s."),
        ({"recording": loaded(users=13)}, "incomplete", "Fewer than 20 users ran in 8 of 10 measured seconds: 13 at"),
        ({"recording": raising()}, "incomplete", "The code of the users raised KeyError 3 times: 'name'."),
        ({"recording": limited()}, "incomplete", "1 connects failed because the generator's host had no file"),
        ({"recording": idle()}, "incomplete", "No exchange succeeded in the measured phase."),
        (
            {"samples": make_samples()[:30]},
            "incomplete",
            "The samples of the server end 6 s before the measured phase.",
        ),
        ({"recording": bereft()}, "incomplete", "Worker process 1 on host h was lost 1 s into the measured phase; its"),
        (
            {"recording": interrupted()},
            "unreconciled",
            "Worker process 12 on host box recorded 7 outcomes, and 5 arrived.",
        ),
        ({"recording": loaded(cpu_s=0.9)}, "generator-bound", "used 90% of a core, more than 85%."),
        ({"recording": loaded(lag_ns=30 * MS)}, "noisy-host", "was 30 ms late or more in over 10% of"),
        ({"recording": loaded(late_sends=5)}, "noisy-host", "5.0% of the sends were more than 1 ms late, by"),
        ({"recording": loaded(cpu_s=0.9, late_sends=5)}, "generator-bound", "5.0% of the sends were more than 1 ms"),
        ({"recording": waiting(0.03)}, "noisy-host", "was 30 ms late or more in over 10% of"),
        ({"recording": waiting(0.001)}, "generator-bound", "code of the users blocks the event loop."),
        ({"samples": make_samples(noise=0.3)}, "noisy-host", "Other processes used 15% of the cores, more than 10%."),
        ({"samples": make_samples(steal=0.1)}, "noisy-host", "5.0% of the host's time was stolen by its hypervisor"),
    ],
)
def test_each_doubt_has_its_state_and_its_figure(changes: dict[str, Any], state: str, says: str) -> None:
    verdict = judge(make_evidence(**changes))

    assert verdict.state == state
    assert any(says in reason for reason in verdict.reasons), verdict.reasons


def away() -> Recording:
    """No socket for three seconds, and all of them opened again."""
    recording = make_recording()
    for second in (105, 106, 107):
        recording.health["a"][second]["sockets"] = 0
        del recording.cells["SUM"][second]
    for _ in range(20):
        recording.failed("connect", 106 * S, "refused")
        recording.succeeded("connect", 108 * S, MS)
    return recording


def cut_short() -> Recording:
    recording = make_recording()
    recording.outstanding("SUM", 118 * S, CUT_OFF, 7 * S, 8 * S)
    return recording


@pytest.mark.parametrize(
    ("changes", "shortfalls"),
    [
        (
            {"recording": away(), "samples": []},
            [
                "Fewer than 20 connections were open in 3 of 10 measured seconds: 0 at the least.",
                "20 connections were lost and opened again in the measured phase.",
                "70 exchanges succeeded a second; the offered load was 100.",
                "No exchange succeeded in 3 of 10 measured seconds.",
            ],
        ),
        ({"offered": 150.0}, ["100 exchanges succeeded a second; the offered load was 150."]),
        ({"offered": 150.0, "per_task": True}, ["100 tasks were begun a second; the offered load was 150."]),
        ({"offered": 103.0}, []),
        (
            {"recording": cut_short()},
            ["1 request that was due in the measured phase had no reply at the end, after up to 8.0 s."],
        ),
    ],
)
def test_shortfalls_of_the_server_leave_the_run_valid(changes: dict[str, Any], shortfalls: list[str]) -> None:
    verdict = judge(make_evidence(**{"offered": 100.0, **changes}))

    assert verdict.state == "valid"
    assert verdict.shortfalls == verdict.reasons == shortfalls
    assert verdict.doubts == []


def test_a_few_users_may_miss_a_tick_each_by_chance() -> None:
    assert judge(make_evidence(offered=101.0, sockets=20)).shortfalls == []
    assert judge(make_evidence(offered=100.6, sockets=1)).shortfalls == []


def test_late_sends_are_reported_with_their_delay() -> None:
    recording = loaded(late_sends=5, late_ns=20 * MS, latest_ns=9 * MS)

    (reason,) = judge(make_evidence(recording=recording, samples=[])).reasons
    assert reason.startswith("5.0% of the sends were more than 1 ms late, by 4 ms on average and 9 ms at worst. Their")


def silent(per_second: int) -> Recording:
    """A closed loop with three seconds without a success."""
    recording = make_recording()
    recording.cells["SUM"] = {}
    for second in range(WINDOW.start, WINDOW.end):
        for _ in range(0 if second in (104, 105, 110) else per_second):
            recording.succeeded("SUM", second * S + 500 * MS, MS)
    return recording


def test_seconds_without_a_success_are_a_shortfall_also_without_a_schedule() -> None:
    verdict = judge(make_evidence(recording=silent(100), samples=[]))

    assert verdict.shortfalls == ["No exchange succeeded in 3 of 10 measured seconds."]
    assert judge(make_evidence(recording=silent(2), samples=[])).shortfalls == []


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
def test_a_difference_between_the_counts_of_server_and_swarm_is_found(messages: int) -> None:
    """1,000 succeeded; two failed and one was cut off, which the server may have seen or not."""
    recording = make_recording()
    for outcome in ("reset", "timeout"):
        recording.failed("SUM", 105 * S, outcome)
    recording.outstanding("SUM", 105 * S, CUT_OFF)
    recording.outstanding(NEVER_SENT, 105 * S, UNSENT)
    verdict = judge(make_evidence(recording=recording, samples=counted(messages=messages)))

    assert verdict.state == "unreconciled"
    assert verdict.reasons == [f"The server counted {messages:,} messages, the swarm 1,000 to 1,003."]
    assert judge(make_evidence(recording=recording, samples=counted(messages=1002))).state == "valid"


def test_a_connection_too_many_is_found() -> None:
    verdict = judge(make_evidence(samples=counted(accepted=21)))

    assert verdict.reasons == ["The server counted 21 connections, the swarm 20."]


@pytest.mark.parametrize(("received_bytes", "state"), [(64_000, "valid"), (64_007, "valid"), (64_128, "unreconciled")])
def test_without_framing_bytes_are_counted(received_bytes: int, state: str) -> None:
    """A server without framing counts whatever arrives at once; 7 bytes may be from the readiness probe."""
    samples = counted(received_bytes=received_bytes, messages=3)

    assert judge(make_evidence(samples=samples, message_bytes=64)).state == state


def test_messages_of_an_unknown_protocol_are_not_compared() -> None:
    assert judge(make_evidence(samples=counted(messages=3), message_bytes=None)).state == "valid"


def test_a_server_without_counters_is_not_compared() -> None:
    samples = make_samples()
    for sample in samples:
        del sample["server"]

    assert judge(make_evidence(samples=samples)).state == "valid"
