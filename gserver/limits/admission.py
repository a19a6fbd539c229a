"""Who may come in, and how many, and how fast: the parts that limits are made of. Pure; the clock is an argument.

AccessList    networks that may connect, and networks that may not
TokenBucket   so many a second
AddressTable  how many connections each address has, in memory that several processes read
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

__all__ = ["TABLE_WORDS", "AccessList", "AddressTable", "Network", "TokenBucket", "network_key", "parse_networks"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# RFC 4291, 2.5.5.2
_IPV4_IN_IPV6 = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks, IPv4 in IPv6 as IPv4, for so its addresses are judged.

    ValueError names the text that is none, and what was probably meant.
    """
    return tuple(map(_parse_network, texts))


def _parse_network(text: str) -> Network:
    try:
        return _as_ipv4(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        meant = f", did you mean {ipaddress.ip_network(text, strict=False)}?"
    except ValueError:
        meant = ""
    raise ValueError(f"{text!r}, must be a network such as 10.0.0.0/8 or ::1{meant}")


def _as_ipv4(network: Network) -> Network:
    if network.version == 4 or not network.subnet_of(_IPV4_IN_IPV6):
        return network
    return ipaddress.IPv4Network((network.network_address.packed[-4:], network.prefixlen - 96))


def _packed(peer: Any) -> bytes | None:
    """The peer's address in 4 or 16 bytes, IPv4 in IPv6 as IPv4; None for what has none."""
    if not isinstance(peer, tuple):
        return None
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return None
    return (getattr(address, "ipv4_mapped", None) or address).packed


class AccessList:
    """Whether an address may connect: `deny` wins, and an empty `allow` allows everybody.

    Peers without an address, those of unix sockets, always may. A lookup takes the same for one network and for a
    thousand (about 2 microseconds, most of them to read the address).
    """

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        self._allow, self._deny = _Ranges(allow), _Ranges(deny)

    def permits(self, peer: Any) -> bool:
        """peer: as accept() returns it."""
        packed = _packed(peer)
        if packed is None:
            return True
        return packed not in self._deny and (not self._allow or packed in self._allow)


class _Ranges:
    """Addresses of both families, as sorted ranges that do not touch."""

    def __init__(self, networks: Iterable[Network]) -> None:
        # By the length of an address: the first and the last of each range.
        self._ranges: dict[int, tuple[list[bytes], list[bytes]]] = {}
        listed = list(networks)
        for version, size in ((4, 4), (6, 16)):
            merged = ipaddress.collapse_addresses([each for each in listed if each.version == version])  # type: ignore[type-var]
            pairs = [(each.network_address.packed, each.broadcast_address.packed) for each in merged]
            self._ranges[size] = [first for first, _ in pairs], [last for _, last in pairs]

    def __bool__(self) -> bool:
        return any(first for first, _ in self._ranges.values())

    def __contains__(self, packed: bytes) -> bool:
        first, last = self._ranges[len(packed)]
        index = bisect_right(first, packed) - 1
        return index >= 0 and packed <= last[index]


class TokenBucket:
    """So many tokens a second, and at most `burst` of them saved up. It begins full."""

    __slots__ = ("_balance", "_burst", "_counted_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._balance = burst
        self._counted_at: float | None = None

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens, or none if there are not so many. Of more than a burst, the rest is owed."""
        self._count(now)
        if self._balance < min(amount, self._burst):
            return False
        self._balance -= amount
        return True

    def spend(self, now: float, amount: float) -> float:
        """Take `amount` tokens whether they are there or not; return in how many seconds none is owed any more."""
        self._count(now)
        self._balance -= amount
        return max(0.0, -self._balance / self._rate)

    def _count(self, now: float) -> None:
        if self._counted_at is not None and now > self._counted_at:
            self._balance = min(self._burst, self._balance + (now - self._counted_at) * self._rate)
        self._counted_at = now if self._counted_at is None else max(now, self._counted_at)


def network_key(peer: Any, ipv4_bits: int, ipv6_bits: int) -> bytes | None:
    """The network of `peer` that has so many bits, as something to count it by; None for a peer without an address."""
    packed = _packed(peer)
    if packed is None:
        return None
    bits = ipv4_bits if len(packed) == 4 else ipv6_bits
    rest = len(packed) * 8 - bits
    network = int.from_bytes(packed, "big") >> rest << rest
    return network.to_bytes(len(packed), "big") + bytes((bits,))


#: How many 64-bit words a table has; it holds about half as many addresses before it loses sight of one.
TABLE_WORDS = 2**15
_BUCKET = 8
_COUNT_BITS = 16
_MOST = (1 << _COUNT_BITS) - 1


class AddressTable:
    """How many connections each key has, in TABLE_WORDS words of memory that may be shared; all of them 0 at first.

    One process writes, and any number read without a lock: a word holds 48 bits of a key's hash and 16 of its count,
    and is stored at once. All of them must have been forked from one process, for the hash is keyed, by Python's own
    key: nobody outside can choose addresses that collide. A key stays in its bucket of eight words. A full bucket
    counts no more keys, which lets them in rather than keep out somebody who has done nothing.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._buckets = len(words) // _BUCKET

    def add(self, key: bytes) -> bool:
        """Count one more; False if there is no room to count it, and then it must not be removed either."""
        tag, begin = self._place(key)
        free = None
        for index in range(begin, begin + _BUCKET):
            word = self._words[index]
            count = word & _MOST
            if count and word >> _COUNT_BITS == tag:
                if count == _MOST:
                    return False
                self._words[index] = word + 1
                return True
            if not count and free is None:
                free = index
        if free is None:
            return False
        self._words[free] = tag << _COUNT_BITS | 1
        return True

    def remove(self, key: bytes) -> None:
        """Count one less of what was added."""
        index = self._find(key)
        if index is not None:
            self._words[index] -= 1

    def count(self, key: bytes) -> int:
        index = self._find(key)
        return 0 if index is None else self._words[index] & _MOST

    def _place(self, key: bytes) -> tuple[int, int]:
        """What a key is known by, and where its bucket begins."""
        hashed = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        return hashed >> _COUNT_BITS, hash((hashed, "bucket")) % self._buckets * _BUCKET

    def _find(self, key: bytes) -> int | None:
        tag, begin = self._place(key)
        for index in range(begin, begin + _BUCKET):
            word = self._words[index]
            if word & _MOST and word >> _COUNT_BITS == tag:
                return index
        return None
