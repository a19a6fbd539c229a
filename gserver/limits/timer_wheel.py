"""The timer wheel: connections by the tick at which their next deadline may come. Pure."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

__all__ = ["NEVER", "Standing", "Wheel"]

NEVER = math.inf


class Standing(Protocol):
    """What the wheel keeps with each thing that stands on it."""

    due_tick: int  # 0: it does not stand on it


Thing = TypeVar("Thing", bound=Standing)


class Wheel(Generic[Thing]):
    """Things by the tick at which they are to be looked at; placing and removing cost the same for any number."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._buckets: dict[int, set[Thing]] = {}
        self._ticks: list[int] = []  # a heap of the buckets that there are

    def place(self, thing: Thing, due: float) -> None:
        """Let `thing` come up at `due`, or within a tick after it, if it does not come up sooner anyway."""
        if due == NEVER:
            return
        tick = math.ceil(due / self._tick_s)
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
        if thing.due_tick:
            self._buckets[thing.due_tick].discard(thing)
            thing.due_tick = 0

    @property
    def next_due(self) -> float:
        """When the next thing comes up; infinity if none does."""
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heappop(self._ticks)]
        return self._ticks[0] * self._tick_s if self._ticks else NEVER

    def take_due(self, now: float) -> list[Thing]:
        """Those that have come up by now; they stand on the wheel no more."""
        due: list[Thing] = []
        while self.next_due <= now:
            due += self._buckets.pop(heappop(self._ticks))
        for thing in due:
            thing.due_tick = 0
        return due
