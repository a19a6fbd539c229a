"""The places of a pool, such as its processes, and the bounded queue of the calls that wait for one.

A place is given to the call that has waited longest. A call that finds neither a free place nor room in the queue is
refused at once: a queue that grows would only make every reply late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from gevent.event import AsyncResult

from gserver.offload.errors import Full, Timeout

__all__ = ["Places"]

Place = TypeVar("Place")


class Places(Generic[Place]):
    """Hands out the free places.

    Args:
        what: what a place is, in error messages: "thread" or "process".
        places: those that are free at first.
        most_waiting: how many calls may wait.
    """

    def __init__(self, what: str, places: Iterable[Place], most_waiting: int) -> None:
        self._what = what
        self._free: deque[Place] = deque(places)
        self._waiting: deque[AsyncResult[Place]] = deque()
        self._most_waiting = most_waiting

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, timeout_s: float | None) -> Place:
        """Return a free place, which the caller gives back; block until there is one.

        Full if the queue is full, Timeout if no place is free in time, and the exception of fail_waiting().
        """
        if self._free:
            return self._free.popleft()
        if len(self._waiting) >= self._most_waiting:
            raise Full(
                f"no {self._what} is free, and {len(self._waiting)} calls wait for one (setting offload_queue: "
                f"{self._most_waiting})"
            )
        turn: AsyncResult[Place] = AsyncResult()
        self._waiting.append(turn)
        try:
            turn.wait(timeout_s)
        except BaseException:  # thrown in: the handler is interrupted
            self._leave(turn)
            raise
        if not turn.ready():
            self._leave(turn)
            raise Timeout(f"no {self._what} was free within {timeout_s:g} s")
        return self._given(turn)

    def _leave(self, turn: AsyncResult[Place]) -> None:
        """The call gives up. It may have been given a place in this iteration of the event loop."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.successful():
            self.give(self._given(turn))

    @staticmethod
    def _given(turn: AsyncResult[Place]) -> Place:
        place: Any = turn.get()  # gevent declares it as one that may be None
        return place  # type: ignore[no-any-return]

    def give(self, place: Place) -> None:
        """A place is free: give it to the next call, or keep it."""
        if self._waiting:
            self._waiting.popleft().set(place)
        else:
            self._free.append(place)

    def remove(self, place: Place) -> None:
        """A place is gone. One that a call has taken is not given back by it."""
        if place in self._free:
            self._free.remove(place)

    def fail_waiting(self, error: Exception) -> None:
        """No place will be free soon: raise `error` in all calls that wait."""
        while self._waiting:
            self._waiting.popleft().set_exception(error)
