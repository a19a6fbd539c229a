"""Counts connections over all workers, from the scoreboard."""

from __future__ import annotations

from collections.abc import Iterable

from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.limits.address_table import AddressTable

__all__ = ["SharedCounts"]


class SharedCounts:
    """The counts of all workers, for the limits of one worker (gserver.server.admission.Occupancy).

    Args:
        slot: the slot of this worker.
    """

    def __init__(self, scoreboard: Scoreboard, slot: Slot) -> None:
        self._scoreboard = scoreboard
        self._slot = slot
        self.own = scoreboard.addresses(slot)

    def open_here(self) -> int:
        return self._slot.open

    def open_everywhere(self) -> int:
        return self._scoreboard.open_connections()

    def tables(self) -> Iterable[AddressTable]:
        return map(self._scoreboard.addresses, self._scoreboard.used_slots())

    def sharers(self) -> int:
        return max(1, self._scoreboard.serving())
