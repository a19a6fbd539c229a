"""offload.thread() and offload.process(): what may be called where, and what is counted."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent import monkey

from gserver import offload
from gserver.counters import Counters, offload_counts
from gserver.offload import pools
from gserver.offload.pools import Pools, PoolSizes
from tests.helpers import heavy


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counters]:
    """Pools of one thread and one process, with a queue of one, and the counters of their worker."""
    monkeypatch.setattr(pools, "_current", None)
    counters = Counters()
    started = pools.start(PoolSizes(threads=1, processes=1, queue=1), counters.cells)
    started.start_processes((), is_silent=False, timeout_s=30.0)
    yield counters
    started.close(10.0)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No worker has started pools."""
    monkeypatch.setattr(pools, "_current", None)
    yield
    pools.current().close(10.0)


@pytest.mark.usefixtures("bare")
def test_without_a_worker_threads_work_and_processes_are_refused() -> None:
    assert offload.thread(math.factorial, 5) == 120
    with pytest.raises(RuntimeError, match="setting offload_processes, which is 0"):
        offload.process(math.factorial, 5)


def test_both_are_counted(counters: Counters) -> None:
    assert offload.thread(math.factorial, 5) == 120
    assert offload.process(math.factorial, 5) == 120
    with pytest.raises(offload.Died):
        offload.process(heavy.die)
    with pytest.raises(offload.Timeout):
        offload.process(heavy.wait_for_file, "/nonexistent", timeout=0.05)
    assert offload.process(math.factorial, 6) == 720  # the new process is there
    others = [gevent.spawn(offload.process, heavy.wait_for_file, "/nonexistent") for _ in range(2)]
    gevent.idle()
    with pytest.raises(offload.Full):
        offload.process(math.factorial, 5)
    gevent.killall(others)

    assert offload_counts(counters.cells) == {
        "thread": {"calls": 1, "refused": 0, "timeouts": 0},
        "process": {"calls": 7, "refused": 1, "timeouts": 1, "died": 1},
    }


def test_without_threads_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_current", Pools(PoolSizes(threads=0)))

    with pytest.raises(RuntimeError, match="setting offload_threads, which is 0"):
        offload.thread(math.factorial, 5)


async def asynchronous() -> None:
    """Nobody awaits it."""


@pytest.mark.usefixtures("bare")
def test_mistakes_in_a_call_are_named() -> None:
    with pytest.raises(TypeError, match="5 is not a function"):
        offload.thread(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is declared with async def"):
        offload.thread(asynchronous)
    for timeout in (0, -1, math.nan):
        with pytest.raises(ValueError, match=r"timeout is .*, must be a number of seconds above 0, or None"):
            offload.thread(math.factorial, 5, timeout=timeout)


@pytest.mark.usefixtures("bare")
def test_a_call_in_another_thread_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="this is another thread"):
        offload.thread(offload.thread, math.factorial, 5)


@pytest.mark.usefixtures("bare")
def test_a_call_after_the_end_of_the_pools_is_an_error() -> None:
    pools.current().close()

    with pytest.raises(RuntimeError, match="about to end"):
        offload.thread(math.factorial, 5)


@pytest.mark.usefixtures("bare")
def test_close_waits_for_calls_that_run() -> None:
    event = monkey.get_original("threading", "Event")()
    call = gevent.spawn(offload.thread, event.wait, 30.0)
    gevent.idle()
    gevent.spawn_later(0.05, event.set)
    pools.current().close(10.0)

    assert call.get(block=False) is True


@pytest.mark.usefixtures("bare")
def test_a_forked_process_does_not_use_the_pools_of_its_parent() -> None:
    parent = pools.current()

    parent._pid = os.getpid() + 1
    assert pools.current() is not parent
    assert threading.main_thread().is_alive()
