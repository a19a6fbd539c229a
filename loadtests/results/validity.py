"""The verdict on a run: whether its figures can be believed, and what the server did not do. Pure.

    incomplete        less of it happened than should have, or part of it was not kept
    unreconciled      what the clients counted is not what the server, or their own reports, say
    generator-bound   the generator delayed what it measured
    noisy-host        other work on the host delayed server or generator
    valid             none of these

Where several apply, the first of this order is the verdict, and every reason is kept. A server that was away, or did
less than it was asked for, is no fault of the measurement: that is a shortfall, and the figures may well be believed.
The limits, and why they are what they are, stand with their names below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtests.formatting import number, quantity, told_apart
from loadtests.host.kernel_counters import noise
from loadtests.recording.recording import CUT_OFF, OK, TASK, Recording, failures
from loadtests.results.metrics import Sample, Window, held

__all__ = ["VALID", "Evidence", "State", "Verdict", "judge"]

State = Literal["valid", "generator-bound", "noisy-host", "unreconciled", "incomplete"]
VALID: State = "valid"

# Of a core. What is busy for a share u of its time keeps each piece of work waiting for u / (1 - u) others: here six.
BUSY_PERCENT = 85.0
# Lateness of the event loop that a person could see in a latency, in more seconds than are an accident.
LAG_MS = 20.0
LAGGING_SHARE = 0.1
# Sends that were late by more than a millisecond although their user was free: from here on p99 is made of them.
LATE_PERCENT = 1.0
# Of the time by which the event loop was late: what waiting for a processor must explain for the host to be the cause.
EXPLAINED_SHARE = 0.5
# Of all cores, for processes that are none of the run's; and for other machines on the same hardware.
OTHERS_PERCENT = 10.0
STEAL_PERCENT = 2.0
# Fewer users than this share of those wanted are another workload; fewer sockets are a shortfall of the server.
ENOUGH_SOCKETS = 0.99
# Less of the load that was asked for is a shortfall; by chance each user may miss a tick at the ends of the window.
ENOUGH_LOAD = 0.95
CHANCE_TICKS = 1.5
# Exchanges a second from which a second without any is no chance.
STEADY_PER_S = 10.0
# Samples that end this long before the measuring does leave figures without their end.
BLIND_S = 2.0
# What a probe that came just before the first sample may have sent without being counted yet.
SLACK_BYTES = 100


@dataclass(frozen=True)
class Verdict:
    """Whether the figures of a run can be believed, and whether the server did what was asked of it.

    Attributes:
        state: whether the figures can be believed; VALID if they can.
        reasons: a sentence for each thing that limits belief, with the figure in it, and then all shortfalls.
        shortfalls: of these, what the server did not do: they say nothing against the figures.
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
        """The reasons that limit belief in the figures."""
        return [reason for reason in self.reasons if reason not in self.shortfalls]


@dataclass(frozen=True)
class Evidence:
    """What judge() looks at.

    Attributes:
        recording, samples: of the run; no samples if the server was not sampled.
        window: what was measured, of `planned_s` seconds that should have been.
        sockets: that should have been open all the time, unless the users closed some on purpose; 0: no such number.
        offered: exchanges a second (of a Locust file of one's own: tasks) that were asked for; None: no schedule.
        per_task: whether `offered` counts tasks, of several exchanges perhaps.
        accidents: what went wrong with the run, as sentences.
        generator_cores: that all of the generator's processes of this host share; 0: not known.
        cores: of the host that was sampled.
        message_bytes: of a message of a protocol that has no framing, which the server counts by bytes; 0: it has one;
            None: nobody knows what the server takes for a message.
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
        yield f"It was measured for {window.length_s} of {evidence.planned_s} s."
    if not window.length_s:
        return
    yield from _missing_users(evidence)
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    if not measured.outcomes[OK]:
        yield "Not one exchange succeeded while it was measured."
    if evidence.samples and (blind_s := window.end - evidence.samples[-1]["time_s"]) > BLIND_S:
        yield f"The samples of the server end {blind_s:.0f} s before the measuring did."


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
    for outcome, lacked in (("own_descriptors", "file descriptors"), ("own_ports", "ports or addresses")):
        if count := connects[outcome]:
            yield f"{count:,} connects failed because the generator's host had no {lacked} left."


def _missing_users(evidence: Evidence) -> Iterator[str]:
    """A generator that did not run them all, whatever the server did. Processes write their health at about the end of
    a second: at the edges of the window one may lack it."""
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
        yield f"{reconnects:,} {connections} lost and opened again while it was measured."


def _lost_load(evidence: Evidence) -> Iterator[str]:
    """Nothing else compares the load that came with the load that was asked for."""
    window, recording, offered = evidence.window, evidence.recording, evidence.offered
    if not offered or not window.length_s:
        return
    if evidence.per_task:
        came, what = recording.ticks(window.start, window.end), "tasks were begun"
    else:
        came, what = recording.total(recording.exchange_series(), window.start, window.end).done, "exchanges succeeded"
    asked = offered * window.length_s
    missing = asked - came
    if missing > (1 - ENOUGH_LOAD) * asked and missing > CHANCE_TICKS * math.sqrt(max(1, evidence.sockets)):
        yield f"{number(came / window.length_s)} {what} a second, and {number(offered)} were asked for."


def _silent(evidence: Evidence) -> Iterator[str]:
    """Seconds without a success, where chance leaves none: of ten exchanges a second or more."""
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
    """The server's own counters, from before the swarm to after it."""
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
    """What succeeded here, the server has seen; what failed or was cut off here, it may have seen."""
    least = outcomes[OK]
    most = least + failures(outcomes) + outcomes[CUT_OFF]
    if not least <= counted <= most:
        swarm = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        shown = f"{counted:,.2f}".rstrip("0").rstrip(".")  # a part of a message, where they are counted by bytes
        yield f"The server counted {shown} {what}, the swarm {swarm}."


