"""Spawns workers: forks them from the arbiter, or has the preload process fork them.

Keeps the records of workers (supervision.py) and the processes (worker_processes.py) in step: a worker is in both,
under the same number, or in neither.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gserver.arbiter.channel import Message
from gserver.arbiter.child_processes import is_child
from gserver.arbiter.preload import PreloadUnavailable
from gserver.arbiter.supervision import Child, KillStage, Supervision
from gserver.arbiter.worker_processes import WorkerProcesses
from gserver.config.settings import Settings

if TYPE_CHECKING:
    from gserver.arbiter.certificates import TlsOfListeners

__all__ = ["Spawner"]

log = logging.getLogger("gserver.arbiter")


class Spawner:
    """Spawns workers, and gives up pending ones.

    Args:
        read_messages: called with a worker's number, to read its messages and act on them.
    """

    def __init__(
        self, supervision: Supervision, workers: WorkerProcesses, read_messages: Callable[[int], None]
    ) -> None:
        self._supervision = supervision
        self._workers = workers
        self._read_messages = read_messages

    def spawn(self, server: Any, settings: Settings, age: int, tls: TlsOfListeners) -> None:
        """Spawn a worker; if that fails, the next attempt follows after a pause."""
        if settings.preload_app and self._workers.preload.is_booting:  # the previous one has ended since the decision
            return
        worker = self._fork(server, settings, age, tls)
        if worker is None:
            self._supervision.could_not_spawn(time.monotonic())
        else:
            self._supervision.spawned(worker, time.monotonic(), age=age)

    def preloaded(self, preload_process: int, server: Any, settings: Settings, tls: TlsOfListeners) -> None:
        """The preload process has imported the application: replace it in the records by its first worker."""
        if not self._workers.preloaded(preload_process) or preload_process not in self._supervision:
            return
        worker = self._fork(server, settings, self._supervision[preload_process].age, tls)
        if worker is None:
            self._supervision.exited(preload_process, time.monotonic())
        else:
            self._supervision.renamed(preload_process, worker, time.monotonic())

    def forked(self, pending: int, message: Message) -> int:
        """The preload process has forked a worker; return its pid, or `pending` if that is not a child."""
        text = message.addresses[0] if message.addresses else ""
        pid = int(text) if text.isdecimal() else 0
        if not is_child(pid):  # no message of a worker may make the arbiter signal a foreign process
            log.error("Cannot fork a worker: process %s is not a child", text)
            self._give_up(pending)
            return pending
        self._workers.forked(pending, pid)
        self._supervision.renamed(pending, pid, time.monotonic())
        return pid

    def poll_pending(self) -> None:
        """Read the messages of all pending workers: one of them may have been forked."""
        for pending in self._workers.pending():
            self._read_messages(pending)

    def check_pending(self, pending: int) -> None:
        """Give up a pending worker if no process is left that could fork it."""
        if pending in self._supervision and not self._workers.can_be_forked(pending):
            log.error("Cannot fork a worker: the preload process has ended, or could not fork")
            self._give_up(pending)

    def overdue(self, child: Child) -> None:
        """The preload process has not forked a worker in time: kill it, and give up the worker."""
        self._workers.kill_preload_process_of(child.pid)
        self.kill(child)

    def kill(self, child: Child) -> None:
        """Send SIGKILL to a worker. A pending one is given up, unless its BORN message has just arrived."""
        if child.is_pending:
            self._workers.refuse(child.pid)
            self._read_messages(child.pid)
        if not child.is_pending:
            self._workers.kill(child.pid, KillStage.KILL)
        elif child.pid in self._supervision:
            self._give_up(child.pid)

    def _fork(self, server: Any, settings: Settings, age: int, tls: TlsOfListeners) -> int | None:
        try:
            return self._workers.fork(server, settings, age, tls)
        except (OSError, PreloadUnavailable) as error:
            log.error("Cannot fork a worker: %s", error)
            return None

    def _give_up(self, pending: int) -> None:
        self._workers.remove(pending)
        self._supervision.exited(pending, time.monotonic())
