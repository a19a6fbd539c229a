"""The worker processes: forks them, keeps their channels and scoreboard slots, and sends them messages and signals.

supervision.py decides what to do; this module does it. A *pending* worker was requested from the preload process and
has no pid yet. Until it is forked, the negative of its age stands for its pid.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gserver.arbiter.channel import MAX_DESCRIPTORS, QUESTION, REOPEN, SET, Channel, Message
from gserver.arbiter.child_processes import Death, Ended, Processes
from gserver.arbiter.listeners import Lane
from gserver.arbiter.preload import PreloadProcess, PreloadProcesses, PreloadUnavailable
from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.arbiter.signals import SignalQueue
from gserver.arbiter.supervision import KillStage
from gserver.config.live_settings import LIVE, changed_names, plain_values
from gserver.config.settings import MAX_WORKERS, Settings
from gserver.errors import ConfigError
from gserver.process import logs
from gserver.process.descendants import close_all, descendants

if TYPE_CHECKING:
    from gserver.arbiter.certificates import TlsOfListeners

__all__ = ["EXIT_CANNOT_START", "RunWorker", "WorkerContext", "WorkerProcesses"]

log = logging.getLogger("gserver.arbiter")

# The exit status of a worker that could not start to serve, and of an arbiter without a single such worker.
EXIT_CANNOT_START = 3

_KILL_SIGNALS = {KillStage.DUMP: signal.SIGUSR2, KillStage.ABORT: signal.SIGABRT, KillStage.KILL: signal.SIGKILL}


@dataclass
class WorkerContext:
    """What the arbiter passes to a worker at the fork."""

    settings: Settings
    age: int
    slot: Slot
    scoreboard: Scoreboard
    channel: Channel
    server: Any  # the Arbiter, for the hooks; in the worker, its copy from the fork
    tls: TlsOfListeners = field(default_factory=dict)
    served: Any = None  # the applications by their texts, if the preload process has loaded them
    imported_files: Any = None  # with `served`: the ImportedFiles of the preload process


#: The main function of a worker: called in the child, returns the exit status.
RunWorker = Callable[[WorkerContext], int]


class WorkerProcesses:
    """Forks workers and preload processes, and keeps their channels and slots.

    Args:
        run_worker, run_preload_process: the main functions of the children.
        selector: every channel is registered here, with the worker's pid as data.
        signals: detached in every child.
        processes: the table in which all children are recorded.
        ended: called for each worker that has ended, and for each preload process that ends before it is ready.
        forget: called in every child, to close what belongs to the arbiter only.

    Closes: a channel when its worker has closed the other end; close() closes all.
    """

    def __init__(
        self,
        run_worker: RunWorker,
        run_preload_process: RunWorker,
        selector: selectors.BaseSelector,
        signals: SignalQueue,
        processes: Processes,
        ended: Ended,
        forget: Callable[[], None],
    ) -> None:
        self.scoreboard = Scoreboard(2 * MAX_WORKERS)
        self._run_worker = run_worker
        self._run_preload_process = run_preload_process
        self.preload = PreloadProcesses(self._close_channel)
        self._selector = selector
        self._signals = signals
        self._processes = processes
        self._ended = ended
        self._forget = forget
        self._channels: dict[int, Channel] = {}
        self._slots: dict[int, Slot] = {}
        # By pid of a worker that is being killed: pidfds of the processes below it.
        self._orphans_of: dict[int, list[int]] = {}
        self._requested_from: dict[int, int] = {}  # pending worker -> the pid of the preload process

    def fork(self, server: Any, settings: Settings, age: int, tls: TlsOfListeners) -> int:
        """Fork a worker, or a preload process if one is needed first, or request a worker from the preload process.

        Return the pid, or the negative number of a pending worker. OSError or PreloadUnavailable if that fails. Never
        blocks.
        """
        try:
            slot = self.scoreboard.free_slot()
        except IndexError:
            raise OSError(errno.EAGAIN, "there are too many workers, including those that drain") from None
        ours, theirs = Channel.pair()
        slot.reserve(age)  # before the fork: from then on the worker writes its counts
        context = WorkerContext(settings, age, slot, self.scoreboard, theirs, server, tls)
        try:
            if not settings.preload_app:
                pid = self._fork(functools.partial(self._run_worker, context), self._ended, ours)
            elif self.preload.current is None:
                pid = self._fork(
                    functools.partial(self._run_preload_process, context), self._preload_process_ended, ours
                )
                self.preload.current = PreloadProcess(pid, ours, settings)
            else:
                self.preload.current.request_worker(slot.index, age, theirs)
                # It forks workers with the settings of its own start: they get those that were changed since.
                values = _live_changes(self.preload.current.settings, settings)
                if values:
                    ours.send(SET, [json.dumps(values)])
                pid = -age
                self._requested_from[pid] = self.preload.current.pid
        except (OSError, PreloadUnavailable):
            slot.release()
            ours.close()
            raise
        finally:
            theirs.close()
        if pid > 0:
            slot.assign(pid)
        self._channels[pid], self._slots[pid] = ours, slot
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return pid

    def fork_helper(self, run: Callable[[], int], ended: Ended) -> int:
        """Fork a child that is not a worker, without slot and channel; return its pid."""
        return self._fork(run, ended)

    def _fork(self, run: Callable[[], int], ended: Ended, *arbiters_ends: Channel) -> int:
        return self._processes.fork(functools.partial(self._run_child, run, arbiters_ends), ended)

    # The preload process, and the workers that it forks

    def preloaded(self, pid: int) -> bool:
        """A preload process is ready: free its slot. Return False if it is not the current one."""
        preload_process = self.preload.current
        if preload_process is None or preload_process.pid != pid:
            return False
        preload_process.is_ready = True
        self._slots.pop(pid).release()
        return True

    def forked(self, pending: int, pid: int) -> None:
        """A pending worker has been forked: record it under its pid."""
        slot, channel = self._slots.pop(pending), self._channels.pop(pending)
        del self._requested_from[pending]
        self._processes.add(pid, self._ended)
        slot.assign(pid)
        self._channels[pid], self._slots[pid] = channel, slot
        self._selector.modify(channel, selectors.EVENT_READ, pid)

    def pending(self) -> list[int]:
        return list(self._requested_from)

    def can_be_forked(self, pending: int) -> bool:
        """False after the end of its channel: then every process that could fork this worker, or be it, has ended."""
        return pending in self._channels

    def refuse(self, pending: int) -> None:
        """Refuse a BORN message of this worker from now on; one that was sent before can still be received."""
        if pending in self._channels:
            self._channels[pending].shut()

    def kill_preload_process_of(self, pending: int) -> None:
        """Kill the preload process that has not forked this worker in time; the next fork makes another one."""
        preload_process = self._requested_from[pending]
        if self.preload.lost(preload_process):
            log.error("The preload process does not fork workers, killing it (pid: %d)", preload_process)
            self._processes.signal(preload_process, signal.SIGKILL)

    def _preload_process_ended(self, death: Death) -> None:
        death = replace(death, what="Preload process ended")
        is_needed = self.preload.lost(death.pid)
        if death.pid in self._slots:
            self._ended(death)
        else:
            self._close_channel(death.pid)
            log.log(logging.ERROR if is_needed else logging.INFO, "%s", death)

    def _run_child(self, run: Callable[[], int], arbiters_ends: Sequence[Channel]) -> int:
        """In the child: close what belongs to the arbiter, and call run()."""
        self._signals.leave_to_child()
        self._processes.leave_to_child()
        for channel in [*arbiters_ends, *self._channels.values()]:
            channel.close()
        for descriptors in self._orphans_of.values():
            close_all(descriptors)
        self._forget()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return run()

    def deadlines(self) -> dict[int, float]:
        """By pid: when the next heartbeat of a worker is due at the latest."""
        return {pid: deadline for pid, slot in self._slots.items() if (deadline := slot.deadline) is not None}

    def reopen_logs(self) -> None:
        """Send the log files that the arbiter has opened to all workers, also to booting ones."""
        files = logs.descriptors()
        for channel in self._channels.values():
            channel.send(REOPEN, list(files), list(files.values()))

    def send(self, pid: int, kind: str, addresses: Sequence[str] = (), lanes: Iterable[Lane] = ()) -> None:
        """Send a message to a worker, or several with parts of the lanes; do nothing if its channel is closed."""
        channel = self._channels.get(pid)
        if channel is None:
            return
        listeners = [(str(bind), listener.fileno()) for lane in lanes for bind, listener in lane.items()]
        for first in range(0, max(1, len(listeners)), MAX_DESCRIPTORS):
            part = listeners[first : first + MAX_DESCRIPTORS]
            channel.send(kind, [*addresses, *(address for address, _ in part)], [fd for _, fd in part])

    def pass_on(self, pid: int, kind: str, addresses: Sequence[str], descriptors: Sequence[int] = ()) -> bool:
        """Send a message with descriptors, which stay open here; return False if that is not possible."""
        channel = self._channels.get(pid)
        return channel is not None and channel.send(kind, addresses, descriptors)

    def check_fits(self, values: Mapping[str, Any], settings: Settings, before: Settings) -> None:
        """ConfigError if set_live() cannot send these values, or fork() could not pass them on to a later worker.

        Args:
            settings: the settings with these values.
            before: the same, of those that a failed reload goes back to.
        """
        preloaded = ((self.preload.current, settings), (self.preload.previous, before))
        messages = [_live_changes(each.settings, then) for each, then in preloaded if each is not None]
        if not all(Channel.fits(SET, [json.dumps(message)]) for message in (values, *messages)):
            names = ", ".join(values)
            raise ConfigError(f"too much for running workers: {names}; change the configuration, and reload")

    def set_live(self, values: Mapping[str, Any]) -> list[int]:
        """Send values of live settings to all workers, also to booting ones; return those that did not get them."""
        text = json.dumps(values)
        return [pid for pid, channel in self._channels.items() if not channel.send(SET, [text])]

    def ask(self, pid: int, text: str) -> bool:
        """Send a QUESTION to a worker; return False if that is not possible."""
        channel = self._channels.get(pid)
        return channel is not None and channel.send(QUESTION, [text])

    def receive(self, pid: int) -> list[Message]:
        """The messages that a worker has sent. Closes the channel at end-of-file. Never blocks."""
        received = []
        while pid in self._channels:
            try:
                message = self._channels[pid].receive()
            except BlockingIOError:
                break
            if message is None:
                self._close_channel(pid)
            else:
                received.append(message)
        return received

    def kill(self, pid: int, kill_stage: KillStage) -> None:
        if kill_stage is KillStage.DUMP and self._slots[pid].deadline is None:
            # It has no heartbeat yet. A passed deadline shows it that the signal is not from an operator.
            self._slots[pid].deadline = time.monotonic()
        if kill_stage is not KillStage.DUMP and pid in self._processes:
            close_all(self._orphans_of.pop(pid, []))
            self._orphans_of[pid] = descendants(pid)
        self._processes.signal(pid, _KILL_SIGNALS[kill_stage])

    def remove(self, pid: int) -> list[int]:
        """Forget a worker that has been reaped or will not be forked. Return the known pidfds of its orphans."""
        self._close_channel(pid)
        self._requested_from.pop(pid, None)
        if pid in self._slots:
            self.scoreboard.vacate(self._slots.pop(pid))
        return self._orphans_of.pop(pid, [])

    def _close_channel(self, pid: int) -> None:
        channel = self._channels.pop(pid, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()

    def close(self) -> None:
        for pid in list(self._channels):
            self._close_channel(pid)
        for descriptors in self._orphans_of.values():
            close_all(descriptors)


def _live_changes(before: Settings, after: Settings) -> dict[str, Any]:
    """The live settings that differ, with their values after."""
    return plain_values(after, [name for name in changed_names(before, after) if name in LIVE])
