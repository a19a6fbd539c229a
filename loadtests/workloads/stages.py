"""The load over time as stages, and the search for the limit of a server. Pure.

A stage changes the number of sockets at a given rate, then holds it; each stage belongs to a phase. The hold begins
when all users have been started: on a slow host the ramp takes longer, but the measure phase is never shorter. Phases
begin and end at whole seconds of the run's clock, and follow each other without a gap.

A search has no fixed stages: it chooses the next number of sockets from the results so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.formatting import number, quantity

__all__ = ["COOLDOWN", "HELD", "MEASURE", "RAMP", "WARMUP", "Course", "Objective", "Search", "Stage", "Step"]

RAMP, WARMUP, MEASURE, COOLDOWN = "ramp", "warmup", "measure", "cooldown"
#: Shapes of a profile with a constant number of sockets during the measure phase.
HELD = ("hold", "plateaus", "doublings")


@dataclass(frozen=True)
class Stage:
    """Reach `sockets` at `sockets_per_s`, then hold them for `hold_s` whole seconds."""

    phase: str
    sockets: int
    sockets_per_s: float
    hold_s: int = 0


class Course:
    """Follows the stages of a run; call at() about once a second.

    Attributes:
        phases: phase -> [first second, second after its last]; the current phase ends with the last second so far.
        held_since: first whole second of the current stage's hold; None while the number of sockets changes.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self._place = 0
        self._entered: int | None = None
        self.held_since: int | None = None
        self.phases: dict[str, list[int]] = {}

    @property
    def stage(self) -> Stage | None:
        """The current stage; None at the end."""
        return self._stages[self._place] if self._place < len(self._stages) else None

    def add(self, *stages: Stage) -> None:
        """Append stages."""
        self._stages += stages

    def at(self, second: int, users: int) -> Stage | None:
        """Return the stage for this second, given the number of users started so far; None at the end."""
        entered = second if self._entered is None else self._entered
        while (stage := self.stage) is not None:
            span = self.phases.setdefault(stage.phase, [entered, entered])
            # A stage that keeps the number of sockets holds at once: users that were lost do not come back.
            if self.held_since is None and (users == stage.sockets or not self._climbs):
                self.held_since = second + 1 if self._climbs else entered
            if self.held_since is None or second < self.held_since + stage.hold_s:
                span[1] = max(span[1], second + 1)
                break
            entered = span[1] = self.held_since + stage.hold_s
            self.held_since = None
            self._place += 1
        self._entered = entered
        return self.stage

    @property
    def _climbs(self) -> bool:
        """Whether the stage changes the number of sockets."""
        before = self._stages[self._place - 1].sockets if self._place else 0
        return before != self._stages[self._place].sockets


@dataclass(frozen=True)
class Objective:
    """The objective of a search: p99 of the response time in ms, and the error rate in percent, at most."""

    p99_ms: float
    error_rate: float

    def broken(self, step: Step) -> str:
        """Why a step does not meet the objective; "" if it does."""
        if step.error_rate > self.error_rate:
            return f"{number(step.error_rate)}% of exchanges failed (limit {self.error_rate:g}%)"
        if step.p99_ms > self.p99_ms:
            return f"p99 {quantity(step.p99_ms, 'ms')} (limit {quantity(self.p99_ms, 'ms')})"
        if step.rate < 0.95 * step.offered:
            return f"{step.rate:,.0f} of {step.offered:,.0f} scheduled exchanges/s were made"
        return ""


@dataclass(frozen=True)
class Step:
    """A load that was tried, and its result. broken: why it does not meet the objective; "" if it does."""

    sockets: int
    offered: float
    rate: float
    p99_ms: float
    error_rate: float
    broken: str = ""


@dataclass
class Search:
    """Finds the most sockets that meet the objective: doubles them until they do not, then bisects to within 10%.

    Attributes:
        first: sockets of the first step. most: upper limit.
        best: the most sockets so far that met the objective; 0 if none did.
        close_enough: ratio between failure and success at which the search ends.
    """

    first: int
    most: int
    best: int = 0
    close_enough: float = 1.1
    _lowest_broken: int | None = None
    _tried: set[int] = field(default_factory=set)

    def next(self) -> int | None:
        """The next number of sockets to try; None once the limit is known."""
        sockets = self._candidate()
        return None if sockets in self._tried or not 1 <= sockets <= self.most else sockets

    def _candidate(self) -> int:
        if self._lowest_broken is None:
            return min(2 * self.best, self.most) if self.best else min(self.first, self.most)
        if not self.best:
            return self._lowest_broken // 2
        if self._lowest_broken <= self.best * self.close_enough:
            return self.best
        return round(math.sqrt(self.best * self._lowest_broken))

    def take(self, sockets: int, holds: bool) -> None:
        """Record whether `sockets` met the objective."""
        self._tried.add(sockets)
        if holds:
            self.best = max(self.best, sockets)
        elif self._lowest_broken is None or sockets < self._lowest_broken:
            self._lowest_broken = sockets
