"""The verdict on a run: whether its figures can be believed, and what the server did not do. Pure.

    incomplete        the run did less than planned, or part of its data was lost
    unreconciled      the clients' counts differ from those of the server, or from their own reports
    generator-bound   the load generator was too slow and added delay
    noisy-host        other work on the host delayed the server or the generator
    valid             none of these

If several apply, the first in this order is the verdict; all reasons are kept. A server that was away, or did less than
requested, is no fault of the measurement: that is a shortfall, and the figures are still valid. The limits are the
constants below, each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtests.formatting import distinct_from, number, quantity
from loadtests.host.kernel_counters import noise
from loadtests.recording.recording import CUT_OFF, OK, TASK, Recording, failures
from loadtests.results.metrics import Sample, Window, held

__all__ = ["VALID", "Evidence", "State", "Verdict", "judge"]

State = Literal["valid", "generator-bound", "noisy-host", "unreconciled", "incomplete"]
VALID: State = "valid"

# CPU use of a generator process, of one core. At a use of u each piece of work waits for u / (1 - u) others: here six.
BUSY_PERCENT = 85.0
# Event loop lag that is visible in a latency, and the share of the seconds with it that is more than an accident.
LAG_MS = 20.0
LAGGING_SHARE = 0.1
# Sends that were more than 1 ms late although their user was free. From 1% on, p99 consists of them.
LATE_PERCENT = 1.0
# If waiting for a CPU explains at least this share of the event loop lag, the host is the cause.
EXPLAINED_SHARE = 0.5
# CPU use of all cores by processes that do not belong to the run; and by other virtual machines (steal).
OTHERS_PERCENT = 10.0
STEAL_PERCENT = 2.0
# With less than this share of the users it is another workload. With fewer connections the server has a shortfall.
ENOUGH_SOCKETS = 0.99
# Less than this share of the offered load is a shortfall. By chance each user may miss a tick at the ends of the
# window.
ENOUGH_LOAD = 0.95
CHANCE_TICKS = 1.5
# From this rate on (exchanges a second), a second without an exchange is not chance.
STEADY_PER_S = 10.0
# If the samples end this long before the measured phase, the figures of the server lack its end.
BLIND_S = 2.0
# Bytes that a readiness probe just before the first sample may have sent without being counted yet.
SLACK_BYTES = 100


@dataclass(frozen=True)
class Verdict:
    """Whether the figures of a run can be believed, and whether the server did what was requested.

    Attributes:
        state: VALID if the figures can be believed, else why not.
        reasons: a sentence, with its figure, for each reason for doubt; then all shortfalls.
        shortfalls: the reasons about what the server did not do. They do not make the figures less valid.
    """

    state: State
    reasons: list[str] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        """Whether the figures can be believed, whatever the server did."""
        return self.state == VALID

    @property
    def doubts(self) -> list[str]:
        """The reasons to doubt the figures."""
        return [reason for reason in self.reasons if reason not in self.shortfalls]


@dataclass(frozen=True)
class Evidence:
    """The data that judge() needs.

    Attributes:
        recording, samples: those of the run; no samples if the server was not sampled.
        window: the measured phase; planned_s: its planned length in seconds.
        sockets: the number of connections that should be open all the time, unless users close some on purpose; 0 if
            there is no such number.
        offered: the exchanges a second (in a user's own Locust file: tasks a second) of the schedules; None: no
            schedule.
        per_task: True if `offered` counts tasks, of one exchange or several each.
        accidents: what went wrong with the run, as sentences.
        generator_cores: the cores that all processes of the generator on this host share; 0: not known.
        cores: the cores of the host that was sampled.
        message_bytes: the length of a message if the protocol has no framing, so that the server counts bytes; 0 if the
            protocol has framing; None if it is not known what the server counts as a message.
    """

    recording: Recording
    samples: Sequence[Sample]
    window: Window
    planned_s: int
    sockets: int
    offered: float | None = None
    per_task: bool = False
    accidents: Sequence[str] = ()
    generator_cores: int = 0
    cores: int = 1
    message_bytes: int | None = 0


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run."""
    delayed_by, delays = _delays(evidence)
    found: list[tuple[State, list[str]]] = [
        ("incomplete", list(_incomplete(evidence))),
        ("unreconciled", [*_unreported(evidence), *_unreconciled(evidence)]),
        ("generator-bound", [*_generator_bound(evidence), *(delays if delayed_by == "generator-bound" else [])]),
        ("noisy-host", [*_noisy(evidence), *(delays if delayed_by == "noisy-host" else [])]),
    ]
    state = next((state for state, reasons in found if reasons), VALID)
    shortfalls = list(_shortfalls(evidence))
    return Verdict(state, [*(reason for _, reasons in found for reason in reasons), *shortfalls], shortfalls)


# Incomplete


def _incomplete(evidence: Evidence) -> Iterator[str]:
    yield from evidence.accidents
    window, recording = evidence.window, evidence.recording
    yield from _raised(recording)
    yield from _own_limits(recording)
    yield from _sentences(recording.lost(window.start, window.end))
    if window.length_s < evidence.planned_s:
        yield f"The measured phase lasted {window.length_s} of {evidence.planned_s} s."
    if not window.length_s:
        return
    yield from _missing_users(evidence)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    if not measured.outcomes[OK]:
        yield "No exchange succeeded in the measured phase."
    if evidence.samples and (blind_s := window.end - evidence.samples[-1]["time_s"]) > BLIND_S:
        yield f"The samples of the server end {blind_s:.0f} s before the measured phase."


def _raised(recording: Recording) -> Iterator[str]:
    for name, count in recording.total([TASK]).outcomes.most_common():
        text = recording.examples.get(f"{TASK}: {name}", "")
        times = "once" if count == 1 else f"{count:,} times"
        yield f"The code of the users raised {name} {times}{text and f': {_first_line(text)}'}."


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "").rstrip(".")
    return line if len(line) <= 100 else f"{line[:100]}..."


