"""Whether a run can be believed: the verdict on the run itself, and the figures that say so. Pure.

    incomplete        less of it happened than should have, or part of it was not kept
    unreconciled      what the clients counted is not what the server, or their own reports, say
    generator-bound   the figures are those of the generator
    noisy-host        others took what server and generator needed
    valid             none of these

Where several apply, the first of this order is the verdict, and every reason is kept. The limits, and why they are what
they are, stand with their names below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtests.figures import Sample, Window, failures
from loadtests.kernel import noise
from loadtests.recording import CUT_OFF, OK, Recording

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
# Of all cores, for processes that are none of the run's; and for other machines on the same hardware.
OTHERS_PERCENT = 10.0
STEAL_PERCENT = 2.0
# Fewer sockets than this share of those wanted are another workload.
ENOUGH_SOCKETS = 0.99
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
        sockets: that should have been open at once; 0 where they come and go.
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
    accidents: Sequence[str] = ()
    generator_cores: int = 0
    cores: int = 1
    message_bytes: int | None = 0


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run."""
    found: list[tuple[State, list[str]]] = [
        ("incomplete", list(_incomplete(evidence))),
        ("unreconciled", [*_unreported(evidence), *_unreconciled(evidence)]),
        ("generator-bound", list(_generator_bound(evidence))),
        ("noisy-host", list(_noisy(evidence))),
    ]
    state = next((state for state, reasons in found if reasons), VALID)
    return Verdict(state, [reason for _, reasons in found for reason in reasons])


# Incomplete


def _incomplete(evidence: Evidence) -> Iterator[str]:
    yield from evidence.accidents
    window = evidence.window
    yield from _sentences(evidence.recording.lost(window.start, window.end))
    if window.length_s < evidence.planned_s:
        yield f"It was measured for {window.length_s} of {evidence.planned_s} s."
    if not window.length_s:
        return
    inside = [count for second, count in evidence.recording.sockets().items() if window.holds(second)]
    most = max(inside, default=0)
    if most < ENOUGH_SOCKETS * evidence.sockets:
        yield f"At most {most:,} of {evidence.sockets:,} sockets were open while it was measured."
    measured = evidence.recording.total(evidence.recording.exchange_series(), window.start, window.end)
    if not measured.outcomes[OK]:
        yield "Not one exchange succeeded while it was measured."
    if evidence.samples and (blind_s := window.end - evidence.samples[-1]["time_s"]) > BLIND_S:
        yield f"The samples of the server end {blind_s:.0f} s before the measuring did."


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
        yield f"The server counted {counted:,.6g} {what}, the swarm {swarm}."


# Generator-bound


def _generator_bound(evidence: Evidence) -> Iterator[str]:
    inside = _health_inside(evidence)
    used = {process: percent for process, health in inside.items() if (percent := _cpu_percent(health)) is not None}
    if used and (most := max(used.values())) > BUSY_PERCENT:
        yield f"A process of the generator used {most:.0f}% of a core, more than {BUSY_PERCENT:.0f}%."
    elif evidence.generator_cores and sum(used.values()) > BUSY_PERCENT * evidence.generator_cores:
        together = f"{sum(used.values()):.0f}% of its {evidence.generator_cores} cores"
        yield f"The processes of the generator together used {together}, more than {BUSY_PERCENT:.0f}% of each."
    lags_ms = sorted(values["lag_ns"] / 1e6 for health in inside.values() for values in health.values())
    if lags_ms and (lag_ms := lags_ms[math.ceil(len(lags_ms) * (1 - LAGGING_SHARE)) - 1]) > LAG_MS:
        yield f"The event loop of the generator was {lag_ms:.0f} ms late or more in more than a tenth of the seconds."
    yield from _late(evidence, inside)


def _late(evidence: Evidence, inside: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterator[str]:
    recording, window = evidence.recording, evidence.window
    measured = recording.total(recording.exchange_series(), window.start, window.end)
    if not measured.response.counts:
        return
    late = sum(values.get("late_sends", 0) for health in inside.values() for values in health.values())
    percent = 100 * late / max(1, measured.outcomes.total())
    if percent > LATE_PERCENT:
        yield f"{percent:.1f}% of the sends were late by more than a millisecond, more than {LATE_PERCENT:.0f}%."


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


# Noisy host


def _noisy(evidence: Evidence) -> Iterator[str]:
    inside = [sample for sample in evidence.samples if evidence.window.holds(sample["time_s"])]
    if len(inside) < 2:
        return
    first, last = inside[0], inside[-1]
    others = noise(first, last)
    if others is not None and 100 * others / evidence.cores > OTHERS_PERCENT:
        percent = 100 * others / evidence.cores
        yield f"Other processes used {percent:.0f}% of the cores, more than {OTHERS_PERCENT:.0f}%."
    for host, name in (("kernel", "host"), ("generator_host", "generator's host")):
        stolen = _stolen_percent(first, last, host, evidence.cores)
        if stolen > STEAL_PERCENT:
            yield f"{stolen:.1f}% of the {name}'s time was stolen by its hypervisor, more than {STEAL_PERCENT:.0f}%."


def _stolen_percent(first: Sample, last: Sample, host: str, cores: int) -> float:
    before, after = (sample.get(host, {}).get("steal_s") for sample in (first, last))
    if before is None or after is None:
        return 0.0
    elapsed_s: float = last["time_s"] - first["time_s"]
    stolen_s: Any = after - before
    return 100 * float(stolen_s) / cores / elapsed_s
