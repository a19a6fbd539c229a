"""The door: whether a connection may come in, and by which limit it may not.

A connection is counted first and judged then, so that two workers which accept at the same moment can refuse one too
many, and never let one too many in.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
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
    """How many connections there are, here and elsewhere."""

    own: AddressTable

    def open_here(self) -> int: ...
    def open_everywhere(self) -> int: ...
    def tables(self) -> Iterable[AddressTable]: ...  # of all who hold connections, `own` among them
    def sharers(self) -> int: ...  # how many share what may come in a second


class OwnOccupancy:
    """Of a server that shares its limits with nobody."""

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
    """Judges connections by `limits`: those of one server, or of all the listeners of a worker."""

    def __init__(self, limits: Limits, occupancy: Occupancy) -> None:
        self._limits = limits
        self._occupancy = occupancy
        self._access = AccessList(limits.allow, limits.deny) if limits.allow or limits.deny else None
        self._accepts = TokenBucket(limits.max_accept_rate, limits.max_accept_rate) if limits.max_accept_rate else None
        self._counts_addresses = bool(limits.max_connections_per_ip or limits.max_connections_per_network)
        self._keys: dict[Hashable, list[bytes]] = {}  # under which each is counted

    def at_accept(self) -> LimitExceeded | None:
        """Why the connection that was just accepted and counted must not stay, whoever it is; None if it may."""
        limits, occupancy = self._limits, self._occupancy
        # Before the others, for those may be shed for, and then it would be no limit.
        if self._accepts is not None and not self._accepts.take(time.monotonic(), occupancy.sharers()):
            text = f"more than {limits.max_accept_rate:g} connections a second"
            return LimitExceeded(text, CloseReason.ACCEPT_RATE, "max_accept_rate")
        if limits.worker_connections and occupancy.open_here() > limits.worker_connections:
            return _full(limits.worker_connections, "worker_connections")
        if limits.max_connections and occupancy.open_everywhere() > limits.max_connections:
            return _full(limits.max_connections, "max_connections")
        return None

    def at_name(self, who: Hashable, peer: Address) -> LimitExceeded | None:
        """Why `who` must not stay because of its address; None if it may. left(who) must follow when it is closed."""
        if self._access is not None and not self._access.permits(peer):
            return LimitExceeded(f"no access for {format_address(peer)}", CloseReason.DENIED, "allow, deny")
        return self._count(who, peer) if self._counts_addresses else None

    def _count(self, who: Hashable, peer: Address) -> LimitExceeded | None:
        limits = self._limits
        own, tables = self._occupancy.own, list(self._occupancy.tables())
        network_bits = limits.ipv4_network_bits, limits.ipv6_network_bits
        for most, (bits4, bits6), what, setting in (
            # Of IPv6, a subscriber has at least 64 bits.
            (limits.max_connections_per_ip, (32, 64), "address", "max_connections_per_ip"),
            (limits.max_connections_per_network, network_bits, "network", "max_connections_per_network"),
        ):
            network = network_key(peer, bits4, bits6) if most else None
            if network is None:
                continue
            key = network + what.encode()  # both may have the same bits, and are two counts even so
            if not own.add(key):
                continue
            self._keys.setdefault(who, []).append(key)
            if sum(table.count(key) for table in tables) > most:
                text = f"more than {most} connections from one {what}"
                return LimitExceeded(text, CloseReason.ADDRESS_LIMIT, setting)
        return None

    def left(self, who: Hashable) -> None:
        """It is closed, and counts no more."""
        for key in self._keys.pop(who, ()):
            self._occupancy.own.remove(key)

    def action_for(self, refusal: LimitExceeded) -> FullAction:
        if refusal.close_reason is CloseReason.FULL:
            return self._limits.full_action
        if refusal.close_reason is CloseReason.ADDRESS_LIMIT:
            return self._limits.ip_action
        return "close" if refusal.close_reason is CloseReason.DENIED else self._limits.accept_rate_action


def _full(most: int, setting: str) -> LimitExceeded:
    return LimitExceeded(f"the server is full: it holds {most} connections", CloseReason.FULL, setting)
