"""Log lines about what clients cause, any number of times: one at once, then one in ten seconds with the count.

A limit that is reached, and a handshake that fails, must stand in the log, and no client may fill the log with them. So
each kind of event has a count, which its next line reports. tell_due() reports a count for which no next event comes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.connection import Address, format_address
from gserver.errors import LimitExceeded

__all__ = ["CLOSED", "HANDSHAKE", "NO_DESCRIPTOR", "PERIOD_S", "SHED", "THROTTLED", "TURNED_AWAY", "Notices"]

log = logging.getLogger("gserver.server")

PERIOD_S = 10.0

#: The lines. count: since the line before; who: the address of the last one; why: the reason of the last one.
TURNED_AWAY = "%(why)s: %(count)d turned away, the last %(who)s"
SHED = "%(why)s: %(count)d idle closed to make room, the last %(who)s"
CLOSED = "%(why)s: %(count)d closed, the last %(who)s"
THROTTLED = "%(why)s: %(count)d throttled, the last %(who)s"
NO_DESCRIPTOR = "cannot accept: %(why)s; %(count)d turned away"
HANDSHAKE = "handshake failed: %(count)d, the last with %(who)s: %(why)s"


@dataclass
class _Kind:
    """What happened of one kind since its last line."""

    level: int
    count: int = 0
    who: Address = ""
    why: str = ""
    next_line_at: float = -math.inf


class Notices:
    """The counts of one worker, or of one server that is not in a worker.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}  # by the line and the setting

    def note(self, level: int, line: str, who: Address, why: str, setting: str = "", count: int = 1) -> None:
        """Count one more, or `count`. Events of one line and one setting are of one kind, whoever they come from."""
        kind = self._kinds.get((line, setting))
        if kind is None:
            kind = self._kinds[line, setting] = _Kind(level)
        kind.count += count
        kind.who, kind.why = who, why
        if self._clock() >= kind.next_line_at:
            self._tell(line, setting, kind)

    def limit(self, line: str, who: Address, exceeded: LimitExceeded) -> None:
        """Count a limit that was reached."""
        self.note(logging.WARNING, line, who, str(exceeded), exceeded.setting)

    def tell_due(self) -> None:
        """Log the counts whose last line is long enough ago; to be called once a second."""
        now = self._clock()
        for (line, setting), kind in self._kinds.items():
            if kind.count and now >= kind.next_line_at:
                self._tell(line, setting, kind)

    def tell_all(self) -> None:
        """Log all counts: nothing more will happen."""
        for (line, setting), kind in self._kinds.items():
            if kind.count:
                self._tell(line, setting, kind)

    def _tell(self, line: str, setting: str, kind: _Kind) -> None:
        why = f"{kind.why} ({setting})" if setting else kind.why
        log.log(kind.level, line, {"why": why, "count": kind.count, "who": format_address(kind.who)})
        kind.count = 0
        kind.next_line_at = self._clock() + PERIOD_S
