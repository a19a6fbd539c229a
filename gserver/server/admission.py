"""Admission: decides whether a new connection may stay, and names the limit if not.

A connection is counted first and checked afterwards. So two workers that accept at the same moment may refuse one
connection too many, but never accept one too many.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator
from typing import Protocol

from gserver.connection.connection import Address, format_address
from gserver.counters import Counters
from gserver.errors import CloseReason, LimitExceeded
from gserver.limits.access_list import AccessList, network_key
from gserver.limits.address_table import TABLE_WORDS, AddressTable
from gserver.limits.connection_limits import FullAction, Limits
from gserver.limits.token_bucket import TokenBucket

__all__ = ["Door", "Occupancy", "OwnOccupancy"]


class Occupancy(Protocol):
    """How many connections there are, in this worker and in all workers."""

    own: AddressTable

    def open_here(self) -> int: ...
    def open_everywhere(self) -> int: ...
    def tables(self) -> Iterable[AddressTable]: ...  # of all workers, with `own`
    def sharers(self) -> int: ...  # how many workers share max_accept_rate


class OwnOccupancy:
    """The occupancy of a server that shares its limits with no other."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.own = AddressTable(memoryview(bytearray(8 * TABLE_WORDS)).cast("Q"))

    def open_here(self) -> int:
        return self._counters.open

    open_everywhere = open_here

    def tables(self) -> Iterable[AddressTable]:
        return (self.own,)

    def sharers(self) -> int:
        return 1


class Door:
    """Checks new connections against `limits`: for one server, or for all listeners of a worker.

    Args:
        limits: the limits. allow and deny do not count here, because each listener may have its own.
        occupancy: how many connections there are.
    """

    def __init__(self, limits: Limits, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        # The table entries under which each connection is counted: tuples, which the garbage collector need not visit.
        self._entries: dict[Hashable, tuple[bytes, ...]] = {}
        self._limits = Limits()
        self._accepts: TokenBucket | None = None
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """Use other limits from now on. The caller calls recount() for each connection."""
        before, self._limits = self._limits, limits
        rate = limits.max_accept_rate
        if rate != before.max_accept_rate:  # a new bucket is full
            self._accepts = TokenBucket(rate, rate) if rate else None
        self._counts_addresses = bool(limits.max_connections_per_ip or limits.max_connections_per_network)

    def recount(self, key: Hashable, peer: Address) -> None:
        """Count a connection that has been admitted by address again, as the present limits need it."""
        self.left(key)
        for _, _, _, entry in self._countings(peer):
            self._enter(key, entry)

    def check_accept(self) -> LimitExceeded | None:
        """Check a connection that was just accepted and counted, without its address.

        Return the limit that it exceeds; None if it may stay.
        """
        limits, occupancy = self._limits, self._occupancy
        # Checked first: for the other limits an idle connection may be shed, which would bypass the accept rate.
        if self._accepts is not None and not self._accepts.take(time.monotonic(), occupancy.sharers()):
            text = f"more than {limits.max_accept_rate:g} connections a second"
            return LimitExceeded(text, CloseReason.ACCEPT_RATE, "max_accept_rate")
        if limits.worker_connections and occupancy.open_here() > limits.worker_connections:
            return _full(limits.worker_connections, "worker_connections")
        if limits.max_connections and occupancy.open_everywhere() > limits.max_connections:
            return _full(limits.max_connections, "max_connections")
        return None

    def check_address(self, key: Hashable, peer: Address, access: AccessList | None = None) -> LimitExceeded | None:
        """Check the address of a connection, and count it by address.

        Args:
            key: identifies the connection; the caller calls left(key) when it is closed, also if it is refused.
            peer: its address.
            access: the addresses that its listener permits; None: all.

        Return the limit that it exceeds; None if it may stay.
        """
        if access is not None and not access.permits(peer):
            return LimitExceeded(f"no access for {format_address(peer)}", CloseReason.DENIED, "allow, deny")
        return self._count(key, peer) if self._counts_addresses else None

    def _count(self, key: Hashable, peer: Address) -> LimitExceeded | None:
        tables = list(self._occupancy.tables())
        for most, what, setting, entry in self._countings(peer):
            if self._enter(key, entry) and sum(table.count(entry) for table in tables) > most:
                text = f"more than {most} connections from one {what}"
                return LimitExceeded(text, CloseReason.ADDRESS_LIMIT, setting)
        return None

    def _enter(self, key: Hashable, entry: bytes) -> bool:
        """Count a connection under an entry; return False if the table has no room for it."""
        has_room = self._occupancy.own.add(entry)
        if has_room:
            self._entries[key] = (*self._entries.get(key, ()), entry)
        return has_room

    def _countings(self, peer: Address) -> Iterator[tuple[int, str, str, bytes]]:
        """For each limit by address: the limit, what it is for, its setting, and the table entry of `peer`."""
        limits = self._limits
        network_bits = limits.ipv4_network_bits, limits.ipv6_network_bits
        for most, (bits4, bits6), what, setting in (
            # A subscriber has at least 64 bits of IPv6 addresses.
            (limits.max_connections_per_ip, (32, 64), "address", "max_connections_per_ip"),
            (limits.max_connections_per_network, network_bits, "network", "max_connections_per_network"),
        ):
            network = network_key(peer, bits4, bits6) if most else None
            if network is not None:
                # An address and a network may have the same bits, but are counted separately.
                yield most, what, setting, network + what.encode()

    def left(self, key: Hashable) -> None:
        """Remove a connection that is closed from the counts by address."""
        for entry in self._entries.pop(key, ()):
            self._occupancy.own.remove(entry)

    def action_for(self, refusal: LimitExceeded) -> FullAction:
        """Return what the settings demand for a connection that is refused: "close", "refuse" or "shed"."""
        if refusal.close_reason is CloseReason.FULL:
            return self._limits.full_action
        if refusal.close_reason is CloseReason.ADDRESS_LIMIT:
            return self._limits.ip_action
        return "close" if refusal.close_reason is CloseReason.DENIED else self._limits.accept_rate_action


def _full(most: int, setting: str) -> LimitExceeded:
    return LimitExceeded(f"the server is full: it holds {most} connections", CloseReason.FULL, setting)
