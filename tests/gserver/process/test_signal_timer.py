"""The kernel's timer: its signals come to the thread that made it, until it is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from gserver.process.signal_timer import SignalTimer

INTERVAL_S = 0.002
PATIENCE_S = 30.0


@pytest.fixture
def received() -> Iterator[list[int]]:
    numbers: list[int] = []
    before = signal.signal(signal.SIGPROF, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGPROF, before)


def wait_for(received: list[int], count: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while len(received) < count and time.monotonic() < until:
        time.sleep(INTERVAL_S)
    assert len(received) >= count


def test_signals_come_at_the_interval_until_it_is_stopped(received: list[int]) -> None:
    began_at = time.monotonic()
    timer = SignalTimer(signal.SIGPROF, INTERVAL_S)
    wait_for(received, 5)
    timer.stop()
    count = len(received)
    took_s = time.monotonic() - began_at
    time.sleep(INTERVAL_S * 5)

    assert len(received) == count
    assert count <= took_s / INTERVAL_S
    timer.stop()  # nothing more to do


def test_a_forked_child_has_no_timer(received: list[int]) -> None:
    timer = SignalTimer(signal.SIGPROF, INTERVAL_S)
    pid = os.fork()
    if pid == 0:
        received.clear()
        time.sleep(INTERVAL_S * 20)
        os._exit(len(received))
    _, status = os.waitpid(pid, 0)
    timer.stop()

    assert status == 0


def test_a_forgotten_timer_is_not_stopped(received: list[int]) -> None:
    timer = SignalTimer(signal.SIGPROF, INTERVAL_S)
    again = SignalTimer(signal.SIGPROF, INTERVAL_S)
    identity, again._id = again._id, None
    again.forget()
    again.stop()
    timer.stop()
    received.clear()
    wait_for(received, 2)
    again._id = identity
    again.stop()


def test_a_signal_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        SignalTimer(1000, INTERVAL_S)
