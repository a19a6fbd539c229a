"""Over how long a worker that drains closes its connections, so that their peers do not all come back at once. Pure.

By default the time depends on their number: PER_SECOND a second, and LONGEST_S seconds at most. So a reload of a few
connections takes no longer for it, and a stop of many ends within the 10 seconds that Docker waits before it kills:
these 5, 2 for peers that are slow to close, and a second for the logs. If more clients come back than the other servers
can take so quickly, set a longer time, and a longer one for whatever stops the server as well.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["AUTO", "LONGEST_S", "PER_SECOND", "Spread", "longest_spread_s", "spread_s"]

AUTO = "auto"
#: Seconds, or by the number of connections.
Spread = float | Literal["auto"]

PER_SECOND = 250
LONGEST_S = 5.0


def spread_s(setting: Spread, connections: int) -> float:
    """Return over how many seconds so many connections are closed."""
    return min(connections / PER_SECOND, LONGEST_S) if setting == "auto" else setting


def longest_spread_s(setting: Spread) -> float:
    """Return how long that may be, whatever the number."""
    return LONGEST_S if setting == "auto" else setting
