"""The time over which a draining worker closes its connections, so that clients do not all reconnect at once. Pure.

By default, the time depends on the number of connections: PER_SECOND per second, and at most LONGEST_S seconds. So a
reload with few connections is not delayed, and a stop with many ends within the 10 seconds that Docker waits before it
kills: 5 seconds here, 2 for peers that are slow to close, and 1 for the logs. If the other servers cannot take the
reconnecting clients so quickly, set a longer time, and a longer stop timeout of the service manager.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["AUTO", "LONGEST_S", "PER_SECOND", "Spread", "longest_spread_s", "spread_s"]

AUTO = "auto"
#: Seconds, or "auto": by the number of connections.
Spread = float | Literal["auto"]

PER_SECOND = 250
LONGEST_S = 5.0


def spread_s(setting: Spread, connections: int) -> float:
    """Return the time, in seconds, over which so many connections are closed."""
    return min(connections / PER_SECOND, LONGEST_S) if setting == "auto" else setting


def longest_spread_s(setting: Spread) -> float:
    """Return the maximum of spread_s(), in seconds, for any number of connections."""
    return LONGEST_S if setting == "auto" else setting
