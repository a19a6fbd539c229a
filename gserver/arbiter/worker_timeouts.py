"""The policy of supervision, from the settings: mainly the time limits of workers. Pure."""

from __future__ import annotations

from gserver.arbiter.channel import DRAIN_AT_ONCE_S
from gserver.arbiter.supervision import Policy
from gserver.config.settings import Settings

__all__ = ["FIRST_QUIT_S", "SECOND_QUIT_S", "drain_limit_of", "policy_of"]

# After the graceful timeout: how long the arbiter waits for a worker to exit before SIGKILL. More than the limit that
# the worker sets itself (END_S in gserver.worker.worker).
KILL_GRACE_S = 4.0
#: How long a worker may take to exit after a second QUIT.
SECOND_QUIT_S = 2.0
#: The same after the first QUIT: one second for the replies that are due, then as after the second.
FIRST_QUIT_S = DRAIN_AT_ONCE_S + SECOND_QUIT_S


def policy_of(settings: Settings, before: Settings) -> Policy:
    """The policy for `settings`; the drain limit also covers `before`, those of the workers that a reload replaces."""
    return Policy(
        settings.reload_surge,
        0.0 if settings.reload else settings.reload_settle,
        settings.ready_timeout,
        max(drain_limit_of(settings), drain_limit_of(before)),
    )


def drain_limit_of(settings: Settings) -> float:
    """How long a worker may take to drain and exit, in seconds."""
    return settings.longest_drain_s + KILL_GRACE_S
