"""The access list: which client addresses may connect; and the keys by which addresses are counted. Pure."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

__all__ = ["AccessList", "Network", "network_key", "parse_networks"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv4-mapped IPv6 addresses: RFC 4291, 2.5.5.2
_IPV4_IN_IPV6 = ipaddress.IPv6Network("::ffff:0:0/96")


class AccessList:
    """Decides whether an address may connect. `deny` overrides `allow`; an empty `allow` permits all addresses.

    Peers without an address (unix sockets) are always permitted. A lookup takes about 2 microseconds for one network
    and for a thousand; most of that time parses the address.
    """

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        self._allow, self._deny = _Ranges(allow), _Ranges(deny)

    def permits(self, peer: Any) -> bool:
        """Return whether `peer`, as returned by accept(), may connect."""
        packed = _packed(peer)
        if packed is None:
            return True
        return packed not in self._deny and (not self._allow or packed in self._allow)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks. IPv4-mapped IPv6 networks become IPv4, as the addresses of peers do.

    ValueError names the text that is not a network, and the network that was probably meant.
    """
    return tuple(map(_parse_network, texts))


def network_key(peer: Any, ipv4_bits: int, ipv6_bits: int) -> bytes | None:
    """Return the network of `peer`, of so many bits, as a key to count by; None for a peer without an address."""
    packed = _packed(peer)
    if packed is None:
        return None
    bits = ipv4_bits if len(packed) == 4 else ipv6_bits
    host_bits = len(packed) * 8 - bits
    network = int.from_bytes(packed, "big") >> host_bits << host_bits
    return network.to_bytes(len(packed), "big") + bytes((bits,))


class _Ranges:
    """The addresses of some networks, of both families, as sorted ranges that do not touch."""

    def __init__(self, networks: Iterable[Network]) -> None:
        # Length of an address in bytes -> (first addresses, last addresses) of the ranges.
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


def _packed(peer: Any) -> bytes | None:
    """Return the address of `peer` in 4 or 16 bytes, IPv4-mapped as IPv4; None for a peer without an address."""
    if not isinstance(peer, tuple):
        return None
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return None
    return (getattr(address, "ipv4_mapped", None) or address).packed


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
