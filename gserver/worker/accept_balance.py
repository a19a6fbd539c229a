"""Balances connections between workers that share a listener: how long a worker waits before it accepts. Pure.

The kernel wakes every worker for a new connection, and the fastest one gets it. If long-lived connections arrive in
bursts, one worker ends up with most of them. So a worker with more connections than the one with the fewest pauses
before it accepts; the larger the difference, the longer the pause. If the connection is still in the accept queue after
that, the other workers are busy, and this one accepts it. So a client never waits for a worker that does not come.
"""

from __future__ import annotations

__all__ = ["pause_before_accept"]

# The difference that causes no pause: a sixteenth of the fewest connections, but at least one connection.
SLACK_SHARE = 16
SECONDS_PER_CONNECTION = 0.001
LONGEST_PAUSE_S = 0.05


def pause_before_accept(own: int, fewest: int | None) -> float:
    """How long a worker with `own` connections pauses before it accepts, in seconds; 0: it accepts now.

    `fewest`: the connections of the worker that has the fewest; None: there is no other worker.
    """
    if fewest is None:
        return 0.0
    excess = own - fewest - max(1, fewest // SLACK_SHARE)
    return min(LONGEST_PAUSE_S, excess * SECONDS_PER_CONNECTION) if excess > 0 else 0.0
