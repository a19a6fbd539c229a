"""preload_app: a process that imports the application once, and that workers are forked from.

The arbiter stays free of the user's code. A mold is the first process of its generation: until it is ready it stands in
the book of workers in place of the one that it will fork first, so whatever can go wrong with a worker that boots goes
the same way. A worker forked from it is nobody's grandchild: the process between them ends at once, and the arbiter,
which has declared itself the reaper of orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), becomes its parent.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
from collections.abc import Callable

from gserver.arbiter.channel import FORK, FORKED, Channel
from gserver.errors import GServerError

__all__ = ["Mold", "MoldBroken", "Molds", "adopt_orphans"]

_PR_SET_CHILD_SUBREAPER = 36
# A mold that is ready only waits for orders.
ANSWER_S = 5.0


class MoldBroken(GServerError):
    """The mold did not fork."""


class Mold:
    """The arbiter's side of one mold process."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.is_ready = False
        self._channel = channel

    def fork(self, slot: int, age: int, end: Channel) -> int:
        """Have a worker forked for a place of the scoreboard, with its end of a channel; return its pid."""
        if not self.is_ready or not self._channel.send(FORK, [str(slot), str(age)], [end.fileno()]):
            raise MoldBroken("it is not ready")
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            if not selector.select(ANSWER_S):
                raise MoldBroken(f"it did not answer within {ANSWER_S:g} s")
        answer = self._channel.receive()
        if answer is None or answer.word != FORKED:
            raise MoldBroken("it is gone")
        return int(answer.addresses[0])


class Molds:
    """The mold that workers come from, and during a reload the one from before it, to go back to if it fails.

    Args:
        end: called with the pid of a mold that is needed no more; to close its channel, which ends it.
    """

    def __init__(self, end: Callable[[int], None]) -> None:
        self.current: Mold | None = None
        self._former: Mold | None = None
        self._ending: set[int] = set()
        self._end = end

    def begin_reload(self) -> None:
        """From now on, workers come from a mold that is still to be made."""
        if self._former is None:
            self._former = self.current
        else:  # the one of a reload that is given up for this one
            self._dismiss(self.current)
        self.current = None

    def end_reload(self, succeeded: bool) -> None:
        """Workers come from the new mold, or again from the one before."""
        if self._former is not None:
            self._dismiss(self._former if succeeded else self.current)
            self.current = self.current if succeeded else self._former
            self._former = None

    def lost(self, pid: int) -> bool:
        """A child has ended: whether it was a mold."""
        if pid in self._ending:
            self._ending.remove(pid)
        elif self.current is not None and self.current.pid == pid:
            self.current = None
        elif self._former is not None and self._former.pid == pid:
            self._former = None
        else:
            return False
        return True

    def kill(self) -> None:
        """End them all, and wait for it."""
        molds = {mold.pid for mold in (self.current, self._former) if mold is not None}
        for pid in molds | self._ending:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _dismiss(self, mold: Mold | None) -> None:
        if mold is not None:
            self._ending.add(mold.pid)
            self._end(mold.pid)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
