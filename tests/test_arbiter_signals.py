"""The arbiter's signals, sent to this very process."""

from __future__ import annotations

import os
import select
import signal

from gserver.arbiter.signals import MEANING, Request, SignalQueue


def test_signals_are_queued_in_order_and_wake_a_select() -> None:
    queue = SignalQueue()
    try:
        assert queue.read() == []

        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGQUIT)
        readable, _, _ = select.select([queue], [], [], 5)

        assert readable == [queue]
        assert queue.read() == [Request.DRAIN, Request.QUIT]
        assert queue.read() == []
    finally:
        queue.close()


def test_held_signals_come_afterwards() -> None:
    queue = SignalQueue()
    try:
        with queue.held():
            os.kill(os.getpid(), signal.SIGINT)

            assert queue.read() == []

        assert queue.read() == [Request.DRAIN]
    finally:
        queue.close()


def test_closing_gives_the_signals_back() -> None:
    before = {number: signal.getsignal(number) for number in MEANING}
    SignalQueue().close()

    assert {number: signal.getsignal(number) for number in MEANING} == before
