"""Wait for a condition with a timeout, instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

__all__ = ["PATIENCE_S", "assert_never", "is_soon", "wait_until"]

PATIENCE_S = 30.0
# Most conditions are true after one or two iterations of the loop; later polls are rarer, to save CPU time.
FIRST_POLL_S = 0.0001
LONGEST_POLL_S = 0.005


def is_soon(fact: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    """Return whether `fact` becomes true within the timeout; other greenlets run meanwhile."""
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
    while not fact():
        if time.monotonic() > deadline:
            return False
        gevent.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_POLL_S)
    return True


def wait_until(fact: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until `fact` is true; fail after the timeout."""
    assert is_soon(fact, timeout_s), "it did not happen in time"


def assert_never(fact: Callable[[], object], within_s: float = 0.1) -> None:
    """Check that `fact` stays false for so many seconds."""
    assert not is_soon(fact, within_s)
