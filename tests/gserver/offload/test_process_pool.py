"""Processes: fresh interpreters, replaced when they die, and nothing of them is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import psutil
import pytest

from gserver.errors import ConfigError
from gserver.offload import pool_process
from gserver.offload.errors import Died, Full, Timeout
from gserver.offload.process_pool import Processes
from tests.helpers import heavy
from tests.helpers.processes import is_running
from tests.helpers.waiting import wait_until

Make = Callable[..., Processes]
LONG_S = 30.0


@pytest.fixture
def make() -> Iterator[Make]:
    made = []

    def make(size: int = 1, most_waiting: int = 10, **options: object) -> Processes:
        processes = Processes(size, most_waiting, **{"start_timeout_s": LONG_S, **options})  # type: ignore[arg-type]
        made.append(processes)
        processes.start()
        return processes

    yield make
    for processes in made:
        processes.close()


def spawn_blocked(processes: Processes, folder: Path, timeout_s: float | None = None) -> gevent.Greenlet[..., int]:
    """Start a call that ends when the file `go` exists; it has begun when this returns."""
    go, begun = folder / "go", folder / f"begun{time.monotonic_ns()}"
    call = gevent.spawn(processes.call, heavy.wait_for_file, (str(go), str(begun)), timeout_s)
    wait_until(lambda: begun.exists() and begun.read_text())
    return call


def test_a_function_runs_in_another_process(make: Make) -> None:
    processes = make(2)

    assert processes.call(heavy.pid, (), None) in processes.pids
    assert processes.call(heavy.add, (3, 4), None) == 7


def test_a_message_of_many_megabytes_comes_through(make: Make) -> None:
    data = os.urandom(1024) * 20_000

    assert make().call(bytes.upper, (data,), None) == data.upper()


def test_the_interpreter_is_not_patched_and_has_real_threads_and_programs(make: Make) -> None:
    processes = make()
    found = processes.call(heavy.run_threads, (3,), LONG_S)

    assert processes.call(heavy.is_patched, (), None) is False
    assert len(found) == 4
    assert found[-1] == 7


def test_a_process_has_no_descriptor_but_its_own(make: Make, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)  # as an application may do
    try:
        found = make(2).call(heavy.descriptors, (), None)
    finally:
        os.close(reader)
        os.close(writer)

    assert sorted(found)[:3] == [0, 1, 2]
    assert [what.partition(":")[0] for descriptor, what in found.items() if descriptor > 2] == ["socket"]


def test_an_exception_is_raised_with_the_traceback_of_the_process(make: Make) -> None:
    with pytest.raises(KeyError) as raised:
        make().call(heavy.fail, ("name",), None)

    assert raised.value.args == ("name",)
    assert "in fail" in raised.value.__notes__[0]


def test_an_exception_that_cannot_be_unpickled_is_raised_as_text(make: Make) -> None:
    with pytest.raises(RuntimeError, match="Stubborn: one"):
        make().call(heavy.fail_stubbornly, (), None)


def test_a_result_that_cannot_be_pickled_is_an_error(make: Make) -> None:
    processes = make()
    with pytest.raises(TypeError, match="the result, a Unpicklable, cannot be pickled: a socket is inside"):
        processes.call(heavy.make_unpicklable, (), None)

    assert processes.call(heavy.add, (1, 1), None) == 2


def test_a_function_that_cannot_be_pickled_is_an_error_of_the_call(make: Make) -> None:
    with pytest.raises(Exception, match="pickle"):
        make().call(lambda: 1, (), None)


def test_a_process_that_dies_fails_its_own_call_only_and_is_replaced(make: Make, tmp_path: Path) -> None:
    processes = make(2)
    before = set(processes.pids)
    other = spawn_blocked(processes, tmp_path)

    with pytest.raises(Died, match=r"the process \(pid: \d+\) that ran die was killed by SIGKILL"):
        processes.call(heavy.die, (), None)
    (tmp_path / "go").touch()
    assert other.get(timeout=LONG_S) in before
    wait_until(lambda: len(processes.pids) == 2 and set(processes.pids) != before)
    assert {processes.call(heavy.add, (1, each), None) for each in range(3)} == {1, 2, 3}


def test_the_exit_status_is_named(make: Make) -> None:
    with pytest.raises(Died, match="ended with exit status 3"):
        make().call(heavy.exit_with, (3,), None)


def test_the_exit_status_is_named_where_the_application_uses_subprocess_too(make: Make) -> None:
    """In a patched process, gevent's loop then reaps all children, often before the pool sees the end of its own."""
    processes = make()
    subprocess.run(["true"], check=True)

    for status in range(1, 9):
        with pytest.raises(Died, match=f"ended with exit status {status}"):
            processes.call(heavy.exit_with, (status,), None)


def test_a_process_that_dies_while_a_forked_one_lives_on_is_noticed(make: Make) -> None:
    """The forked process is not waited for, although it was started with a copy of the socket."""
    with pytest.raises(Died, match="ended with exit status 7"):
        make().call(heavy.fork_and_die, (), 10.0)


def test_an_idle_process_that_is_killed_is_replaced(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    processes = make()
    (killed,) = processes.pids
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: processes.pids not in ([], [killed]))

    assert processes.call(heavy.add, (1, 1), LONG_S) == 2
    assert f"A process of the pool was killed by SIGKILL (memory may have run out) (pid: {killed})" in caplog.text


