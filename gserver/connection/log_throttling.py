"""Throttles log lines about clients: the first event is logged at once, later ones every ten seconds with their count.

A limit that is reached and a handshake that fails must be logged, but no client may fill the log. So the events of each
kind are counted, and the next line of that kind reports the count. log_due() reports a count after which no more event
comes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.connection.connection import Address, Connection, format_address, format_id
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

#: The log lines. count: events since the line before; peer: address and id of the last one; why: its reason.
TURNED_AWAY = "%(why)s: %(count)d turned away, the last %(peer)s"
SHED = "%(why)s: %(count)d idle closed to make room, the last %(peer)s"
CLOSED = "%(why)s: %(count)d closed, the last %(peer)s"
THROTTLED = "%(why)s: %(count)d throttled, the last %(peer)s"
NO_DESCRIPTOR = "cannot accept: %(why)s; %(count)d turned away"
NO_SPARE = "cannot accept: %(why)s; clients wait in the queue"
HANDSHAKE = "handshake failed: %(count)d, the last with %(peer)s: %(why)s"


@dataclass
class _Kind:
    """The events of one kind since its last line."""

    level: int
    count: int = 0
    peer: Address = ""
    number: int | None = None  # Connection.number; None: the last one has no Connection
    why: str = ""
    next_line_at: float = -math.inf


class Notices:
    """Counts events and logs them, throttled: for one worker, or for one server that is not in a worker.

    Args:
        clock: returns monotonic time in seconds; default: time.monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}  # by line and setting

    def note(self, level: int, line: str, client: Connection | Address, why: str, setting: str = "") -> None:
        """Count one more event, and log it if its kind has had no line for ten seconds.

        Args:
            level: the level of the log line.
            line: one of the lines above. Events with the same line and setting are of one kind, from all peers.
            client: the connection, or the address of a client that has none.
            why: the reason, as text.
            setting: the setting that causes it; named in the line.
        """
        kind = self._kinds.get((line, setting))
        if kind is None:
            kind = self._kinds[line, setting] = _Kind(level)
        kind.count += 1
        kind.why = why
        if isinstance(client, Connection):  # the connection itself is not kept
            kind.peer, kind.number = client.peer, client.number
        else:
            kind.peer, kind.number = client, None
        if self._clock() >= kind.next_line_at:
            self._write(line, setting, kind)

    def limit(self, line: str, client: Connection | Address, exceeded: LimitExceeded) -> None:
        """Count a client that exceeded a limit, as a warning."""
        self.note(logging.WARNING, line, client, str(exceeded), exceeded.setting)

    def log_due(self) -> None:
        """Log the counts of kinds that have had no line for ten seconds. Must be called once a second."""
        now = self._clock()
        for (line, setting), kind in self._kinds.items():
            if kind.count and now >= kind.next_line_at:
                self._write(line, setting, kind)

    def log_all(self) -> None:
        """Log all counts that are left; called at the end."""
        for (line, setting), kind in self._kinds.items():
            if kind.count:
                self._write(line, setting, kind)

    def _write(self, line: str, setting: str, kind: _Kind) -> None:
        why = f"{kind.why} ({setting})" if setting else kind.why
        peer = format_address(kind.peer)
        fields = {"peer": peer} if kind.peer else {}
        if kind.number is not None:
            fields["connection"] = format_id(kind.number)
            peer = f"{peer} ({fields['connection']})"
        log.log(kind.level, line, {"why": why, "count": kind.count, "peer": peer}, extra=fields)
        kind.count = 0
        kind.next_line_at = self._clock() + PERIOD_S
