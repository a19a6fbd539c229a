"""The worker processes themselves: forking them, talking with them, and their places on the scoreboard.

What should happen to whom is decided in supervision.py; this does it. A worker that a mold is to fork has no process id
yet: until it is born it goes by a number less than 0, the negative of its age.
"""

from __future__ import annotations

import errno
import functools
import logging
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gserver.arbiter.channel import REOPEN, Channel, Message
from gserver.arbiter.child_processes import Death, Ended, Processes
from gserver.arbiter.listeners import Lane
from gserver.arbiter.preload import Mold, MoldBroken, Molds
from gserver.arbiter.scoreboard import Place, Scoreboard
from gserver.arbiter.signals import SignalQueue
from gserver.arbiter.supervision import KillStage
from gserver.config.settings import MAX_WORKERS, Settings
from gserver.process import logs
from gserver.process.descendants import close_all, descendants

if TYPE_CHECKING:
    from gserver.tls.contexts import Tls

__all__ = ["EXIT_CANNOT_START", "Crew", "Post", "RunWorker"]

log = logging.getLogger("gserver.arbiter")

# The status of a worker that never came to serve, and of an arbiter whose application never did.
EXIT_CANNOT_START = 3

_KILL_SIGNALS = {KillStage.DUMP: signal.SIGUSR2, KillStage.ABORT: signal.SIGABRT, KillStage.KILL: signal.SIGKILL}


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
        processes: the book in which they are entered.
        ended: told of each worker that has ended, and of each mold that ends while it stands in a worker's place.
        forget: called in every child, to drop what is the arbiter's.

    Closes: channels, when their worker closes its end, and close().
    """

    def __init__(
        self,
        run_worker: RunWorker,
        run_mold: RunWorker,
        selector: selectors.BaseSelector,
        signals: SignalQueue,
        processes: Processes,
        ended: Ended,
        forget: Callable[[], None],
    ) -> None:
        self.scoreboard = Scoreboard(2 * MAX_WORKERS)
        self._run_worker = run_worker
        self._run_mold = run_mold
        self.molds = Molds(self._hang_up)
        self._selector = selector
        self._signals = signals
        self._processes = processes
        self._ended = ended
        self._forget = forget
        self._channels: dict[int, Channel] = {}
        self._places: dict[int, Place] = {}
        self._left_by: dict[int, list[int]] = {}  # worker under strokes -> descriptors of what it will leave behind
        self._ordered_from: dict[int, int] = {}  # unborn worker -> the pid of the mold that is to fork it

    def fork(self, server: Any, settings: Settings, age: int, tls: Tls | None) -> int:
        """Return the pid of a new worker, or of a mold that will be one, or the number of one that a mold will fork.

        OSError or MoldBroken if there can be none. Never blocks.
        """
        try:
            place = self.scoreboard.free_place()
        except IndexError:
            raise OSError(errno.EAGAIN, "there are too many workers, those that drain included") from None
        ours, theirs = Channel.pair()
        place.take(age)  # its counts are the worker's from the fork on
        post = Post(settings, age, place, self.scoreboard, theirs, server, tls)
        try:
            if not settings.preload_app:
                pid = self._fork(functools.partial(self._run_worker, post), self._ended, ours)
            elif self.molds.current is None:
                pid = self._fork(functools.partial(self._run_mold, post), self._mold_ended, ours)
                self.molds.current = Mold(pid, ours)
            else:
                self.molds.current.order(place.index, age, theirs)
                pid = -age
                self._ordered_from[pid] = self.molds.current.pid
        except (OSError, MoldBroken):
            place.leave()
            ours.close()
            raise
        finally:
            theirs.close()
        if pid > 0:
            place.belongs_to(pid)
        self._channels[pid], self._places[pid] = ours, place
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return pid

    def fork_helper(self, run: Callable[[], int], ended: Ended) -> int:
        """Return the pid of a child that is no worker; it gets no place and no channel."""
        return self._fork(run, ended)

    def _fork(self, run: Callable[[], int], ended: Ended, *not_its: Channel) -> int:
        return self._processes.fork(functools.partial(self._enter, run, not_its), ended)

    # Molds, and the workers that they fork

    def molded(self, pid: int) -> bool:
        """A mold is ready, and leaves the place of the worker it stood for; whether workers are to come from it."""
        mold = self.molds.current
        if mold is None or mold.pid != pid:
            return False
        mold.is_ready = True
        self._places.pop(pid).leave()
        return True

    def born(self, unborn: int, pid: int) -> None:
        """A mold has forked this worker: from now on it goes by its pid."""
        place, channel = self._places.pop(unborn), self._channels.pop(unborn)
        del self._ordered_from[unborn]
        self._processes.add(pid, self._ended)
        place.belongs_to(pid)
        self._channels[pid], self._places[pid] = channel, place
        self._selector.modify(channel, selectors.EVENT_READ, pid)

    def unborn(self) -> list[int]:
        return list(self._ordered_from)

    def will_be_born(self, unborn: int) -> bool:
        """No more when its channel has ended: whoever could fork it, or be it, has ended too."""
        return unborn in self._channels

    def shut_out(self, unborn: int) -> None:
        """One that comes later cannot be born; one that was born in this moment is still to be heard."""
        if unborn in self._channels:
            self._channels[unborn].shut()

    def kill_mold_of(self, unborn: int) -> None:
        """It has not forked this worker in time; the next one comes from another mold."""
        mold = self._ordered_from[unborn]
        if self.molds.lost(mold):
            log.error("The mold does not fork, and is killed (pid: %d)", mold)
            self._processes.signal(mold, signal.SIGKILL)

    def _mold_ended(self, death: Death) -> None:
        death = replace(death, what="Mold ended")
        is_needed = self.molds.lost(death.pid)
        if death.pid in self._places:
            self._ended(death)
        else:
            self._hang_up(death.pid)
            log.log(logging.ERROR if is_needed else logging.INFO, "%s", death)

    def _enter(self, run: Callable[[], int], not_its: Sequence[Channel]) -> int:
        """In the child: drop what is the arbiter's, and run."""
        self._signals.leave_to_child()
        self._processes.leave_to_child()
        for channel in [*not_its, *self._channels.values()]:
            channel.close()
        for descriptors in self._left_by.values():
            close_all(descriptors)
        self._forget()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return run()

    def deadlines(self) -> dict[int, float]:
        """By pid, when each worker must have been heard of again."""
        return {pid: deadline for pid, place in self._places.items() if (deadline := place.deadline) is not None}

    def reopen_logs(self) -> None:
        """Send the log files that the arbiter has opened to all children, the booting ones too."""
        files = logs.descriptors()
        for channel in self._channels.values():
            channel.send(REOPEN, list(files), list(files.values()))

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

    def strike(self, pid: int, stroke: KillStage) -> None:
        if stroke is KillStage.DUMP and self._places[pid].deadline is None:
            # It does not beat yet. By a deadline that is over it tells this signal from one that an operator sends.
            self._places[pid].deadline = time.monotonic()
        if stroke is not KillStage.DUMP and pid in self._processes:
            close_all(self._left_by.pop(pid, []))
            self._left_by[pid] = descendants(pid)
        self._processes.signal(pid, _KILL_SIGNALS[stroke])

    def gone(self, pid: int) -> list[int]:
        """A worker has been reaped, or will never be born; descriptors of what it left behind, as far as known."""
        self._hang_up(pid)
        self._ordered_from.pop(pid, None)
        if pid in self._places:
            self.scoreboard.vacate(self._places.pop(pid))
        return self._left_by.pop(pid, [])

    def _hang_up(self, pid: int) -> None:
        channel = self._channels.pop(pid, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()

    def close(self) -> None:
        for pid in list(self._channels):
            self._hang_up(pid)
        for descriptors in self._left_by.values():
            close_all(descriptors)
