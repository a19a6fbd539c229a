"""How many connections there are in all workers, as the scoreboard has it."""

from __future__ import annotations

from collections.abc import Iterable

from gserver.arbiter.scoreboard import Place, Scoreboard
from gserver.limits.address_table import AddressTable

__all__ = ["SharedOccupancy"]


class SharedOccupancy:
    """A worker's gserver.server.admission.Occupancy.

    Args:
        place: the worker's own.
    """

    def __init__(self, scoreboard: Scoreboard, place: Place) -> None:
        self._scoreboard = scoreboard
        self._place = place
        self.own = scoreboard.addresses(place)

    def open_here(self) -> int:
        return self._place.open

    def open_everywhere(self) -> int:
        return self._scoreboard.open_connections()

    def tables(self) -> Iterable[AddressTable]:
        return map(self._scoreboard.addresses, self._scoreboard.taken())

    def sharers(self) -> int:
        return max(1, self._scoreboard.serving())