# Generator-bound, or on a noisy host


def _generator_bound(evidence: Evidence) -> Iterator[str]:
    used = _processor_use(evidence)
    if used and (most := max(used.values())) > BUSY_PERCENT:
        used_most = told_apart(most, BUSY_PERCENT)
        yield f"A process of the generator used {used_most}% of a core, more than {BUSY_PERCENT:.0f}%."
    elif evidence.generator_cores and sum(used.values()) > BUSY_PERCENT * evidence.generator_cores:
        limit = BUSY_PERCENT * evidence.generator_cores
        together = f"{told_apart(sum(used.values()), limit)}% of its {evidence.generator_cores} cores"
        yield f"The processes of the generator together used {together}, more than {BUSY_PERCENT:.0f}% of each."


def _processor_use(evidence: Evidence) -> dict[str, float]:
    """Of each process of the generator, in percent of a core."""
    inside = _health_inside(evidence)
    return {process: percent for process, health in inside.items() if (percent := _cpu_percent(health)) is not None}


def _delays(evidence: Evidence) -> tuple[State, list[str]]:
    """How late the generator was, and what it was late because of: its own work, or that of others on its host.

    A generator that has its cores to itself and does little is not late. So it was delayed by others, unless it was
    busy, or its loop stood still without waiting for a processor: then the code of the users has blocked it.
    """
    inside = _health_inside(evidence)
    sentences = [*_lags(inside), *_late(inside)]
    busy = any(_generator_bound(evidence))
    blocked = bool(sentences) and not busy and not any(_noisy(evidence)) and _is_blocked(inside)
    if blocked:
        sentences.append("It was not waiting for a processor then: code of the users blocks the event loop.")
    return ("generator-bound" if busy or blocked else "noisy-host"), sentences


def _lags(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterator[str]:
    lags_ms = sorted(values["lag_ns"] / 1e6 for health in inside.values() for values in health.values())
    if lags_ms and (lag_ms := lags_ms[math.ceil(len(lags_ms) * (1 - LAGGING_SHARE)) - 1]) > LAG_MS:
        yield f"The event loop of the generator was {lag_ms:.0f} ms late or more in more than a tenth of the seconds."


def _late(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterator[str]:
    """How many sends were late, and by how much: that is in the response times, and says nothing of the server."""
    health = [values for each in inside.values() for values in each.values()]
    ticks, late, late_ns = (sum(each.get(name, 0) for each in health) for name in ("ticks", "late_sends", "late_ns"))
    if not ticks or (percent := 100 * late / ticks) <= LATE_PERCENT:
        return
    worst_ms = max(each.get("latest_ns", 0) for each in health) / 1e6
    by = f"by {quantity(late_ns / late / 1e6, 'ms')} on average and {quantity(worst_ms, 'ms')} at worst"
    yield f"{percent:.1f}% of the sends were more than 1 ms late, {by}. Their response times contain that."


def _is_blocked(inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> bool:
    """Whether the loop was late in seconds in which its process did not wait for a processor nearly as long."""
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
        percent = told_apart(100 * others / evidence.cores, OTHERS_PERCENT)
        yield f"Other processes used {percent}% of the cores, more than {OTHERS_PERCENT:.0f}%."
    for host, name in (("kernel", "host"), ("generator_host", "generator's host")):
        stolen = _stolen_percent(first, last, host, evidence.cores)
        if stolen > STEAL_PERCENT:
            percent = told_apart(stolen, STEAL_PERCENT, 1)
            yield f"{percent}% of the {name}'s time was stolen by its hypervisor, more than {STEAL_PERCENT:.0f}%."


def _stolen_percent(first: Sample, last: Sample, host: str, cores: int) -> float:
    before, after = (sample.get(host, {}).get("steal_s") for sample in (first, last))
    if before is None or after is None:
        return 0.0
    elapsed_s: float = last["time_s"] - first["time_s"]
    stolen_s: Any = after - before
    return 100 * float(stolen_s) / cores / elapsed_s
