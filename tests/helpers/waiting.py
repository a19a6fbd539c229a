"""Waiting for facts: a deadline for each, and never a pause that hopes."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

__all__ = ["PATIENCE_S", "assert_never", "is_soon", "wait_until"]

PATIENCE_S = 30.0
# Most facts hold within a turn of the loop or two; who waits longer looks less often, and leaves others the processor.
FIRST_POLL_S = 0.0001
LONGEST_POLL_S = 0.005


def is_soon(fact: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    """Whether `fact` holds within the timeout; other greenlets run meanwhile."""
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
    while not fact():
        if time.monotonic() > deadline:
            return False
        gevent.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_POLL_S)
    return True


def wait_until(fact: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    assert is_soon(fact, timeout_s), "it did not happen in time"


def assert_never(fact: Callable[[], object], within_s: float = 0.1) -> None:
    """What must not happen does not, for as long as a test can afford to look."""
    assert not is_soon(fact, within_s)
