"""The one book of the arbiter's children: workers, molds, the file watcher, a new arbiter.

Whoever is forked stands here until it has been waited for, and its entry says whom to tell of its death. So a signal
only goes to a process that has not been waited for yet, whose id is therefore nobody else's; and it goes through a
descriptor of that very process (pidfd_open(2)) where the kernel has those.

Closes: the descriptor of a process when it has ended; leave_to_child() and kill_all() close all.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from gserver.arbiter.signals import SignalQueue
from gserver.process.child import fork_child
from gserver.process.oom import OomWatch

__all__ = ["Death", "Ended", "Processes", "is_child", "open_pidfd"]

# What a process that got SIGKILL takes to end, at the very most.
KILLED_S = 5.0


@dataclass(frozen=True)
class Death:
    """How a child ended. As text: a line of the log."""

    pid: int
    code: int  # the status, or less than 0: the signal
    hint: str = ""  # who may have sent it
    what: str = "Worker exited"

    @property
    def how(self) -> str:
        return f"signal {_name_of(-self.code)}" if self.code < 0 else f"status {self.code}"

    def __str__(self) -> str:
        return f"{self.what} with {self.how} (pid: {self.pid}){self.hint and ': '}{self.hint}"


Ended = Callable[[Death], None]


@dataclass
class _Process:
    pidfd: int | None  # None: the kernel has none for us
    ended: Ended
    oom: OomWatch = field(default_factory=OomWatch.begin)
    was_killed: bool = False  # by this arbiter


class Processes:
    """Forks, signals and waits for children. Nobody else in the arbiter's process does.

    Args:
        signals: held back during a fork.
    """

    def __init__(self, signals: SignalQueue) -> None:
        self._signals = signals
        self._processes: dict[int, _Process] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in self._processes

    def fork(self, run: Callable[[], int], ended: Ended) -> int:
        """Fork a child that runs run(), with the signals held; return its pid."""
        with self._signals.held():
            pid = fork_child(run)
        self.add(pid, ended)
        return pid

    def add(self, pid: int, ended: Ended) -> None:
        """Enter a child that was forked elsewhere and has not been waited for."""
        self._processes[pid] = _Process(open_pidfd(pid), ended)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child; one that has ended gets none."""
        process = self._processes.get(pid)
        if process is None:
            return
        process.was_killed |= number == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):  # it has ended, and its death is still to be told
            if process.pidfd is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(process.pidfd, number)

    def reap(self, newborn: Callable[[], None]) -> None:
        """Wait for every child that has ended, and tell whom its entry names. Never blocks.

        Args:
            newborn: called when a process is not in the book, to enter those whose birth is still to be told. Who is
                not there after that is an orphan that has come to this process, and is only waited for.
        """
        while (pid := _ended_child()) is not None:
            if pid not in self._processes:
                newborn()
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:  # a hook's own, which another thread of its has waited for
                continue
            process = self._processes.pop(pid, None)
            if process is not None:
                _close(process)
                process.ended(_death(pid, os.waitstatus_to_exitcode(status), process))

    def leave_to_child(self) -> None:
        """In a child: these are not its children."""
        for process in self._processes.values():
            _close(process)
        self._processes.clear()

    def end(self, *pids: int) -> None:
        """Kill these and wait for them; nobody is told."""
        for pid in pids:
            self.signal(pid, signal.SIGKILL)
        for pid in pids:
            process = self._processes.pop(pid, None)
            if process is not None:
                _await(pid, process)
                _close(process)

    def kill_all(self) -> None:
        """As end(), of all that are left."""
        self.end(*self._processes)


def is_child(pid: int) -> bool:
    """Whether a process is a child of this one, and has not been waited for."""
    if pid <= 0:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def open_pidfd(pid: int) -> int | None:
    """A descriptor of a child that has not been waited for; None where there is none to be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before Linux 5.3, or no descriptor is left
        return None


def _ended_child() -> int | None:
    """A child that has ended; it stays to be waited for, so that its id stays its own."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else ended.si_pid


def _close(process: _Process) -> None:
    if process.pidfd is not None:
        os.close(process.pidfd)


def _await(pid: int, process: _Process) -> None:
    if process.pidfd is not None:  # the parent of a mold's worker may still be the process between
        poll = select.poll()
        poll.register(process.pidfd, select.POLLIN)
        poll.poll(KILLED_S * 1000)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0 if process.pidfd is None else os.WNOHANG)


def _death(pid: int, code: int, process: _Process) -> Death:
    is_strange = code == -signal.SIGKILL and not process.was_killed
    return Death(pid, code, process.oom.explain() if is_strange else "")


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last
        return str(number)
