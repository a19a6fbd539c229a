"""The load over time, in stages, and where in it a run is. Pure.

A stage climbs (or falls) to a number of sockets at so many a second, then holds them; it belongs to a phase. It begins
to hold once all its users have been started, however late that is: a slow host gets a longer ramp, and never a shorter
measure phase. Phases begin and end with whole seconds of the run's clock, and follow each other without a gap.

A search has no stages made beforehand: it says what to try next, from what came of what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.formatting import number, quantity

__all__ = ["COOLDOWN", "HELD", "MEASURE", "RAMP", "WARMUP", "Course", "Objective", "Search", "Stage", "Step"]

RAMP, WARMUP, MEASURE, COOLDOWN = "ramp", "warmup", "measure", "cooldown"
#: Shapes of a profile in which all sockets are held while it is measured.
HELD = ("hold", "plateaus", "doublings")


@dataclass(frozen=True)
class Stage:
    """`sockets`, reached at `sockets_per_s` and then held for `hold_s` whole seconds."""

    phase: str
    sockets: int
    sockets_per_s: float
    hold_s: int = 0


class Course:
    """Follows stages; at() is to be called about once a second.

    Attributes:
        phases: phase -> [first second, second after its last]; of the one it is in, the second after the last so far.
        held_since: the first whole second that the stage holds in; None while it climbs.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self._place = 0
        self._entered: int | None = None
        self.held_since: int | None = None
        self.phases: dict[str, list[int]] = {}

    @property
    def stage(self) -> Stage | None:
        """The one it is in; None at the end."""
        return self._stages[self._place] if self._place < len(self._stages) else None

    def add(self, *stages: Stage) -> None:
        """More at the end."""
        self._stages += stages

    def at(self, second: int, users: int) -> Stage | None:
        """The stage to be in during this second, while so many users have been started; None at the end."""
        entered = second if self._entered is None else self._entered
        while (stage := self.stage) is not None:
            span = self.phases.setdefault(stage.phase, [entered, entered])
            # A stage that does not climb holds at once: users that were lost meanwhile do not come back.
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
        """Whether the stage has other sockets than the one before it."""
        before = self._stages[self._place - 1].sockets if self._place else 0
        return before != self._stages[self._place].sockets


@dataclass(frozen=True)
class Objective:
    """What a load must keep to hold: response time at the 99th percentile in ms, and failures in percent."""

    p99_ms: float
    error_rate: float

    def broken(self, step: Step) -> str:
        """Why the step does not hold; "" if it does."""
        if step.error_rate > self.error_rate:
            return f"{number(step.error_rate)}% failed, at most {self.error_rate:g}% may"
        if step.p99_ms > self.p99_ms:
            return f"p99 {quantity(step.p99_ms, 'ms')}, at most {quantity(self.p99_ms, 'ms')} are allowed"
        if step.rate < 0.95 * step.offered:
            return f"{step.rate:,.0f} exchanges/s came of {step.offered:,.0f} that were asked for"
        return ""


@dataclass(frozen=True)
class Step:
    """A load that was tried, and what came of it; broken says why it does not hold, "" if it does."""

    sockets: int
    offered: float
    rate: float
    p99_ms: float
    error_rate: float
    broken: str = ""


@dataclass
class Search:
    """Doubles the sockets until the objective breaks, then halves the distance until it is within a tenth.

    Attributes:
        first: sockets to begin with; most: sockets that are never exceeded.
        best: the most sockets that held; 0 if none did.
    """

    first: int
    most: int
    best: int = 0
    close_enough: float = 1.1
    _lowest_broken: int | None = None
    _tried: set[int] = field(default_factory=set)

    def next(self) -> int | None:
        """Sockets to try, or None once the limit is known."""
        wanted = self._wanted()
        return None if wanted in self._tried or not 1 <= wanted <= self.most else wanted

    def _wanted(self) -> int:
        if self._lowest_broken is None:
            return min(2 * self.best, self.most) if self.best else min(self.first, self.most)
        if not self.best:
            return self._lowest_broken // 2
        if self._lowest_broken <= self.best * self.close_enough:
            return self.best
        return round(math.sqrt(self.best * self._lowest_broken))

    def take(self, sockets: int, holds: bool) -> None:
        """Whether that many held."""
        self._tried.add(sockets)
        if holds:
            self.best = max(self.best, sockets)
        elif self._lowest_broken is None or sockets < self._lowest_broken:
            self._lowest_broken = sockets
