"""Descendants: found by parent, within a session, and held by descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gserver.process.descendants import children_of, close_all, descendants, hold, is_below, send, wait_for_end
from tests.helpers.processes import is_running, wait_for

#: Starts a child, which starts another, and waits; prints the pids as they come.
TREE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import subprocess
below = subprocess.Popen(["sleep", "1000"])
print(below.pid, flush=True)
below.wait()
'''])
own = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, own.pid, flush=True)
child.wait()
"""


@pytest.fixture
def tree() -> Iterator[tuple[int, set[int], int]]:
    """The root of a tree of processes, those below it, and one below it that has a session of its own."""
    root = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True)
    assert root.stdout is not None
    lines = sorted((root.stdout.readline().split(), root.stdout.readline().split()), key=len)
    grandchild, child, own = int(lines[0][0]), int(lines[1][0]), int(lines[1][1])
    yield root.pid, {child, grandchild}, own
    for pid in (own, grandchild, child):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    root.kill()
    root.wait()
    root.stdout.close()


def pids_of(descriptors: list[int]) -> set[int]:
    found = set()
    for descriptor in descriptors:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            found |= {int(line.split()[1]) for line in file if line.startswith("Pid:")}
    return found


def test_all_below_are_found_but_those_with_a_session_of_their_own(tree: tuple[int, set[int], int]) -> None:
    root, below, own = tree
    found = descendants(root)

    assert pids_of(found) == below
    assert own in children_of(root)
    assert all(is_below(descriptor, root) for descriptor in found)
    close_all(found)


def test_they_can_be_ended_and_waited_for(tree: tuple[int, set[int], int]) -> None:
    root, below, own = tree
    found = descendants(root)
    wait_for_end(found, 0.01)
    assert all(is_running(pid) for pid in below)
    send(found, signal.SIGKILL)
    wait_for_end(found, 20)

    assert not any(is_running(pid) for pid in below)
    send(found, signal.SIGKILL)  # ignored for those that have ended
    close_all(found)
    assert is_running(own)


def test_a_process_that_has_ended_has_no_descendants() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    assert children_of(process.pid) == set()
    assert descendants(process.pid) == []


def test_only_a_child_is_held(tree: tuple[int, set[int], int]) -> None:
    root, below, own = tree
    session = os.getsid(0)
    me = os.getpid()

    assert hold(1, me, session) is None
    assert hold(own, root, session) is None
    assert [hold(pid, me, session) for pid in below] == [None, None]
    descriptor = hold(root, me, session)
    assert descriptor is not None
    assert is_below(descriptor, me)
    close_all([descriptor])


def test_other_processes_are_not_descendants() -> None:
    init = os.pidfd_open(1)
    reading, writing = os.pipe()

    assert not is_below(init, os.getpid())
    assert not is_below(reading, os.getpid())
    close_all([init, reading, writing])
    assert not is_below(reading, os.getpid())


def test_a_process_that_ends_during_the_search_is_skipped() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    descriptor = os.pidfd_open(process.pid)
    assert is_below(descriptor, os.getpid())
    process.kill()
    process.wait()
    wait_for(lambda: not is_below(descriptor, os.getpid()), "it is below nobody")
    close_all([descriptor])


def test_a_process_may_be_named_in_any_bytes(tree: tuple[int, set[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The descendants of a process with such a name are found: the name precedes the parent in the kernel's file."""
    named = 'import ctypes, subprocess; ctypes.CDLL(None).prctl(15, b"\\xff\\xe9) 1", 0, 0, 0); '
    child = 'below = subprocess.Popen(["sleep", "1000"]); print(below.pid, flush=True); below.wait()'
    parent = subprocess.Popen([sys.executable, "-c", named + child], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        descriptor = os.pidfd_open(pid)
        assert is_below(descriptor, os.getpid())
        os.close(descriptor)
        os.kill(pid, signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