def _own_limits(recording: Recording) -> Iterator[str]:
    connects = recording.total(["connect"]).outcomes
    for outcome, resource in (("own_descriptors", "file descriptors"), ("own_ports", "ports or addresses")):
        if count := connects[outcome]:
            yield f"{count:,} connects failed because the generator's host had no {resource} left."


def _missing_users(evidence: Evidence) -> Iterator[str]:
    """Seconds in which the generator did not run all users.

    The processes record their health at about the end of a second, so the first and the last second are left out.
    """
    by_second: dict[int, float] = {}
    for health in _health_inside(evidence).values():
        for second, values in health.items():
            if "users" in values:
                by_second[second] = by_second.get(second, 0) + values["users"]
    inner = [by_second[second] for second in sorted(by_second)[1:-1]]
    below = [users for users in inner if users < ENOUGH_SOCKETS * evidence.sockets]
    if below:
        seconds = f"{len(below)} of {evidence.window.length_s} measured seconds"
        yield f"Fewer than {evidence.sockets:,} users ran in {seconds}: {min(below):,.0f} at the least."


# What the server did not do


def _shortfalls(evidence: Evidence) -> Iterator[str]:
    yield from _lost_sockets(evidence)
    yield from _lost_load(evidence)
    yield from _silent(evidence)
    yield from _unanswered(evidence)


def _lost_sockets(evidence: Evidence) -> Iterator[str]:
    inside = held(evidence.recording, evidence.window) if evidence.sockets else []
    below = [count for count in inside if count < ENOUGH_SOCKETS * evidence.sockets]
    if below:
        seconds = f"{len(below)} of {len(inside)} measured seconds"
        yield f"Fewer than {evidence.sockets:,} connections were open in {seconds}: {min(below):,} at the least."
    reconnects = evidence.recording.total(["connect"], evidence.window.start, evidence.window.end).outcomes[OK]
    if inside and reconnects:
        connections = "connection was" if reconnects == 1 else "connections were"
        yield f"{reconnects:,} {connections} lost and opened again in the measured phase."


