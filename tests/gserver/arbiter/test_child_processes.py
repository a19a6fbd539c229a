"""The table of child processes: each recorded child is reported at its end, and only those are signalled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from gserver.arbiter.child_processes import Death, Processes, is_child, open_pidfd
from gserver.arbiter.signals import SignalQueue
from tests.helpers.processes import wait_for


@pytest.fixture
def processes() -> Iterator[Processes]:
    signals = SignalQueue()
    made = Processes(signals)
    yield made
    made.kill_all()
    signals.close()


def lives() -> int:
    """In the child."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    while True:
        time.sleep(60)


def pidfds() -> list[str]:
    found = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [path for path in found if os.path.lexists(path) and "pidfd" in os.readlink(path)]


def nobody() -> None:
    pass


def wait_for_deaths(processes: Processes, deaths: list[Death], count: int) -> None:
    def reaped() -> bool:
        processes.reap(nobody)
        return len(deaths) >= count

    wait_for(reaped, f"{count} deaths")


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_death_is_reported_once_with_its_status(processes: Processes, status: int) -> None:
    deaths: list[Death] = []
    pid = processes.fork(lambda: status, deaths.append)
    assert pid in processes
    wait_for_deaths(processes, deaths, 1)
    processes.reap(nobody)

    assert deaths == [Death(pid, status)]
    assert str(deaths[0]) == f"Worker exited with status {status} (pid: {pid})"
    assert pid not in processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGRTMIN, signal.SIGRTMIN + 5])
def test_a_signal_reaches_its_child_and_is_named_at_its_death(processes: Processes, number: int) -> None:
    deaths: list[Death] = []
    pid = processes.fork(lives, deaths.append)
    processes.signal(pid, number)
    wait_for_deaths(processes, deaths, 1)

    assert deaths[0].code == -number
    assert deaths[0].how in (f"signal {number!s}", f"signal {getattr(number, 'name', None)}")
    assert deaths[0].hint == ""


def test_a_kill_by_another_program_is_hinted_at(processes: Processes) -> None:
    deaths: list[Death] = []
    os.kill(processes.fork(lives, deaths.append), signal.SIGKILL)
    wait_for_deaths(processes, deaths, 1)

    assert "OOM killer" in deaths[0].hint


def test_only_recorded_children_are_signalled(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[Death] = []
    pid = processes.fork(lambda: 0, deaths.append)
    wait_for(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "it has ended")
    processes.signal(pid, signal.SIGKILL)  # a zombie: no error
    wait_for_deaths(processes, deaths, 1)
    sent: list[object] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *arguments: sent.append(arguments))

    processes.signal(pid, signal.SIGKILL)
    processes.signal(1, signal.SIGKILL)
    processes.kill_all()

    assert sent == []


def test_a_signal_goes_through_the_descriptor_of_the_process(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[Death] = []
    pid = processes.fork(lives, deaths.append)
    monkeypatch.setattr(os, "kill", None)
    processes.signal(pid, signal.SIGKILL)

    wait_for_deaths(processes, deaths, 1)


def test_without_such_descriptors_children_are_signalled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def pidfd_open(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    assert open_pidfd(os.getpid()) is None
    signals = SignalQueue()
    processes = Processes(signals)
    deaths: list[Death] = []
    pid = processes.fork(lives, deaths.append)
    processes.signal(pid, signal.SIGKILL)
    wait_for_deaths(processes, deaths, 1)
    processes.fork(lives, deaths.append)
    processes.kill_all()
    signals.close()

    assert deaths == [Death(pid, -signal.SIGKILL)]


def test_a_child_that_ends_before_it_is_recorded_is_reported_all_the_same(processes: Processes) -> None:
    """A preloaded worker may end before the arbiter has read its BORN message."""
    deaths: list[Death] = []
    pid = os.fork()
    if pid == 0:
        os._exit(4)

    def enter() -> None:
        assert is_child(pid)
        processes.add(pid, deaths.append)

    def reaped() -> bool:
        processes.reap(enter)
        return bool(deaths)

    wait_for(reaped, "its death is reported")
    assert deaths == [Death(pid, 4)]


def test_unrecorded_orphans_are_only_reaped(processes: Processes) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)

    def reaped() -> bool:
        processes.reap(nobody)
        return not is_child(pid)

    wait_for(reaped, "it was waited for")


def test_end_calls_nothing_and_kill_all_ends_the_others(processes: Processes) -> None:
    deaths: list[Death] = []
    first, second = processes.fork(lives, deaths.append), processes.fork(lives, deaths.append)
    processes.end(first)

    assert not is_child(first)
    assert is_child(second)
    assert first not in processes
    processes.kill_all()
    assert not is_child(second)
    assert deaths == []


def test_a_child_has_no_records_of_its_siblings(processes: Processes) -> None:
    deaths: list[Death] = []
    sibling = processes.fork(lives, deaths.append)

    def looks() -> int:
        processes.leave_to_child()
        return 7 if sibling not in processes and not pidfds() else 1

    processes.fork(looks, deaths.append)
    wait_for_deaths(processes, deaths, 1)

    assert deaths[0].code == 7


def test_foreign_processes_are_not_children() -> None:
    assert not is_child(1)
    assert not is_child(os.getpid())


@pytest.mark.parametrize("make", [lambda: 0, lambda: 3])
def test_several_deaths_are_reported_in_one_go(processes: Processes, make: Callable[[], int]) -> None:
    deaths: list[Death] = []
    pids = {processes.fork(make, deaths.append) for _ in range(5)}
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    processes.reap(nobody)

    assert {death.pid for death in deaths} == pids
