"""The arbiter's book of its workers. Pure: events and the time go in, decisions come out; nobody is forked here.

The first worker starts alone, and proves that the application can be served; the others follow when it is ready. A
worker that dies young is replaced after a pause that doubles, so that a broken application is not forked in a storm.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Child", "Children"]

YOUNG_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


@dataclass
class Child:
    """One worker process."""

    pid: int
    spawned_at: float
    is_ready: bool = False


class Children:
    """The workers there are, and how many there should be.

    Args:
        target: how many workers to keep. Times are seconds on one clock of the caller's.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._children: dict[int, Child] = {}
        self._was_ever_ready = False
        self._pause_s = 0.0
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._children)

    @property
    def pids(self) -> list[int]:
        return list(self._children)

    def to_spawn(self, now: float) -> int:
        """How many workers to fork now."""
        if now < self._not_before:
            return 0
        goal = self.target if self._was_ever_ready else min(1, self.target)
        return max(0, goal - len(self._children))

    def wakes_at(self, now: float) -> float | None:
        """When to_spawn() will have more to say than now, if only time has to pass."""
        return self._not_before if now < self._not_before and len(self._children) < self.target else None

    def spawned(self, pid: int, now: float) -> None:
        self._children[pid] = Child(pid, now)

    def became_ready(self, pid: int) -> None:
        if pid in self._children:
            self._children[pid].is_ready = True
            self._was_ever_ready = True

    def exited(self, pid: int, now: float) -> Child | None:
        """Forget a worker that has ended; None for a process that is none of ours."""
        child = self._children.pop(pid, None)
        if child is None:
            return None
        if child.is_ready and now - child.spawned_at >= YOUNG_S:
            self._pause_s = 0.0
        else:
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
            self._not_before = now + self._pause_s
        return child

    @property
    def cannot_start(self) -> bool:
        """The first worker ended before it was ready: the application cannot be served."""
        return not self._was_ever_ready and not self._children and self._pause_s > 0