def _lost_load(evidence: Evidence) -> Iterator[str]:
    """Less load than the schedules offer."""
    window, recording, offered = evidence.window, evidence.recording, evidence.offered
    if not offered or not window.length_s:
        return
    if evidence.per_task:
        done, what = recording.ticks(window.start, window.end), "tasks were begun"
    else:
        done, what = recording.total(recording.exchange_series(), window.start, window.end).done, "exchanges succeeded"
    planned = offered * window.length_s
    missing = planned - done
    if missing > (1 - ENOUGH_LOAD) * planned and missing > CHANCE_TICKS * math.sqrt(max(1, evidence.sockets)):
        yield f"{number(done / window.length_s)} {what} a second; the offered load was {number(offered)}."


def _silent(evidence: Evidence) -> Iterator[str]:
    """Seconds without a success, if the rate is so high that this is not chance."""
    window, recording = evidence.window, evidence.recording
    done = [recording.total(recording.exchange_series(), second, second + 1).done for second in window.seconds]
    silent = done.count(0)
    expected = evidence.offered or (sum(done) / (len(done) - silent) if len(done) > silent else math.inf)
    if silent and expected >= STEADY_PER_S:
        yield f"No exchange succeeded in {silent} of {window.length_s} measured seconds."


def _unanswered(evidence: Evidence) -> Iterator[str]:
    window, recording = evidence.window, evidence.recording
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    count = measured.latency.censored.total
    if count:
        longest_s = max(measured.latency.censored.counts) / 1e9
        requests = "request that was" if count == 1 else "requests that were"
        yield f"{count:,} {requests} due in the measured phase had no reply at the end, after up to {longest_s:.1f} s."


# Unreconciled


def _unreported(evidence: Evidence) -> Iterator[str]:
    yield from _sentences(evidence.recording.missing())


def _sentences(clauses: Sequence[str]) -> Iterator[str]:
    for clause in clauses:
        yield f"{clause[0].upper()}{clause[1:]}."


def _unreconciled(evidence: Evidence) -> Iterator[str]:
    """Compare with the server's own counters, from before the swarm to after it."""
    counted = [sample["server"] for sample in evidence.samples if "server" in sample]
    if len(counted) < 2 or evidence.accidents or evidence.recording.lost():
        return
    first, last = counted[0], counted[-1]
    recording = evidence.recording
    connects = recording.total(["connect"]).outcomes
    yield from _differs("connections", last["accepted"] - first["accepted"], connects)
    exchanges = recording.total(recording.exchange_series()).outcomes
    if evidence.message_bytes is None:
        return
    if evidence.message_bytes:
        received = last["received_bytes"] - first["received_bytes"]
        messages = max(0, received - min(SLACK_BYTES, received % evidence.message_bytes)) / evidence.message_bytes
        yield from _differs("messages", messages, exchanges)
    else:
        yield from _differs("messages", last["messages"] - first["messages"], exchanges)


def _differs(what: str, counted: float, outcomes: Mapping[str, int]) -> Iterator[str]:
    """The server must have counted what succeeded here; it may have counted what failed or was cut off."""
    least = outcomes[OK]
    most = least + failures(outcomes) + outcomes[CUT_OFF]
    if not least <= counted <= most:
        swarm = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        shown = f"{counted:,.2f}".rstrip("0").rstrip(".")  # a fraction if messages are counted by bytes
        yield f"The server counted {shown} {what}, the swarm {swarm}."


# Generator-bound, or on a noisy host


def _generator_bound(evidence: Evidence) -> Iterator[str]:
    used = _cpu_use(evidence)
    if used and (most := max(used.values())) > BUSY_PERCENT:
        used_most = distinct_from(most, BUSY_PERCENT)
        yield f"A process of the generator used {used_most}% of a core, more than {BUSY_PERCENT:.0f}%."
    elif evidence.generator_cores and sum(used.values()) > BUSY_PERCENT * evidence.generator_cores:
        limit = BUSY_PERCENT * evidence.generator_cores
        together = f"{distinct_from(sum(used.values()), limit)}% of its {evidence.generator_cores} cores"
        yield f"The processes of the generator together used {together}, more than {BUSY_PERCENT:.0f}% of each."


def _cpu_use(evidence: Evidence) -> dict[str, float]:
    """CPU use of each process of the generator, in percent of a core."""
    inside = _health_inside(evidence)
    return {process: percent for process, health in inside.items() if (percent := _cpu_percent(health)) is not None}


