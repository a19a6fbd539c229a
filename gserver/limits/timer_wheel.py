"""The timer wheel: connections, by the tick of their next deadline. Pure."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

__all__ = ["NEVER", "STEP_S", "Schedulable", "Wheel"]

NEVER = math.inf
#: The shortest tick. Places are numbered in steps of this length, so a tick can change while things are on the wheel.
STEP_S = 0.01


class Schedulable(Protocol):
    """A thing that can be placed on the wheel. Only the wheel sets the attribute."""

    due_tick: int  # 0: not on the wheel


Thing = TypeVar("Thing", bound=Schedulable)


class Wheel(Generic[Thing]):
    """A timer wheel: the cost of place() and remove() does not depend on the number of things.

    Args:
        tick_s: the resolution, in seconds; rounded down to a multiple of STEP_S.
    """

    def __init__(self, tick_s: float) -> None:
        self.change_tick(tick_s)
        self._buckets: dict[int, set[Thing]] = {}
        self._ticks: list[int] = []  # a heap of the keys of _buckets

    def change_tick(self, tick_s: float) -> None:
        """Change the resolution for what is placed from now on; the rest stays where it is."""
        self._steps = max(1, int(tick_s / STEP_S + 1e-6))

    def place(self, thing: Thing, due: float) -> None:
        """Make `thing` due at the time `due`, at most one tick later; no effect if it is already due sooner."""
        if due == NEVER:
            return
        tick = math.ceil(due / (self._steps * STEP_S)) * self._steps
        if thing.due_tick and thing.due_tick <= tick:
            return
        self.remove(thing)
        thing.due_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heappush(self._ticks, tick)
        bucket.add(thing)

    def remove(self, thing: Thing) -> None:
        """Take `thing` off the wheel, if it is on it."""
        if thing.due_tick:
            self._buckets[thing.due_tick].discard(thing)
            thing.due_tick = 0

    @property
    def next_due(self) -> float:
        """The time at which the next thing is due; infinity if the wheel is empty."""
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heappop(self._ticks)]
        return self._ticks[0] * STEP_S if self._ticks else NEVER

    def take_due(self, now: float) -> list[Thing]:
        """Return the things that are due at `now`, and take them off the wheel."""
        due: list[Thing] = []
        while self.next_due <= now:
            due += self._buckets.pop(heappop(self._ticks))
        for thing in due:
            thing.due_tick = 0
        return due
