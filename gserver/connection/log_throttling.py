"""Log lines about what clients cause, any number of times: one at once, then one in ten seconds with the count.

A limit that is reached, and a handshake that fails, must stand in the log, and no client may fill the log with them. So
each kind of event has a count, which its next line reports. log_due() reports a count for which no next event comes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.connection.connection import Address, format_address
from gserver.errors import LimitExceeded

__all__ = [
    "CLOSED",
    "HANDSHAKE",
    "NO_DESCRIPTOR",
    "NO_SPARE",
    "PERIOD_S",
    "SHED",
    "THROTTLED",
    "TURNED_AWAY",
    "Notices",
]

log = logging.getLogger("gserver.server")

PERIOD_S = 10.0

#: The lines. count: since the line before; peer: the address of the last one; why: the reason of the last one.
TURNED_AWAY = "%(why)s: %(count)d turned away, the last %(peer)s"
SHED = "%(why)s: %(count)d idle closed to make room, the last %(peer)s"
CLOSED = "%(why)s: %(count)d closed, the last %(peer)s"
THROTTLED = "%(why)s: %(count)d throttled, the last %(peer)s"
NO_DESCRIPTOR = "cannot accept: %(why)s; %(count)d turned away"
NO_SPARE = "cannot accept: %(why)s; clients wait in the queue"
HANDSHAKE = "handshake failed: %(count)d, the last with %(peer)s: %(why)s"


@dataclass
class _Kind:
    """What happened of one kind since its last line."""

    level: int
    count: int = 0
    peer: Address = ""
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

    def note(self, level: int, line: str, peer: Address, why: str, setting: str = "") -> None:
        """Count one more. Events of one line and one setting are of the same kind, from whatever peer."""
        kind = self._kinds.get((line, setting))
        if kind is None:
            kind = self._kinds[line, setting] = _Kind(level)
        kind.count += 1
        kind.peer, kind.why = peer, why
        if self._clock() >= kind.next_line_at:
            self._write(line, setting, kind)

    def limit(self, line: str, peer: Address, exceeded: LimitExceeded) -> None:
        """Count a limit that was reached."""
        self.note(logging.WARNING, line, peer, str(exceeded), exceeded.setting)

    def log_due(self) -> None:
        """Log the counts whose last line is long enough ago; to be called once a second."""
        now = self._clock()
        for (line, setting), kind in self._kinds.items():
            if kind.count and now >= kind.next_line_at:
                self._write(line, setting, kind)

    def log_all(self) -> None:
        """Log all counts: nothing more will happen."""
        for (line, setting), kind in self._kinds.items():
            if kind.count:
                self._write(line, setting, kind)

    def _write(self, line: str, setting: str, kind: _Kind) -> None:
        why = f"{kind.why} ({setting})" if setting else kind.why
        log.log(kind.level, line, {"why": why, "count": kind.count, "peer": format_address(kind.peer)})
        kind.count = 0
        kind.next_line_at = self._clock() + PERIOD_S
