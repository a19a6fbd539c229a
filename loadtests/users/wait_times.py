"""When the next exchange of a user is due. Pure arithmetic on a clock of the caller's.

    class Sensor(TcpUser):
        wait_time = paced(10)       # ten a second, come what may
        wait_time = closed()        # the next one as soon as the one before is answered
        wait_time = closed(depth=8) # and eight of them in flight on each connection

Both are wait times of Locust's, and a TcpUser also reads off them when a send was due.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from types import MethodType
from typing import Any

from loadtests.units import NS_IN_S

__all__ = ["Burst", "Closed", "Paced", "Schedule", "closed", "paced"]


class Schedule:
    """A tick every `period_ns`, the first one `phase` of a period after `start_ns`.

    A tick that was missed is not forgotten: it is due at once. So the rate holds over time, and a server that stalls is
    asked afterwards for what it kept waiting. A phase of its own for each user keeps users that start together apart.

    Args:
        period_ns: nanoseconds between two ticks, with their fractions; more than 0.
        phase: 0 up to 1.
    """

    __slots__ = ("_first_ns", "_period_ns", "_taken")

    def __init__(self, period_ns: float, phase: float, start_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f"period_ns is {period_ns}, must be more than 0")
        self._period_ns = period_ns
        self._first_ns = start_ns + phase * period_ns
        self._taken = 0

    def next_ns(self) -> int:
        """When the next tick is due; each call takes one."""
        due_ns = self._first_ns + self._taken * self._period_ns
        self._taken += 1
        return int(due_ns)


class Paced:
    """`rate` ticks a second for each user, each user with a random phase of its own."""

    def __init__(self, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"rate is {rate}, must be more than 0 and finite")
        self.rate = rate

    def __get__(self, user: Any, owner: type | None = None) -> Any:
        return self if user is None else MethodType(self, user)

    def __call__(self, user: Any) -> float:
        """Seconds until the user's next tick, 0 if it is due already; Locust calls it after each task.

        Sets `due_ns` of the user, from which a TcpUser times the task's exchanges.
        """
        now_ns = time.monotonic_ns()
        schedule = getattr(user, "schedule", None)
        if schedule is None:
            schedule = user.schedule = self.schedule(now_ns)
        due_ns: int = schedule.next_ns()
        user.due_ns = due_ns
        return max(0, due_ns - now_ns) / NS_IN_S

    def schedule(self, start_ns: int) -> Schedule:
        return Schedule(NS_IN_S / self.rate, random.random(), start_ns)


class Closed:
    """As fast as the answers come, with `depth` messages in flight on each connection."""

    def __init__(self, depth: int = 1) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}, must be at least 1")
        self.depth = depth

    def __get__(self, user: Any, owner: type | None = None) -> Any:
        return self if user is None else MethodType(self, user)

    def __call__(self, user: Any) -> float:
        return 0.0


def paced(rate: float) -> Paced:
    """A wait time: `rate` exchanges a second of each user, on a schedule that forgets no tick it missed."""
    return Paced(rate)


def closed(depth: int = 1) -> Closed:
    """A wait time: the next exchange as soon as one is answered, with `depth` in flight on each connection."""
    return Closed(depth)


class Burst:
    """Users that are started in one turn of the loop, as Locust starts those of a second; each gets its share of it."""

    __slots__ = ("is_over", "size")

    def __init__(self) -> None:
        self.size = 0
        self.is_over = False

    def join(self) -> int:
        """The place of one more."""
        self.size += 1
        return self.size - 1

    def wait_s(self, place: int, random: Callable[[], float]) -> float:
        """How long to wait at `place`: somewhere in the share of the second that is this place's."""
        return (place + random()) / self.size
