"""Who accepts the next connection, where workers share a listener. Pure.

The kernel wakes every worker for a new connection, and the one that comes first gets it; with long-lived connections
that arrive in bursts one worker ends up with most. So a worker that holds more than the one with the fewest leaves new
connections to the others for a moment, the longer the further it is ahead. If the connection is still there after that
moment, the others are busy, and it takes it: a gate never keeps a client waiting for a worker that does not come.
"""

from __future__ import annotations

__all__ = ["pause_before_accept"]

# Being ahead by less is not worth a pause: for few connections by one, for many by a sixteenth.
SLACK_SHARE = 16
SECONDS_PER_CONNECTION = 0.001
LONGEST_PAUSE_S = 0.05


def pause_before_accept(own: int, fewest: int | None) -> float:
    """How long a worker that holds `own` connections leaves new ones to others, in seconds; 0: it takes them now.

    `fewest`: what the worker holds that holds the fewest; None: there is no other.
    """
    if fewest is None:
        return 0.0
    excess = own - fewest - max(1, fewest // SLACK_SHARE)
    return min(LONGEST_PAUSE_S, excess * SECONDS_PER_CONNECTION) if excess > 0 else 0.0
