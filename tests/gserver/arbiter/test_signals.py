"""The arbiter's signals, sent to this very process."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from gserver.arbiter.signals import SIGNALS, WORKER_SIGNALS, Request, SignalQueue, markdown_table


@pytest.fixture
def queue() -> Iterator[SignalQueue]:
    made = SignalQueue()
    yield made
    made.close()


def test_signals_are_queued_in_order_and_wake_a_select(queue: SignalQueue) -> None:
    assert queue.read() == []

    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGQUIT)
    readable, _, _ = select.select([queue], [], [], 5)

    assert readable == [queue]
    assert queue.read() == [Request.STOP, Request.QUIT]
    assert queue.read() == []


@pytest.mark.parametrize(("number", "request_"), SIGNALS.items(), ids=[number.name for number in SIGNALS])
def test_every_signal_of_the_table_asks_for_what_it_says(
    queue: SignalQueue, number: signal.Signals, request_: Request
) -> None:
    os.kill(os.getpid(), number)

    assert queue.read() == [request_]


def test_held_signals_come_afterwards(queue: SignalQueue) -> None:
    with queue.held():  # for this thread only; other threads of the process still get them
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        assert queue.read() == []

    assert queue.read() == [Request.QUIT]


def test_signals_of_others_are_left_out(queue: SignalQueue) -> None:
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    for number in (signal.SIGALRM, signal.SIGHUP, signal.SIGALRM):
        os.kill(os.getpid(), number)
    signal.signal(signal.SIGALRM, before)

    assert queue.read() == [Request.RELOAD]


def test_more_signals_than_anybody_reads_never_block_and_wake_a_select(queue: SignalQueue) -> None:
    for _ in range(3000):
        os.kill(os.getpid(), signal.SIGHUP)

    assert select.select([queue], [], [], 5)[0] == [queue]
    assert set(queue.read()) == {Request.RELOAD}


def test_signals_are_let_through_again_after_an_error(queue: SignalQueue) -> None:
    def fail() -> None:
        with queue.held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert queue.read() == [Request.STOP]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_closing_gives_the_signals_back() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    SignalQueue().close()

    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_after_retire_further_signals_are_ignored() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    SignalQueue().retire()
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_child_no_longer_feeds_the_queue(queue: SignalQueue) -> None:
    with queue.held():
        pid = os.fork()
        if pid == 0:
            queue.leave_to_child()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
                os.kill(os.getpid(), number)  # the arbiter's affair
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert [request for request in queue.read() if request is not Request.REAP] == []


def test_the_table_names_every_signal() -> None:
    table = markdown_table()

    for number in [*SIGNALS, *WORKER_SIGNALS]:
        assert f"| `{number.name[3:]}` | " in table
