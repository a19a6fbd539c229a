"""preload_app: the preload process imports the application once, and forks the workers. The arbiter's side.

So the arbiter itself runs no user code. The preload process is the first process of its generation. Until it is ready
it is recorded as the first worker: a failed import is handled like a worker that fails to boot.

A preloaded worker becomes a direct child of the arbiter. The preload process forks an intermediate process, that forks
the worker and exits at once. The arbiter adopts orphans (PR_SET_CHILD_SUBREAPER, prctl(2)) and so becomes the parent.

The arbiter does not wait for the reply to a FORK request. The worker itself replies with BORN over its own channel, so
a reply cannot be mistaken for that to another request. If the preload process, the intermediate process or the worker
dies, that channel reads end-of-file, which means that this worker will not come.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from gserver.arbiter.channel import FORK, Channel
from gserver.config.settings import Settings
from gserver.errors import GServerError

__all__ = ["PreloadProcess", "PreloadProcesses", "PreloadUnavailable", "adopt_orphans"]

_PR_SET_CHILD_SUBREAPER = 36


class PreloadUnavailable(GServerError):
    """The preload process is not ready, or its channel is closed: it cannot fork a worker."""


class PreloadProcess:
    """The arbiter's record of one preload process, with the settings that it was forked with."""

    def __init__(self, pid: int, channel: Channel, settings: Settings) -> None:
        self.pid = pid
        self.settings = settings
        self.is_ready = False
        self._channel = channel

    def request_worker(self, slot: int, age: int, end: Channel) -> None:
        """Request the fork of a worker for this scoreboard slot, and pass its end of a channel. Never blocks.

        PreloadUnavailable if the request cannot be sent.
        """
        if not self.is_ready or not self._channel.send(FORK, [str(slot), str(age)], [end.fileno()]):
            raise PreloadUnavailable(f"the preload process cannot fork (pid: {self.pid})")


class PreloadProcesses:
    """The current preload process, and during a reload the previous one, in case the reload fails.

    Args:
        end: called with the pid of a preload process that is not needed any more, to close its channel. That ends it.
    """

    def __init__(self, end: Callable[[int], None]) -> None:
        self.current: PreloadProcess | None = None
        #: During a reload: the process that is used again if the reload fails.
        self.previous: PreloadProcess | None = None
        self._is_reloading = False
        self._end = end

    @property
    def is_ready(self) -> bool:
        """Whether workers can be forked now; otherwise a preload process must be forked first."""
        return self.current is not None and self.current.is_ready

    @property
    def is_booting(self) -> bool:
        return self.current is not None and not self.current.is_ready

    def begin_reload(self) -> None:
        """From now on, workers need a new preload process, which the next fork makes."""
        if not self._is_reloading and self.is_ready:
            self.previous = self.current
        else:  # it is not ready, or belongs to a reload that is abandoned for this one
            self._dismiss(self.current)
        self.current, self._is_reloading = None, True

    def end_reload(self, succeeded: bool) -> None:
        """Keep the new preload process after a success, the previous one, if it still runs, after a failure."""
        if self._is_reloading:
            self._dismiss(self.previous if succeeded else self.current)
            self.current = self.current if succeeded else self.previous
            self.previous, self._is_reloading = None, False

    def lost(self, pid: int) -> bool:
        """A preload process has ended: forget it, and return whether it was still needed."""
        if self.current is not None and self.current.pid == pid:
            self.current = None
        elif self.previous is not None and self.previous.pid == pid:
            self.previous = None
        else:
            return False
        return True

    def dismiss_all(self) -> None:
        """End all preload processes: no more workers are needed."""
        self._dismiss(self.current)
        self._dismiss(self.previous)
        self.current = self.previous = None

    def _dismiss(self, preload_process: PreloadProcess | None) -> None:
        if preload_process is not None:
            self._end(preload_process.pid)


def adopt_orphans(is_needed: bool) -> None:
    """Become the parent of orphaned descendants (prctl(2)); OSError if that fails and `is_needed`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 and is_needed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
