"""Time that a test moves: a clock, and an event loop of gevent whose timers follow it.

The loop is gevent's own, except for its timers. A thread that is inside of Clock.used() gets the clock's time from
time.monotonic() and time.time(), and its time.sleep() is gevent's; all other threads keep the real ones. Functions that
were imported by name before (`from time import monotonic`) are not replaced.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any

import gevent
from gevent import monkey

__all__ = ["Clock", "make_loop"]

# A power of two: a deadline of some seconds is then exactly on a tick of the timer wheel, and not one later.
BEGIN_S = float(2**20)
# Sums of seconds may differ by rounding.
ROUNDING_S = 1e-6
_NAMES = ("monotonic", "time", "sleep")

_get_thread = monkey.get_original("_thread", "get_ident")
_lock = threading.Lock()
_clocks: dict[int, Clock] = {}  # by thread: the clocks in use
_originals: dict[str, Any] = {}  # while there are some


class Clock:
    """A clock that stands still until it is set.

    Attributes:
        now: its time, in seconds, as time.monotonic() has it.
    """

    def __init__(self) -> None:
        self.now = BEGIN_S
        self._began_at = time.time()

    @property
    def wall(self) -> float:
        """Its time as time.time() has it: the real time of its beginning, and what has passed since."""
        return self._began_at + self.now - BEGIN_S

    @contextmanager
    def used(self) -> Iterator[None]:
        """The calling thread has this clock's time within the block."""
        thread = _get_thread()
        with _lock:
            if not _clocks:
                _originals.update({name: getattr(time, name) for name in _NAMES})
                time.monotonic, time.time, time.sleep = _monotonic, _time, _sleep
            _clocks[thread] = self
        try:
            yield
        finally:
            with _lock:
                del _clocks[thread]
                if not _clocks:
                    for name in _NAMES:
                        setattr(time, name, _originals[name])


def _monotonic() -> float:
    clock = _clocks.get(_get_thread())
    return float(_originals["monotonic"]()) if clock is None else clock.now


def _time() -> float:
    clock = _clocks.get(_get_thread())
    return float(_originals["time"]()) if clock is None else clock.wall


def _sleep(seconds: Any, /) -> None:
    if _get_thread() in _clocks:
        gevent.sleep(seconds)
    else:
        _originals["sleep"](seconds)


class _Timer:
    """A timer watcher, with the interface of gevent's."""

    def __init__(self, loop: Any, after: float, repeat: float, ref: bool, priority: int | None) -> None:
        self.loop = loop
        self.after = after
        self.repeat = repeat
        self.ref = ref
        self.priority = priority
        self.callback: Callable[..., Any] | None = None
        self.args: tuple[Any, ...] = ()
        self._generation = 0  # what is on the heap from an earlier start() is not due

    @property
    def active(self) -> bool:
        return self.callback is not None

    pending = False

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        self.callback, self.args = callback, args
        self._schedule(self.after)

    def again(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        self.callback, self.args = callback, args
        self._schedule(self.repeat)

    def _schedule(self, after: float) -> None:
        self._generation += 1
        self.loop.place(self, self._generation, max(0.0, after))

    def fire(self, generation: int) -> None:
        """It is due: have the loop call the callback, unless it was stopped or started again meanwhile."""
        if generation != self._generation or self.callback is None:
            return
        callback, args = self.callback, self.args
        if self.repeat:
            self._schedule(self.repeat)
        else:
            self.stop()
        self.loop.run_callback(callback, *args)

    def stop(self) -> None:
        self.callback, self.args = None, ()

    def close(self) -> None:
        self.stop()

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *of_error: object) -> None:
        self.close()


def make_loop(clock: Clock) -> Any:
    """Return an event loop of the class that gevent uses, with timers by `clock`.

    Beside gevent's methods it has `work`, the number of callbacks that were scheduled so far, limit(), next_due
    and fire_due().
    """
    plain: Any = gevent.config.loop

    class VirtualLoop(plain):  # type: ignore[misc]
        def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None) -> _Timer:
            return _Timer(self, after, repeat, ref, priority)

        def run_callback(self, callback: Callable[..., Any], *args: Any) -> Any:
            self.work += 1
            if self.work == self.most_work:
                super().run_callback(self.give_up)
            return super().run_callback(callback, *args)

        def limit(self, most: int, give_up: Callable[[], object]) -> None:
            """Call `give_up` when so many more callbacks have been scheduled."""
            self.most_work, self.give_up = self.work + most, give_up

        def place(self, timer: _Timer, generation: int, after: float) -> None:
            heappush(self.timers, (clock.now + after, next(self.numbers), generation, timer))

        @property
        def next_due(self) -> float | None:
            """When the next timer is due; None: there is none."""
            return self.timers[0][0] if self.timers else None

        def fire_due(self) -> None:
            """Fire the timers that are due by the clock."""
            while self.timers and self.timers[0][0] <= clock.now + ROUNDING_S:
                _, _, generation, timer = heappop(self.timers)
                timer.fire(generation)

    loop: Any = VirtualLoop(default=False)
    loop.work, loop.most_work, loop.timers, loop.numbers = 0, -1, [], itertools.count()
    return loop
