"""The table of the arbiter's child processes: workers, preload processes, the reloader, an upgrade's launcher.

A child is recorded here from its fork until it has been reaped, with the function to call at its end. A signal is sent
only to a child that has not been reaped yet: until then the kernel gives its pid to no other process. Where the kernel
has pidfds (pidfd_open(2), Linux 5.3), signals go through the pidfd of the process.

Closes: the pidfd of a process when it has been reaped; leave_to_child() and kill_all() close all.
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

# How long to wait at most for the end of a process after SIGKILL.
KILLED_S = 5.0


@dataclass(frozen=True)
class Death:
    """How a child ended. str() of it is the log line."""

    pid: int
    code: int  # the exit status; if negative, minus the number of the signal
    hint: str = ""  # the likely sender of the signal
    what: str = "Worker exited"

    @property
    def how(self) -> str:
        return f"signal {_name_of(-self.code)}" if self.code < 0 else f"status {self.code}"

    def __str__(self) -> str:
        return f"{self.what} with {self.how} (pid: {self.pid}){self.hint and ': '}{self.hint}"


Ended = Callable[[Death], None]


@dataclass
class _Process:
    pidfd: int | None  # None: the kernel has no pidfds, or no descriptor was left
    ended: Ended
    oom: OomWatch = field(default_factory=OomWatch.begin)
    was_killed: bool = False  # by this arbiter


class Processes:
    """Forks, signals and reaps children. Nothing else in the arbiter's process does so.

    Args:
        signals: blocked during a fork.
    """

    def __init__(self, signals: SignalQueue) -> None:
        self._signals = signals
        self._processes: dict[int, _Process] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in self._processes

    def fork(self, run: Callable[[], int], ended: Ended) -> int:
        """Fork a child that runs run(), with signals blocked; return its pid."""
        with self._signals.held():
            pid = fork_child(run)
        self.add(pid, ended)
        return pid

    def add(self, pid: int, ended: Ended) -> None:
        """Record a child that was forked elsewhere and has not been reaped."""
        self._processes[pid] = _Process(open_pidfd(pid), ended)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child; do nothing if it has ended."""
        process = self._processes.get(pid)
        if process is None:
            return
        process.was_killed |= number == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):  # it has ended, and is not reaped yet
            if process.pidfd is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(process.pidfd, number)

    def reap(self, newborn: Callable[[], None]) -> None:
        """Reap every child that has ended, and call the function recorded for it. Never blocks.

        Args:
            newborn: called for a process without a record: it reads the BORN messages that are still unread, and
                records their workers. A process without a record after that is an adopted orphan, and is only reaped.
        """
        while (pid := _ended_child()) is not None:
            if pid not in self._processes:
                newborn()
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:  # started by a hook, and reaped by a thread of that hook
                continue
            process = self._processes.pop(pid, None)
            if process is not None:
                _close(process)
                process.ended(_death(pid, os.waitstatus_to_exitcode(status), process))

    def leave_to_child(self) -> None:
        """In a child process: close the pidfds, and forget the children of the arbiter."""
        for process in self._processes.values():
            _close(process)
        self._processes.clear()

    def end(self, *pids: int) -> None:
        """Kill these and wait for their end; the recorded functions are not called."""
        for pid in pids:
            self.signal(pid, signal.SIGKILL)
        for pid in pids:
            process = self._processes.pop(pid, None)
            if process is not None:
                _await(pid, process)
                _close(process)

    def kill_all(self) -> None:
        """end() for all children that are left."""
        self.end(*self._processes)


def is_child(pid: int) -> bool:
    """Whether a process is a child of this one and has not been reaped."""
    if pid <= 0:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def open_pidfd(pid: int) -> int | None:
    """A pidfd of a child that has not been reaped; None if the kernel cannot give one."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before Linux 5.3, or no descriptor is left
        return None


def _ended_child() -> int | None:
    """The pid of a child that has ended. It is not reaped yet, so that its pid stays its own."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else ended.si_pid


def _close(process: _Process) -> None:
    if process.pidfd is not None:
        os.close(process.pidfd)


def _await(pid: int, process: _Process) -> None:
    if process.pidfd is not None:  # a preloaded worker's parent may still be the intermediate process
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