def _delays(evidence: Evidence) -> tuple[State, list[str]]:
    """How late the generator was, and the cause: its own work, or other work on its host.

    A generator with free cores and little work is not late. So other work delayed it, with two exceptions: the
    generator itself was busy, or its event loop stood still without waiting for a CPU. Then code of the users blocked
    it.
    """
    inside = _health_inside(evidence)
    sentences = [*_lags(inside), *_late(inside)]
    busy = any(_generator_bound(evidence))
    blocked = bool(sentences) and not busy and not any(_noisy(evidence)) and _is_blocked(inside)
    if blocked:
        sentences.append("It was not waiting for a CPU then: code of the users blocks the event loop.")
    return ("generator-bound" if busy or blocked else "noisy-host"), sentences


def _lags(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterator[str]:
    lags_ms = sorted(values["lag_ns"] / 1e6 for health in inside.values() for values in health.values())
    if lags_ms and (lag_ms := lags_ms[math.ceil(len(lags_ms) * (1 - LAGGING_SHARE)) - 1]) > LAG_MS:
        yield f"The event loop of the generator was {lag_ms:.0f} ms late or more in over 10% of the seconds."


def _late(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterator[str]:
    """The share of late sends, and how late they were. This delay is in the latencies, but not caused by the server."""
    health = [values for each in inside.values() for values in each.values()]
    ticks, late, late_ns = (sum(each.get(name, 0) for each in health) for name in ("ticks", "late_sends", "late_ns"))
    if not ticks or (percent := 100 * late / ticks) <= LATE_PERCENT:
        return
    worst_ms = max(each.get("latest_ns", 0) for each in health) / 1e6
    by = f"by {quantity(late_ns / late / 1e6, 'ms')} on average and {quantity(worst_ms, 'ms')} at worst"
    yield f"{percent:.1f}% of the sends were more than 1 ms late, {by}. Their latencies include this delay."


def _is_blocked(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> bool:
    """Whether the loop was late in seconds in which its process waited for a CPU for a much shorter time."""
    late_ns = waited_ns = 0.0
    for health in inside.values():
        for second, values in health.items():
            before = health.get(second - 1, {})
            if values["lag_ns"] > LAG_MS * 1e6 and "waited_s" in values and "waited_s" in before:
                late_ns += values["lag_ns"]
                waited_ns += 1e9 * (values["waited_s"] - before["waited_s"])
    return late_ns > 0 and waited_ns < EXPLAINED_SHARE * late_ns


def _health_inside(evidence: Evidence) -> dict[str, dict[int, dict[str, float]]]:
    return {
        process: {second: values for second, values in health.items() if evidence.window.holds(second)}
        for process, health in evidence.recording.health.items()
    }


def _cpu_percent(health: Mapping[int, Mapping[str, float]]) -> float | None:
    if len(health) < 2:
        return None
    first, last = min(health), max(health)
    return 100 * (health[last]["cpu_s"] - health[first]["cpu_s"]) / (last - first)


def _noisy(evidence: Evidence) -> Iterator[str]:
    inside = [sample for sample in evidence.samples if evidence.window.holds(sample["time_s"])]
    if len(inside) < 2:
        return
    first, last = inside[0], inside[-1]
    others = noise(first, last)
    if others is not None and 100 * others / evidence.cores > OTHERS_PERCENT:
        percent = distinct_from(100 * others / evidence.cores, OTHERS_PERCENT)
        yield f"Other processes used {percent}% of the cores, more than {OTHERS_PERCENT:.0f}%."
    for host, name in (("kernel", "host"), ("generator_host", "generator's host")):
        stolen = _stolen_percent(first, last, host, evidence.cores)
        if stolen > STEAL_PERCENT:
            percent = distinct_from(stolen, STEAL_PERCENT, 1)
            yield f"{percent}% of the {name}'s time was stolen by its hypervisor, more than {STEAL_PERCENT:.0f}%."


def _stolen_percent(first: Sample, last: Sample, host: str, cores: int) -> float:
    before, after = (sample.get(host, {}).get("steal_s") for sample in (first, last))
    if before is None or after is None:
        return 0.0
    elapsed_s: float = last["time_s"] - first["time_s"]
    stolen_s: Any = after - before
    return 100 * float(stolen_s) / cores / elapsed_s
