"""Threads: results, exceptions and context are carried over, and calls that are given up do not use up the pool."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import monkey

from gserver.offload.errors import Full, Timeout
from gserver.offload.thread_pool import Threads
from tests.helpers.waiting import wait_until

Make = Callable[..., Threads]
# The original, in a suite that is patched.
Event = monkey.get_original("threading", "Event")
get_ident = monkey.get_original("_thread", "get_ident")
NAME = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture
def make() -> Iterator[Make]:
    made = []

    def make(size: int = 1, most_waiting: int = 10) -> Threads:
        made.append(Threads(size, most_waiting))
        return made[-1]

    yield make
    for threads in made:
        wait_until(lambda threads=threads: not threads.running)  # type: ignore[misc]
        threads.close()


class Gate:
    """A function that blocks its thread until open() is called."""

    def __init__(self) -> None:
        self._event = Event()
        self.entered = 0

    def __call__(self) -> str:
        self.entered += 1
        self._event.wait(30.0)
        return "through"

    def open(self) -> None:
        self._event.set()


def test_a_function_runs_in_another_thread_of_the_system(make: Make) -> None:
    assert make().call(get_ident, (), None) != get_ident()


def test_the_result_is_returned_and_the_exception_is_raised(make: Make) -> None:
    threads = make()

    assert threads.call(divmod, (7, 2), None) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.call(divmod, (7, 0), None)


def test_the_context_of_the_caller_is_copied(make: Make) -> None:
    token = NAME.set("ann")
    try:
        assert make().call(NAME.get, (), None) == "ann"
    finally:
        NAME.reset(token)


def test_other_greenlets_run_meanwhile(make: Make) -> None:
    gate = Gate()
    waiting = gevent.spawn(make().call, gate, (), None)
    wait_until(lambda: gate.entered)
    gate.open()

    assert waiting.get(timeout=30) == "through"


def test_a_call_above_threads_and_queue_is_refused(make: Make) -> None:
    threads, gate = make(1, most_waiting=1), Gate()
    calls = [gevent.spawn(threads.call, gate, (), None) for _ in range(2)]
    wait_until(lambda: gate.entered and threads.waiting)

    with pytest.raises(Full):
        threads.call(time.time, (), None)
    gate.open()
    assert [call.get(timeout=30) for call in calls] == ["through"] * 2


def test_a_timeout_leaves_the_thread_and_another_one_takes_its_place(make: Make) -> None:
    threads, gate = make(1), Gate()

    with pytest.raises(Timeout) as over:
        threads.call(gate, (), 0.01)
    assert str(over.value).endswith("did not return within 0.01 s, and goes on in its thread")
    assert threads.call(divmod, (7, 2), 30.0) == (3, 1)
    assert threads.running == 1
    gate.open()
    wait_until(lambda: not threads.running)
    assert threads.call(divmod, (7, 2), 30.0) == (3, 1)


def test_the_pool_grows_to_twice_its_size_at_most(make: Make) -> None:
    threads, gate = make(1), Gate()
    for _ in range(2):
        with pytest.raises(Timeout):
            threads.call(gate, (), 0.01)
    wait_until(lambda: gate.entered == 2)

    with pytest.raises(Timeout) as over:
        threads.call(gate, (), 0.01)
    assert str(over.value) == "no thread was free within 0.01 s"
    gate.open()
    wait_until(lambda: not threads.running)
    assert threads.call(divmod, (7, 2), 30.0) == (3, 1)


def test_a_killed_caller_gives_up_its_call(make: Make) -> None:
    threads, gate = make(1), Gate()
    caller = gevent.spawn(threads.call, gate, (), None)
    wait_until(lambda: gate.entered)
    caller.kill()

    assert threads.call(divmod, (7, 2), 30.0) == (3, 1)
    gate.open()


def test_a_call_that_is_interrupted_in_the_queue_is_never_made(make: Make) -> None:
    threads, gate, made = make(1), Gate(), []
    running = gevent.spawn(threads.call, gate, (), None)
    wait_until(lambda: gate.entered)
    queued = gevent.spawn(threads.call, made.append, (1,), None)
    wait_until(lambda: threads.waiting)
    queued.kill()
    gate.open()
    running.get(timeout=30)
    threads.call(divmod, (7, 2), 30.0)

    assert made == []


def test_the_threads_exist_before_the_first_call(make: Make) -> None:
    before = list_threads()
    make(3)

    assert len(list_threads() - before) >= 3  # gevent's own pool may start a thread too, and end one


def list_threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_an_exception_of_the_function_is_not_printed(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make().call(exit, (3,), None)

    assert capfd.readouterr().err == ""
    assert threading.main_thread().is_alive()
