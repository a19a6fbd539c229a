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
from gserver.arbiter.preload import MoldBroken
from gserver.arbiter.supervision import Child, Children, KillStage
from gserver.arbiter.worker_processes import Crew
from gserver.config.settings import Settings

if TYPE_CHECKING:
    from gserver.tls.contexts import Tls

__all__ = ["Births"]

log = logging.getLogger("gserver.arbiter")


class Births:
    """Begins workers, and gives up those that have no process yet.

    Args:
        hear: called with a worker's number, to act on what it has sent.
    """

    def __init__(self, children: Children, crew: Crew, hear: Callable[[int], None]) -> None:
        self._children = children
        self._crew = crew
        self._hear = hear

    def spawn(self, server: Any, settings: Settings, age: int, tls: Tls | None) -> None:
        """Begin a worker; if that fails, another attempt comes after a pause."""
        if settings.preload_app and self._crew.molds.is_booting:  # it was lost since this was decided
            return
        worker = self._fork(server, settings, age, tls)
        if worker is None:
            self._children.could_not_spawn(time.monotonic())
        else:
            self._children.spawned(worker, time.monotonic(), age=age)

    def molded(self, mold: int, server: Any, settings: Settings, tls: Tls | None) -> None:
        """A mold has imported the application: its first worker takes its place."""
        if not self._crew.molded(mold) or mold not in self._children:
            return
        worker = self._fork(server, settings, self._children[mold].age, tls)
        if worker is None:
            self._children.exited(mold, time.monotonic())
        else:
            self._children.renamed(mold, worker, time.monotonic())

    def born(self, unborn: int, message: Message) -> int:
        """A mold has forked a worker; return its pid."""
        text = message.addresses[0] if message.addresses else ""
        pid = int(text) if text.isdecimal() else 0
        if not is_child(pid):  # nothing that a worker sends makes the arbiter signal a process of others
            log.error("Cannot fork a worker: process %s is no child", text)
            self._give_up(unborn)
            return unborn
        self._crew.born(unborn, pid)
        self._children.renamed(unborn, pid, time.monotonic())
        return pid

    def hear(self) -> None:
        """Look whether somebody was born."""
        for unborn in self._crew.unborn():
            self._hear(unborn)

    def look_after(self, unborn: int) -> None:
        """Give up a worker that nobody is left to fork."""
        if unborn in self._children and not self._crew.will_be_born(unborn):
            log.error("Cannot fork a worker: its mold has ended, or could not fork")
            self._give_up(unborn)

    def overdue(self, child: Child) -> None:
        """A mold has not forked a worker in time."""
        self._crew.kill_mold_of(child.pid)
        self.kill(child)

    def kill(self, child: Child) -> None:
        """SIGKILL to a worker; one without a process is given up, unless it is born in this moment."""
        if child.is_unborn:
            self._crew.shut_out(child.pid)
            self._hear(child.pid)
        if not child.is_unborn:
            self._crew.strike(child.pid, KillStage.KILL)
        elif child.pid in self._children:
            self._give_up(child.pid)

    def _fork(self, server: Any, settings: Settings, age: int, tls: Tls | None) -> int | None:
        try:
            return self._crew.fork(server, settings, age, tls)
        except (OSError, MoldBroken) as error:
            log.error("Cannot fork a worker: %s", error)
            return None

    def _give_up(self, unborn: int) -> None:
        self._crew.gone(unborn)
        self._children.exited(unborn, time.monotonic())
