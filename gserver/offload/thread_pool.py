"""The threads of a worker: gevent's own thread pool, whose threads are those of the operating system.

A thread cannot be killed. If its call is given up (timeout, handler_timeout, a killed handler), the function goes on
and its result is dropped. So that such calls do not use up the pool, another thread takes the place meanwhile: the pool
has at most twice its size. When as many calls are given up as the pool has threads, the next ones keep their places.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any

from gevent.event import AsyncResult
from gevent.threadpool import ThreadPool

from gserver.offload.errors import Timeout
from gserver.offload.places import Places

__all__ = ["Threads"]

#: Whether the function returned, and its result or its exception.
Outcome = tuple[bool, Any]


class Threads:
    """A pool of threads. They start at once.

    Args:
        size: how many calls run at the same time.
        most_waiting: how many further calls may wait.
    """

    def __init__(self, size: int, most_waiting: int) -> None:
        self._size = size
        self._pool = ThreadPool(2 * size)
        self._pool.size = size
        self._places: Places[None] = Places("thread", [None] * size, most_waiting)
        self._given_up: set[AsyncResult[Outcome]] = set()  # those whose place another thread has taken
        self.running = 0

    @property
    def waiting(self) -> int:
        return self._places.waiting

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        """Call the function in a thread. Full, Timeout, or the exception of the function."""
        began = time.monotonic()
        self._places.take(timeout_s)
        try:
            result = self._pool.spawn(_run, contextvars.copy_context(), function, arguments)
        except BaseException:  # no further thread is possible
            self._places.give(None)
            raise
        self.running += 1
        result.rawlink(self._ended)
        try:
            left_s = None if timeout_s is None else max(0.0, began + timeout_s - time.monotonic())
            result.wait(left_s)
        except BaseException:
            self._give_up(result)
            raise
        if not result.ready():
            self._give_up(result)
            raise Timeout(f"{_name_of(function)} did not return within {timeout_s:g} s, and goes on in its thread")
        outcome: Any = result.get()
        has_returned, value = outcome
        if has_returned:
            return value
        try:
            raise value
        finally:
            del value, outcome, result  # they would be a circle with the traceback

    def close(self) -> None:
        """End the threads, if none of them runs a function. Those that do end with the process."""
        if not self.running:
            self._pool.kill()

    def _give_up(self, result: AsyncResult[Outcome]) -> None:
        if not result.ready() and len(self._given_up) < self._size:
            self._given_up.add(result)
            self._places.give(None)

    def _ended(self, result: AsyncResult[Outcome]) -> None:
        """The function has ended. Called in the hub."""
        self.running -= 1
        if result in self._given_up:
            self._given_up.remove(result)
        else:
            self._places.give(None)


def _run(context: contextvars.Context, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """In the thread. The exception is returned: gevent would print one that is raised."""
    try:
        return True, context.run(function, *arguments)
    except BaseException as error:
        return False, error


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
