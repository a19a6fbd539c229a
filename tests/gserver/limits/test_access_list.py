"""Access lists, and the networks by which addresses are counted."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.access_list import AccessList, Network, network_key, parse_networks

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def addresses() -> st.SearchStrategy[Any]:
    """Addresses of both families, without IPv4-mapped ones."""
    return st.ip_addresses().map(lambda address: address if address not in MAPPED else address + 2**64)


# A few addresses in a few networks, so that they match often; and any others.
NEAR_V4 = st.integers(0, 300).map(lambda number: ipaddress.IPv4Address(0x0A000000 + number))
NEAR_V6 = st.integers(0, 300).map(lambda number: ipaddress.IPv6Address((0xFD << 120) + number))
ADDRESSES = st.one_of(NEAR_V4, NEAR_V6, addresses())


def networks() -> st.SearchStrategy[Network]:
    def network(address: Any, bits: int) -> Network:
        return ipaddress.ip_network((address, address.max_prefixlen - bits), strict=False)

    return st.builds(network, ADDRESSES, st.integers(0, 32))


def permits(address: Any, allow: list[Network], deny: list[Network]) -> bool:
    """The same as AccessList.permits(), by a search of all networks."""
    allowed = not allow or any(address in network for network in allow)
    return allowed and not any(address in network for network in deny)


@given(ADDRESSES, st.lists(networks(), max_size=6), st.lists(networks(), max_size=6))
def test_an_access_list_agrees_with_a_search_of_all_networks(
    address: Any, allow: list[Network], deny: list[Network]
) -> None:
    peer = (str(address), 1) if address.version == 4 else (str(address), 1, 0, 0)

    assert AccessList(allow, deny).permits(peer) == permits(address, allow, deny)


@given(NEAR_V4, st.lists(networks(), max_size=6), st.lists(networks(), max_size=6))
def test_ipv4_mapped_addresses_are_checked_as_ipv4(address: Any, allow: list[Network], deny: list[Network]) -> None:
    listed = AccessList(allow, deny)

    assert listed.permits((f"::ffff:{address}", 1, 0, 0)) == listed.permits((str(address), 1))


@pytest.mark.parametrize(
    ("address", "welcome"),
    [
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fe80::2%eth0", False),
        ("::a00:1", False),  # has the number of 10.0.0.1, but is another address
    ],
)
def test_the_first_and_last_address_of_a_network_are_in_it(address: str, welcome: bool) -> None:
    allow = parse_networks(["10.0.0.0/8", "fe80::1"])

    assert AccessList(allow, ()).permits((address, 1)) is welcome
    assert AccessList((), allow).permits((address, 1)) is not welcome


def test_an_allow_list_of_one_family_denies_the_other_family() -> None:
    assert not AccessList(parse_networks(["0.0.0.0/0"]), ()).permits(("::1", 1, 0, 0))
    assert not AccessList(parse_networks(["::/0"]), ()).permits(("127.0.0.1", 1))


@pytest.mark.parametrize("peer", ["", b"", "/run/peer.sock", b"\0abstract", None])
def test_a_peer_without_an_address_may_come_in_and_has_no_network(peer: Any) -> None:
    everybody = parse_networks(["0.0.0.0/0", "::/0"])

    assert AccessList((), everybody).permits(peer)
    assert network_key(peer, 32, 64) is None


def test_networks_are_read_with_and_without_their_bits() -> None:
    read = parse_networks(["10.0.0.0/8", "127.0.0.1", "fd00::/8", "::1", "10.0.0.0/255.255.255.0"])

    assert list(map(str, read)) == ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8", "::1/128", "10.0.0.0/24"]


@pytest.mark.parametrize(
    ("text", "network"), [("::ffff:10.0.0.1", "10.0.0.1/32"), ("::ffff:0:0/96", "0.0.0.0/0"), ("::/0", "::/0")]
)
def test_a_network_of_ipv4_in_ipv6_is_one_of_ipv4(text: str, network: str) -> None:
    """Its addresses are compared as IPv4: otherwise no address would ever match."""
    assert list(map(str, parse_networks([text]))) == [network]


@pytest.mark.parametrize("text", ["", " ", "localhost", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/8/8", "1:2:3"])
def test_text_that_is_not_a_network_is_an_error_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a network such as 10\.0\.0\.0/8 or ::1$") as caught:
        parse_networks(["10.0.0.0/8", text])

    assert str(caught.value).startswith(repr(text))


@pytest.mark.parametrize(("text", "meant"), [("10.1.2.3/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64")])
def test_a_network_with_host_bits_is_an_error_with_a_suggestion(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}', must be .*, did you mean {meant}\\?$"):
        parse_networks([text])


@given(addresses(), st.integers(0, 32), st.integers(0, 128))
def test_a_key_is_the_network_that_ipaddress_names(address: Any, bits4: int, bits6: int) -> None:
    bits = bits4 if address.version == 4 else bits6
    network = ipaddress.ip_network((address, bits), strict=False)

    assert network_key((str(address), 1), bits4, bits6) == network.network_address.packed + bytes([bits])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "::a00:1", False),
        ("fd00:0:0:1::1", "fd00:0:0:1:ffff:ffff:ffff:ffff", True),
        ("fd00:0:0:1::1", "fd00:0:0:2::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
    ],
)
def test_addresses_are_counted_as_one(first: str, second: str, same: bool) -> None:
    assert (network_key((first, 1), 32, 64) == network_key((second, 2), 32, 64)) is same


def test_an_address_is_never_counted_with_its_own_network() -> None:
    assert network_key(("10.0.0.0", 1), 32, 64) != network_key(("10.0.0.0", 1), 24, 48)
