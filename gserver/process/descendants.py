"""The processes below one: its children, their children, and so on, as far as they are in its session.

By parentage, and not by process group: workers stay in the group of their arbiter, which a terminal's Ctrl-C, a
supervisor and job control mean as a whole. By session, because setsid(2) is how a program says that it goes its own way
(daemon(3), subprocess's start_new_session): whoever did that, and what is below it, is left alone.

Processes are held by descriptors (pidfd_open(2), Linux 5.3), so that none is taken for another with its id. What has no
parent in between any more is not found from above: it is init's child, or that of the arbiter (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator

__all__ = ["children_of", "close_all", "descendants", "hold", "is_below", "send", "wait_for_end"]

# As they are before an application patches them: gevent's close() is put off until its loop turns.
_close, _poll = os.close, select.poll


def children_of(pid: int) -> set[int]:
    """The kernel's own list, by thread; empty for a process that is not there."""
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
    """Descriptors of all processes below `pid` that are in its session; the caller closes them."""
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
    """A descriptor of a process that is still a child of `parent` and in that session; else None."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it has ended, or there is no descriptor left
        return None
    try:
        if pid in children_of(parent) and os.getsid(pid) == session:
            return descriptor
    except OSError:
        pass
    _close(descriptor)
    return None


def is_below(descriptor: int, ancestor: int) -> bool:
    """Whether this is the descriptor of a process below `ancestor`, in its session."""
    pid = _pid_of(descriptor)
    try:
        if pid is None or os.getsid(pid) != os.getsid(ancestor):
            return False
        while pid not in (None, 0, ancestor):
            pid = _parent_of(pid)
    except (OSError, ValueError, IndexError):  # it ends
        return False
    return pid == ancestor


def _pid_of(descriptor: int) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{descriptor}") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
        pid = int(fields.get("Pid", 0))
        return pid if pid > 0 else None
    return None


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # a process may be named in any bytes
        return int(file.read().rpartition(b")")[2].split()[1])


def send(descriptors: Iterable[int], number: int) -> None:
    """Send a signal to all of them; those that have ended, or are another user's, get none."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, number)


def wait_for_end(descriptors: Iterable[int], timeout_s: float) -> None:
    """Wait until all have ended or the time is over. Blocks the thread."""
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