def test_a_timeout_kills_the_process_and_what_it_has_started(make: Make, tmp_path: Path) -> None:
    processes, written = make(), tmp_path / "sleeper"
    (process,) = processes.pids
    call = gevent.spawn(processes.call, heavy.start_sleeper, (str(written),), 1.0)
    wait_until(lambda: written.exists() and written.read_text())
    sleeper = psutil.Process(int(written.read_text()))

    with pytest.raises(Timeout, match="start_sleeper did not return within 1 s, and its process is killed"):
        call.get(timeout=LONG_S)
    wait_until(lambda: not is_running(process) and not is_running(sleeper.pid))
    assert processes.call(heavy.add, (1, 1), LONG_S) == 2


def test_a_caller_that_is_killed_kills_the_process(make: Make, tmp_path: Path) -> None:
    processes = make()
    (process,) = processes.pids
    call = spawn_blocked(processes, tmp_path)
    call.kill()

    wait_until(lambda: not is_running(process))
    assert processes.call(heavy.pid, (), LONG_S) != process


def test_calls_wait_in_a_queue_of_limited_length(make: Make, tmp_path: Path) -> None:
    processes = make(1, most_waiting=1)
    running = spawn_blocked(processes, tmp_path)
    waiting = gevent.spawn(processes.call, heavy.add, (1, 1), None)
    wait_until(lambda: processes.waiting)

    with pytest.raises(Full, match="no process is free, and 1 calls wait for one"):
        processes.call(heavy.add, (1, 1), None)
    (tmp_path / "go").touch()
    assert running.get(timeout=LONG_S)
    assert waiting.get(timeout=LONG_S) == 2


def test_the_timeout_includes_the_wait_in_the_queue(make: Make, tmp_path: Path) -> None:
    processes = make()
    running = spawn_blocked(processes, tmp_path)

    with pytest.raises(Timeout, match="no process was free"):
        processes.call(heavy.add, (1, 1), 0.05)
    (tmp_path / "go").touch()
    assert running.get(timeout=LONG_S)


def test_a_process_is_replaced_after_so_many_calls(make: Make) -> None:
    processes = make(max_tasks=2)
    pids = [processes.call(heavy.pid, (), LONG_S) for _ in range(6)]

    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
    assert len(set(pids)) == 3


def test_processes_are_replaced_after_their_next_call_when_what_they_have_inherited_is_old(make: Make) -> None:
    processes = make(1)
    before = processes.call(heavy.pid, (), LONG_S)
    processes.renew()

    assert processes.call(heavy.pid, (), LONG_S) == before
    assert processes.call(heavy.pid, (), LONG_S) == processes.call(heavy.pid, (), LONG_S) != before


def test_a_module_is_imported_before_the_first_call(make: Make) -> None:
    processes = make(modules=["tests.helpers.heavy"])

    assert processes.call(eval, ("'tests.helpers.heavy' in __import__('sys').modules",), None) is True


def test_a_module_that_cannot_be_imported_is_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    processes = make(2, modules=["tests.nothing"])

    assert processes.call(heavy.add, (1, 1), None) == 2
    assert "In a process of the pool, tests.nothing cannot be imported: ModuleNotFoundError" in caplog.text


def test_a_pool_whose_processes_cannot_start_is_a_configuration_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "child.py").write_text("raise SystemExit(5)")
    monkeypatch.setattr(pool_process, "_CHILD", str(tmp_path / "child.py"))

    with pytest.raises(ConfigError) as failed:
        make(2)
    assert str(failed.value) == (
        "setting offload_processes is 2, but a new process ended with exit status 5 before it was ready"
    )


def test_a_process_is_not_left_behind_if_no_descriptor_is_free_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", fail)
        with pytest.raises(ConfigError, match=r"no process can be started: \[Errno 24\] Too many open files"):
            make()  # the fixture of all tests looks for processes and descriptors that are left


def test_calls_fail_while_no_process_can_be_started_and_succeed_again_later(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes = make()
    (tmp_path / "child.py").write_text("raise SystemExit(5)")
    with monkeypatch.context() as patch:
        patch.setattr(pool_process, "_CHILD", str(tmp_path / "child.py"))
        with pytest.raises(Died):
            processes.call(heavy.die, (), None)
        with pytest.raises(Died, match="a new process ended with exit status 5 before it was ready"):
            processes.call(heavy.add, (1, 1), None)

    assert processes.call(heavy.add, (1, 1), LONG_S) == 2


def test_close_ends_idle_processes_and_kills_busy_ones(make: Make, tmp_path: Path) -> None:
    processes = make(2)
    pids = processes.pids
    call = spawn_blocked(processes, tmp_path)
    processes.close()

    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(Died):
        call.get(timeout=LONG_S)


def test_signals_for_the_whole_group_do_not_end_a_call(make: Make, tmp_path: Path) -> None:
    processes = make()
    (process,) = processes.pids
    call = spawn_blocked(processes, tmp_path)
    os.kill(process, signal.SIGTERM)
    os.kill(process, signal.SIGINT)
    (tmp_path / "go").touch()

    assert call.get(timeout=LONG_S) == process
