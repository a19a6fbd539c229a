"""preload_app: a process that imports the application once, and that workers are forked from.

The arbiter stays free of the user's code. A mold is the first process of its generation: until it is ready it stands in
the book of workers in place of the one that it will fork first, so whatever can go wrong with a worker that boots goes
the same way. A worker forked from it is nobody's grandchild: the process between them ends at once, and the arbiter,
which has declared itself the reaper of orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), becomes its parent.

An order to a mold is not waited for. The worker answers it by itself, over its own channel, so no answer can be taken
for that to another order; and whatever dies on the way, the end of that channel tells that nobody will come.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from gserver.arbiter.channel import FORK, Channel
from gserver.errors import GServerError

__all__ = ["Mold", "MoldBroken", "Molds", "adopt_orphans"]

_PR_SET_CHILD_SUBREAPER = 36


class MoldBroken(GServerError):
    """A mold cannot be told to fork."""


class Mold:
    """The arbiter's side of one mold process."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.is_ready = False
        self._channel = channel

    def order(self, slot: int, age: int, end: Channel) -> None:
        """Have a worker forked for a place of the scoreboard, with its end of a channel. Never blocks."""
        if not self.is_ready or not self._channel.send(FORK, [str(slot), str(age)], [end.fileno()]):
            raise MoldBroken(f"the mold (pid: {self.pid}) takes no orders")


class Molds:
    """The mold that workers come from, and during a reload the one from before it, to go back to if it fails.

    Args:
        end: called with the pid of a mold that is needed no more; to close its channel, which ends it.
    """

    def __init__(self, end: Callable[[int], None]) -> None:
        self.current: Mold | None = None
        self._former: Mold | None = None
        self._is_reloading = False
        self._end = end

    @property
    def is_ready(self) -> bool:
        """Whether workers can be forked from a mold; else the next fork is that of a mold, which takes its time."""
        return self.current is not None and self.current.is_ready

    @property
    def is_booting(self) -> bool:
        return self.current is not None and not self.current.is_ready

    def begin_reload(self) -> None:
        """From now on, workers come from a mold that is still to be made."""
        if not self._is_reloading and self.is_ready:
            self._former = self.current
        else:  # it is not ready, or that of a reload that is given up for this one
            self._dismiss(self.current)
        self.current, self._is_reloading = None, True

    def end_reload(self, succeeded: bool) -> None:
        """Workers come from the new mold, or again from the one before, if it is still there."""
        if self._is_reloading:
            self._dismiss(self._former if succeeded else self.current)
            self.current = self.current if succeeded else self._former
            self._former, self._is_reloading = None, False

    def lost(self, pid: int) -> bool:
        """A mold has ended: whether it was still needed."""
        if self.current is not None and self.current.pid == pid:
            self.current = None
        elif self._former is not None and self._former.pid == pid:
            self._former = None
        else:
            return False
        return True

    def dismiss_all(self) -> None:
        """No more workers are needed."""
        self._dismiss(self.current)
        self._dismiss(self._former)
        self.current = self._former = None

    def _dismiss(self, mold: Mold | None) -> None:
        if mold is not None:
            self._end(mold.pid)


def adopt_orphans(is_needed: bool) -> None:
    """Become the parent of every descendant whose own parent ends; OSError if that is needed and cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 and is_needed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
