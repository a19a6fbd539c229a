"""The worker processes themselves: forking them, talking with them, and their places on the scoreboard.

What should happen to whom is decided in children.py; this does it.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import selectors
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gserver.arbiter.channel import Channel, Message
from gserver.arbiter.children import Stroke
from gserver.arbiter.listeners import Lane
from gserver.arbiter.mold import Mold, MoldBroken, Molds
from gserver.arbiter.scoreboard import Place, Scoreboard
from gserver.arbiter.signals import SignalQueue
from gserver.process.child import fork_child
from gserver.settings import MAX_WORKERS, Settings

if TYPE_CHECKING:
    from gserver.tls import Tls

__all__ = ["EXIT_CANNOT_START", "Crew", "Post", "RunWorker"]

log = logging.getLogger("gserver.arbiter")

# The status of a worker that never came to serve, and of an arbiter whose application never did.
EXIT_CANNOT_START = 3

_STROKE_SIGNALS = {Stroke.DUMP: signal.SIGUSR2, Stroke.ABORT: signal.SIGABRT, Stroke.KILL: signal.SIGKILL}


@dataclass
class Post:
    """What a worker is given by its arbiter."""

    settings: Settings
    age: int
    place: Place
    scoreboard: Scoreboard
    channel: Channel
    server: Any  # the Arbiter, for the hooks; in the worker, a copy of what it was at the fork
    tls: Tls | None = None
    served: Any = None  # the application, where it was loaded before


#: The worker's part: called in the child, returns the exit status.
RunWorker = Callable[[Post], int]


class Crew:
    """Forks workers and keeps their channels and places.

    Args:
        run_worker, run_mold: called in every child.
        selector: told of every channel; data is the worker's pid.
        forget: called in every child, to drop what is the arbiter's.

    Closes: channels, when their worker closes its end, and close().
    """

    def __init__(
        self,
        run_worker: RunWorker,
        run_mold: RunWorker,
        selector: selectors.BaseSelector,
        signals: SignalQueue,
        forget: Callable[[], None],
    ) -> None:
        self.scoreboard = Scoreboard(2 * MAX_WORKERS)
        self._run_worker = run_worker
        self._run_mold = run_mold
        self.molds = Molds(self._hang_up)
        self._selector = selector
        self._signals = signals
        self._forget = forget
        self._channels: dict[int, Channel] = {}
        self._places: dict[int, Place] = {}

    def fork(self, server: Any, settings: Settings, age: int, tls: Tls | None) -> int:
        """Return the pid of a new worker, or of a mold that will be one; OSError or MoldBroken if there can be none."""
        try:
            place = self.scoreboard.free_place()
        except IndexError:
            raise OSError(errno.EAGAIN, "there are too many workers, those that drain included") from None
        ours, theirs = Channel.pair()
        place.take(age)  # its counts are the worker's from the fork on
        post = Post(settings, age, place, self.scoreboard, theirs, server, tls)
        try:
            if not settings.preload_app:
                pid = self._fork(functools.partial(self._run_worker, post), ours)
            elif self.molds.current is None:
                pid = self._fork(functools.partial(self._run_mold, post), ours)
                self.molds.current = Mold(pid, ours)
            else:
                pid = self.molds.current.fork(place.index, age, theirs)
        except (OSError, MoldBroken):
            place.leave()
            ours.close()
            raise
        finally:
            theirs.close()
        self._know(pid, ours, place)
        return pid

    def _know(self, pid: int, channel: Channel, place: Place) -> None:
        place.belongs_to(pid)
        self._channels[pid], self._places[pid] = channel, place
        self._selector.register(channel, selectors.EVENT_READ, pid)

    def fork_helper(self, run: Callable[[], int]) -> int:
        """Return the pid of a child that is no worker; it gets no place and no channel."""
        return self._fork(run)

    def _fork(self, run: Callable[[], int], *not_its: Channel) -> int:
        with self._signals.held():
            return fork_child(functools.partial(self._enter, run, not_its))

    def molded(self, server: Any, settings: Settings, age: int, tls: Tls | None) -> int:
        """The newest mold is ready: have it fork the worker in whose place it stood; return its pid."""
        mold = self.molds.current
        assert mold is not None
        mold.is_ready = True
        self._places.pop(mold.pid).leave()
        return self.fork(server, settings, age, tls)

    def _enter(self, run: Callable[[], int], not_its: Sequence[Channel]) -> int:
        """In the child: drop what is the arbiter's, and run."""
        self._signals.leave_to_child()
        for channel in [*not_its, *self._channels.values()]:
            channel.close()
        self._forget()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return run()

    def deadlines(self) -> dict[int, float]:
        """By pid, when each worker must have been heard of again."""
        return {pid: deadline for pid, place in self._places.items() if (deadline := place.deadline) is not None}

    def tell(self, pid: int, word: str, addresses: Sequence[str] = (), lanes: Iterable[Lane] = ()) -> None:
        """Say something to a worker; to one that does not listen any more, nothing."""
        channel = self._channels.get(pid)
        if channel is None:
            return
        listeners = [(str(bind), listener.fileno()) for lane in lanes for bind, listener in lane.items()]
        channel.send(word, [*addresses, *(address for address, _ in listeners)], [fd for _, fd in listeners])

    def hear(self, pid: int) -> list[Message]:
        """What a worker has said. Never blocks."""
        heard = []
        while pid in self._channels:
            try:
                message = self._channels[pid].receive()
            except BlockingIOError:
                break
            if message is None:
                self._hang_up(pid)
            else:
                heard.append(message)
        return heard

    def strike(self, pid: int, stroke: Stroke) -> None:
        os.kill(pid, _STROKE_SIGNALS[stroke])

    def gone(self, pid: int) -> None:
        """A worker has been reaped."""
        self._hang_up(pid)
        if pid in self._places:
            self.scoreboard.vacate(self._places.pop(pid))

    def _hang_up(self, pid: int) -> None:
        channel = self._channels.pop(pid, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()

    def close(self) -> None:
        for pid in list(self._channels):
            self._hang_up(pid)
        self.molds.kill()
