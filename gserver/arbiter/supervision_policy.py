"""From settings to how long workers may take: what the book of workers goes by, and how long a stop waits."""

from __future__ import annotations

from gserver.arbiter.channel import QUICK_S
from gserver.arbiter.supervision import Policy
from gserver.config.settings import Settings

__all__ = ["AT_ONCE_S", "QUICKLY_S", "patience_of", "policy_of"]

# After the graceful timeout: what a worker gets to end by itself before SIGKILL; more than it gives itself.
KILL_GRACE_S = 4.0
#: What a worker gets to end in after a second QUIT.
AT_ONCE_S = 2.0
#: The same after the first: a second for the replies that are owed, and then the end.
QUICKLY_S = QUICK_S + AT_ONCE_S


def policy_of(settings: Settings, before: Settings) -> Policy:
    """`before`: those of the workers that a reload replaces, which drain as these say."""
    return Policy(
        settings.reload_surge,
        0.0 if settings.reload else settings.reload_settle,
        settings.ready_timeout,
        max(patience_of(settings), patience_of(before)),
    )


def patience_of(settings: Settings) -> float:
    """How long a worker may take to drain and end, in seconds."""
    return settings.longest_drain_s + KILL_GRACE_S
