"""What workers leave behind: processes that their application started, and that did not end with their worker.

They got TERM; a second later they get KILL. A worker that ends in order sends their descriptors; those of a worker that
the arbiter kills are collected before. What is left when the server stops, such as the processes of a worker that was
killed from outside, are children of the arbiter by then, for it adopts orphans (PR_SET_CHILD_SUBREAPER). Left alone is
what has a session of its own (setsid(2)), what was there before the arbiter, and what its hooks have started.

Closes: the descriptor of a process when it has ended; close() and leave_to_child() close all.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterable, Iterator

from gserver.process.descendants import children_of, close_all, hold, is_below, send

__all__ = ["Leftovers"]

# Between TERM and KILL.
TERM_S = 1.0
# After KILL: what the kernel may take to end a process, before nobody waits for it any more.
KILLED_S = 1.0


class Leftovers:
    """The processes that are waited for.

    Args:
        selector: told of every descriptor; its data is what to call then.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._kill_at: dict[int, float] = {}
        self._killed: dict[int, float] = {}  # descriptor -> when it is given up
        self._spared = children_of(os.getpid())

    def __len__(self) -> int:
        return len(self._kill_at) + len(self._killed)

    @property
    def wakes_at(self) -> float | None:
        return min([*self._kill_at.values(), *self._killed.values()], default=None)

    def take(self, descriptors: Iterable[int], now: float, number: int | None = None) -> None:
        """Wait for these processes from now on; first send them a signal, if they did not get one."""
        for descriptor in descriptors:
            if number is not None:
                send([descriptor], number)
            self._kill_at[descriptor] = now + TERM_S
            self._selector.register(descriptor, selectors.EVENT_READ, self._forgetter(descriptor))

    def take_reported(self, descriptors: Iterable[int], now: float) -> None:
        """Wait for what a worker has reported; nothing that it sends makes the arbiter signal a process of others."""
        for descriptor in descriptors:
            if is_below(descriptor, os.getpid()):
                self.take([descriptor], now)
            else:  # or it has ended
                close_all([descriptor])

    def kill_overdue(self, now: float) -> None:
        """Kill those whose time is over, and give up those that the kernel cannot end."""
        for descriptor in [each for each, at in self._killed.items() if now >= at]:
            self._forget(descriptor)
        for descriptor in [each for each, at in self._kill_at.items() if now >= at]:
            send([descriptor], signal.SIGKILL)
            del self._kill_at[descriptor]
            self._killed[descriptor] = now + KILLED_S

    def sweep(self, now: float, is_own: Callable[[int], bool]) -> bool:
        """When no worker is left: take all that has come to this process; whether anything is still waited for.

        Args:
            is_own: whether a child is the arbiter's own, which has been told to end in another way.
        """
        if self:
            return True
        arbiter = os.getpid()
        for pid in children_of(arbiter) - self._spared:
            self._spared.add(pid)
            descriptor = hold(pid, arbiter, os.getsid(0))
            if descriptor is not None:
                self.take([descriptor], now, None if is_own(pid) else signal.SIGTERM)
        return bool(self)

    def spare(self, pid: int) -> None:
        self._spared.add(pid)

    @contextlib.contextmanager
    def sparing(self) -> Iterator[None]:
        """Leave alone what is started meanwhile."""
        before = children_of(os.getpid())
        try:
            yield
        finally:
            self._spared |= children_of(os.getpid()) - before

    def leave_to_child(self) -> None:
        """In a child: close the descriptors. The selector is the arbiter's, and not told."""
        close_all([*self._kill_at, *self._killed])
        self._kill_at.clear()
        self._killed.clear()

    def close(self) -> None:
        for descriptor in [*self._kill_at, *self._killed]:
            self._forget(descriptor)

    def _forgetter(self, descriptor: int) -> Callable[[], None]:
        return lambda: self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        if self._kill_at.pop(descriptor, None) is None and self._killed.pop(descriptor, None) is None:
            return
        self._selector.unregister(descriptor)
        close_all([descriptor])
