"""Finds and signals the descendants of a process: its children, their children, and so on, within its session.

Descendants are found by parent, not by process group: the workers stay in the process group of their arbiter, so that
Ctrl-C in a terminal, a supervisor and job control reach all of them. The search stops at other sessions: a program that
calls setsid(2) (daemon(3), start_new_session of subprocess) is meant to be independent, and is left alone with its
children.

Processes are held by descriptors (pidfd_open(2), Linux 5.3), because a pid may be reused. A process whose parent has
ended is not found: it is a child of init, or of the arbiter (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator

__all__ = ["children_of", "close_all", "descendants", "hold", "is_below", "send", "wait_for_end"]

# The originals, before gevent patches them: gevent's close() is delayed until its event loop runs.
_close, _poll = os.close, select.poll


def children_of(pid: int) -> set[int]:
    """Return the pids of the children, from the kernel's list for each thread; empty if there is no such process."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return set()
    found: set[int] = set()
    for thread in threads:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
            found.update(map(int, file.read().split()))
    return found


def descendants(pid: int) -> list[int]:
    """Return descriptors of all descendants of `pid` within its session; the caller closes them."""
    try:
        session = os.getsid(pid)
    except OSError:
        return []
    return list(_below(pid, session, {pid}))


def _below(parent: int, session: int, seen: set[int]) -> Iterator[int]:
    for child in children_of(parent) - seen:
        seen.add(child)
        descriptor = hold(child, parent, session)
        if descriptor is not None:
            yield descriptor
            yield from _below(child, session, seen)


def hold(pid: int, parent: int, session: int) -> int | None:
    """Return a descriptor of `pid` if it is still a child of `parent` and in `session`; else None."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # the process has ended, or no descriptor is free
        return None
    try:
        if pid in children_of(parent) and os.getsid(pid) == session:
            return descriptor
    except OSError:
        pass
    _close(descriptor)
    return None


def is_below(descriptor: int, ancestor: int) -> bool:
    """Return whether the process of `descriptor` is a descendant of `ancestor`, in its session."""
    pid = _pid_of(descriptor)
    try:
        if pid is None or os.getsid(pid) != os.getsid(ancestor):
            return False
        while pid not in (None, 0, ancestor):
            pid = _parent_of(pid)
    except (OSError, ValueError, IndexError):  # the process ends just now
        return False
    return pid == ancestor


def _pid_of(descriptor: int) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{descriptor}") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
        pid = int(fields.get("Pid", 0))
        return pid if pid > 0 else None
    return None


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # the name of a process may contain any bytes
        return int(file.read().rpartition(b")")[2].split()[1])


def send(descriptors: Iterable[int], number: int) -> None:
    """Send a signal to all processes; ignore those that have ended or belong to another user."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, number)


def wait_for_end(descriptors: Iterable[int], timeout_s: float) -> None:
    """Wait until all processes have ended, at most `timeout_s` seconds. Blocks the thread."""
    deadline = time.monotonic() + timeout_s
    poll = _poll()
    waiting = set(descriptors)
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_s * 1000):
            poll.unregister(descriptor)
            waiting.discard(descriptor)


def close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        _close(descriptor)
