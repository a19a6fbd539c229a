"""Wait times: when the next exchange of a user is due. Pure.

    class Sensor(TcpUser):
        wait_time = paced(10)        # ten a second, however slow the server is
        wait_time = closed()         # the next one as soon as the reply to the last one is there
        wait_time = closed(depth=8)  # the same with eight in flight on each connection

Any user of Locust can have them. A TcpUser also takes from them when an exchange was due.
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
    """The times at which a user's tasks are due: ticks at a fixed period.

    A missed tick is not dropped, it is due at once. So the rate holds on average, and after a stall the server receives
    the exchanges that it delayed. A random phase for each user separates users that start together.

    Args:
        period_ns: nanoseconds between two ticks, fractions included; more than 0.
        phase: where in the first period the first tick is; 0 to 1.
        start_ns: when the first period begins, on the caller's clock.
    """

    __slots__ = ("_first_ns", "_period_ns", "_taken")

    def __init__(self, period_ns: float, phase: float, start_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f"period_ns is {period_ns}, must be more than 0")
        self._period_ns = period_ns
        self._first_ns = start_ns + phase * period_ns
        self._taken = 0

    def next_ns(self) -> int:
        """The time of the next tick; each call returns a later one."""
        due_ns = self._first_ns + self._taken * self._period_ns
        self._taken += 1
        return int(due_ns)


class Paced:
    """The wait time that paced() returns: `rate` ticks a second for each user, each user with a random phase."""

    def __init__(self, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"rate is {rate}, must be more than 0 and finite")
        self.rate = rate

    def __get__(self, user: Any, owner: type | None = None) -> Any:
        return self if user is None else MethodType(self, user)

    def __call__(self, user: Any) -> float:
        """Seconds until the user's next tick; 0 if it is due already. Locust calls this after each task.

        Sets the user's `due_ns`, from which a TcpUser measures the response times of the task's exchanges.
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
    """The wait time that closed() returns: a closed loop with `depth` messages in flight on each connection."""

    def __init__(self, depth: int = 1) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}, must be at least 1")
        self.depth = depth

    def __get__(self, user: Any, owner: type | None = None) -> Any:
        return self if user is None else MethodType(self, user)

    def __call__(self, user: Any) -> float:
        return 0.0


def paced(rate: float) -> Paced:
    """A wait time: each user runs `rate` tasks a second on a schedule, and catches up on missed ticks.

    ValueError: `rate` is not more than 0 and finite.
    """
    return Paced(rate)


def closed(depth: int = 1) -> Closed:
    """A wait time: each user makes the next exchange as soon as it has a reply, with `depth` in flight.

    ValueError: `depth` is less than 1.
    """
    return Closed(depth)


class Burst:
    """Spreads the users that Locust starts at once, for a second, evenly over that second."""

    __slots__ = ("is_over", "size")

    def __init__(self) -> None:
        self.size = 0
        self.is_over = False

    def join(self) -> int:
        """Add a user; return its place, from 0."""
        self.size += 1
        return self.size - 1

    def wait_s(self, place: int, random: Callable[[], float]) -> float:
        """Seconds to wait at `place`: a random moment in its share of the second."""
        return (place + random()) / self.size
