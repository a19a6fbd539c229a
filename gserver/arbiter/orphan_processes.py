"""Ends orphan processes: those that the application started in a worker, and that did not end with that worker.

An orphan gets TERM, and SIGKILL a second later. A worker that exits in order sends TERM itself, and the pidfds of its
orphans to the arbiter. Before the arbiter kills a worker, it collects the pidfds of the processes below that worker. It
also adopts orphans (PR_SET_CHILD_SUBREAPER): so when the server stops, the remaining ones are its children, such as
those of a worker that another program killed.

These are left alone: processes in a session of their own (setsid(2)), children from before the arbiter's start, and
processes that the arbiter's hooks have started.

Closes: the pidfd of a process when it has ended; close() and leave_to_child() close all.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterable, Iterator

from gserver.process.descendants import children_of, close_all, hold, is_below, send

__all__ = ["OrphanProcesses"]

# Between TERM and KILL.
TERM_S = 1.0
# After KILL: how long to wait for the end of a process before it is given up.
KILLED_S = 1.0


class OrphanProcesses:
    """The orphan processes that have been sent a signal and have not ended yet.

    Args:
        selector: every pidfd is registered here, with the function to call when it is readable as data.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._kill_at: dict[int, float] = {}
        self._give_up_at: dict[int, float] = {}  # by descriptor, for those that got KILL
        self._exempt = children_of(os.getpid())

    def __len__(self) -> int:
        return len(self._kill_at) + len(self._give_up_at)

    @property
    def wakes_at(self) -> float | None:
        return min([*self._kill_at.values(), *self._give_up_at.values()], default=None)

    def watch(self, descriptors: Iterable[int], now: float, number: int | None = None) -> None:
        """Wait for the end of these processes, and kill them after a second. `number`: a signal to send them now."""
        for descriptor in descriptors:
            if number is not None:
                send([descriptor], number)
            self._kill_at[descriptor] = now + TERM_S
            self._selector.register(descriptor, selectors.EVENT_READ, self._forgetter(descriptor))

    def watch_reported(self, descriptors: Iterable[int], now: float) -> None:
        """watch() the processes that a worker has reported, but only those below the arbiter.

        So a worker cannot make the arbiter signal a foreign process.
        """
        for descriptor in descriptors:
            if is_below(descriptor, os.getpid()):
                self.watch([descriptor], now)
            else:  # a foreign process, or one that has ended
                close_all([descriptor])

    def kill_overdue(self, now: float) -> None:
        """Send SIGKILL to the orphans that exceeded their time limit; give up those that SIGKILL has not ended."""
        for descriptor in [each for each, at in self._give_up_at.items() if now >= at]:
            self._forget(descriptor)
        for descriptor in [each for each, at in self._kill_at.items() if now >= at]:
            send([descriptor], signal.SIGKILL)
            del self._kill_at[descriptor]
            self._give_up_at[descriptor] = now + KILLED_S

    def sweep(self, now: float, is_child_of_arbiter: Callable[[int], bool]) -> bool:
        """When no worker is left: watch() all adopted orphans. Return whether any process is still waited for.

        Args:
            is_child_of_arbiter: whether the arbiter has forked this pid itself. Such a child is being stopped already,
                and gets no TERM here.
        """
        if self:
            return True
        arbiter = os.getpid()
        for pid in children_of(arbiter) - self._exempt:
            self._exempt.add(pid)
            descriptor = hold(pid, arbiter, os.getsid(0))
            if descriptor is not None:
                self.watch([descriptor], now, None if is_child_of_arbiter(pid) else signal.SIGTERM)
        return bool(self)

    def exempt(self, pid: int) -> None:
        self._exempt.add(pid)

    @contextlib.contextmanager
    def exempting(self) -> Iterator[None]:
        """Exempt the processes that are started inside the with block."""
        before = children_of(os.getpid())
        try:
            yield
        finally:
            self._exempt |= children_of(os.getpid()) - before

    def leave_to_child(self) -> None:
        """In a child process: close the pidfds. The selector is the arbiter's and is not changed."""
        close_all([*self._kill_at, *self._give_up_at])
        self._kill_at.clear()
        self._give_up_at.clear()

    def close(self) -> None:
        for descriptor in [*self._kill_at, *self._give_up_at]:
            self._forget(descriptor)

    def _forgetter(self, descriptor: int) -> Callable[[], None]:
        return lambda: self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        if self._kill_at.pop(descriptor, None) is None and self._give_up_at.pop(descriptor, None) is None:
            return
        self._selector.unregister(descriptor)
        close_all([descriptor])
