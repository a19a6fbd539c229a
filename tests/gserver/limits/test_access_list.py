"""What limits are made of: access lists, token buckets, and the tables that count addresses over processes."""

from __future__ import annotations

import ipaddress
import mmap
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.access_list import AccessList, Network, network_key, parse_networks
from gserver.limits.address_table import TABLE_WORDS, AddressTable
from gserver.limits.token_bucket import TokenBucket

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def addresses() -> st.SearchStrategy[Any]:
    """Of both families; IPv4 in IPv6 is not among them."""
    return st.ip_addresses().map(lambda address: address if address not in MAPPED else address + 2**64)


# Few addresses, in few networks, so that they meet; and any other.
NEAR_V4 = st.integers(0, 300).map(lambda number: ipaddress.IPv4Address(0x0A000000 + number))
NEAR_V6 = st.integers(0, 300).map(lambda number: ipaddress.IPv6Address((0xFD << 120) + number))
ADDRESSES = st.one_of(NEAR_V4, NEAR_V6, addresses())


def networks() -> st.SearchStrategy[Network]:
    def network(address: Any, bits: int) -> Network:
        return ipaddress.ip_network((address, address.max_prefixlen - bits), strict=False)

    return st.builds(network, ADDRESSES, st.integers(0, 32))


def permits(address: Any, allow: list[Network], deny: list[Network]) -> bool:
    """The same, asked of every network."""
    allowed = not allow or any(address in network for network in allow)
    return allowed and not any(address in network for network in deny)


@given(ADDRESSES, st.lists(networks(), max_size=6), st.lists(networks(), max_size=6))
def test_an_access_list_says_what_its_networks_say(address: Any, allow: list[Network], deny: list[Network]) -> None:
    peer = (str(address), 1) if address.version == 4 else (str(address), 1, 0, 0)

    assert AccessList(allow, deny).permits(peer) == permits(address, allow, deny)


@given(NEAR_V4, st.lists(networks(), max_size=6), st.lists(networks(), max_size=6))
def test_ipv4_in_ipv6_is_judged_as_ipv4(address: Any, allow: list[Network], deny: list[Network]) -> None:
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
        ("::a00:1", False),  # the number of 10.0.0.1, and another address
    ],
)
def test_a_network_begins_and_ends_where_it_says(address: str, welcome: bool) -> None:
    allow = parse_networks(["10.0.0.0/8", "fe80::1"])

    assert AccessList(allow, ()).permits((address, 1)) is welcome
    assert AccessList((), allow).permits((address, 1)) is not welcome


def test_an_allow_list_of_one_family_allows_nobody_of_the_other() -> None:
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
    """As its addresses are: otherwise nobody would ever be found in it."""
    assert list(map(str, parse_networks([text]))) == [network]


@pytest.mark.parametrize("text", ["", " ", "localhost", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/8/8", "1:2:3"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a network such as 10\.0\.0\.0/8 or ::1$") as caught:
        parse_networks(["10.0.0.0/8", text])

    assert str(caught.value).startswith(repr(text))


@pytest.mark.parametrize(("text", "meant"), [("10.1.2.3/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64")])
def test_a_network_with_bits_too_many_is_told_what_it_means(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}', must be .*, did you mean {meant}\\?$"):
        parse_networks([text])


# Token buckets


def test_a_bucket_begins_full_and_gives_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=3)

    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(5.09)
    assert bucket.take(5.11)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_take_that_fails_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=3)

    assert bucket.take(0.0, 1)
    assert not bucket.take(0.0, 3)
    assert bucket.take(0.0, 2)
    assert not bucket.take(0.0)


def test_more_than_a_burst_is_taken_from_a_full_bucket_and_owed() -> None:
    bucket = TokenBucket(rate=1, burst=3)

    assert bucket.take(0.0, 5)
    assert not bucket.take(4.9, 5)
    assert bucket.take(5.1, 5)


def test_what_is_spent_is_paid_back_at_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)

    assert bucket.spend(0.0, 5) == 0
    assert bucket.spend(0.0, 20) == pytest.approx(2)
    assert bucket.spend(1.0, 0) == pytest.approx(1)
    assert not bucket.take(1.9, 0)
    assert bucket.take(2.1, 1)
    assert bucket.spend(1000.0, 0) == 0
    assert bucket.spend(1000.0, 6) == pytest.approx(0.1)


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    bucket.take(100.0, 2)

    assert not bucket.take(50.0)
    assert not bucket.take(100.5)  # not fifty seconds later, but half a second
    assert bucket.take(101.0)


@given(
    st.floats(0.1, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 3)), max_size=50),
)
def test_never_more_is_taken_than_the_burst_and_the_time_since_then(
    rate: float, burst: float, takes: list[tuple[float, float]]
) -> None:
    bucket, now, latest, taken = TokenBucket(rate, burst), 0.0, 0.0, 0.0
    bucket.take(now, 0)
    for step, amount in takes:
        now += step
        latest = max(latest, now)
        taken += amount if bucket.take(now, amount) else 0
        assert taken <= (max(burst, 3) + latest * rate) * (1 + 1e-9) + 1e-6


# The networks of addresses


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


# Tables of addresses


def table_of(words: int = TABLE_WORDS) -> AddressTable:
    return AddressTable(memoryview(bytearray(8 * words)).cast("Q"))


KEYS = st.integers(0, 40).map(lambda number: number.to_bytes(4, "big"))


@given(st.sampled_from([8, 16, 64]), st.lists(st.tuples(st.booleans(), KEYS), max_size=200))
def test_a_table_counts_what_it_had_room_for(words: int, steps: list[tuple[bool, bytes]]) -> None:
    """Few words and many keys: the buckets are full most of the time."""
    table, model = table_of(words), Counter[bytes]()
    for is_added, key in steps:
        if is_added:
            counted = table.add(key)
            assert counted or (not model[key] and len(+model) >= 8)  # refused only where eight others are
            model[key] += counted
        elif model[key]:
            table.remove(key)
            model[key] -= 1
        assert table.count(key) == model[key]

    assert {key: table.count(key) for key in model} == dict(model)


def test_a_full_bucket_loses_sight_of_newcomers_until_somebody_leaves() -> None:
    table = table_of(8)
    keys = [bytes([number]) for number in range(9)]

    assert [table.add(key) for key in keys] == [True] * 8 + [False]
    assert table.count(keys[8]) == 0
    table.remove(keys[3])
    assert table.add(keys[8])
    assert [table.count(key) for key in keys] == [1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_a_key_is_found_behind_a_place_that_became_free() -> None:
    table = table_of(8)
    for key in (b"first", b"second", b"second"):
        table.add(key)
    table.remove(b"first")
    table.add(b"second")

    assert table.count(b"second") == 3


def test_a_count_ends_at_its_most_and_spoils_nothing() -> None:
    table = table_of(8)
    counted = sum(table.add(b"many") for _ in range(70_000))

    assert counted == table.count(b"many") == 65_535
    for _ in range(counted):
        table.remove(b"many")
    assert table.count(b"many") == 0


def test_removing_what_is_not_there_changes_nothing() -> None:
    table = table_of(8)
    table.add(b"one")
    table.remove(b"two")
    table.remove(b"one")
    table.remove(b"one")

    assert table.count(b"one") == table.count(b"two") == 0


def test_a_table_holds_half_as_many_addresses_as_it_has_words() -> None:
    table = table_of()
    counted = sum(table.add(number.to_bytes(4, "big")) for number in range(TABLE_WORDS // 2))

    assert counted > 0.95 * TABLE_WORDS // 2


def test_another_process_reads_what_one_has_counted() -> None:
    memory = mmap.mmap(-1, 8 * 64)
    table = AddressTable(memoryview(memory).cast("Q"))
    pid = os.fork()
    if not pid:
        try:
            for key in (b"a", b"b", b"b"):
                table.add(key)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert [table.count(key) for key in (b"a", b"b", b"c")] == [1, 2, 0]


def test_a_reader_never_sees_more_than_there_ever_were() -> None:
    """A word is stored at once: while another process adds and removes, the count is one that it had."""
    table = AddressTable(memoryview(mmap.mmap(-1, 8 * 8)).cast("Q"))
    pid = os.fork()
    if not pid:
        try:
            for _ in range(20_000):
                table.add(b"a")
                table.add(b"a")
                table.remove(b"a")
                table.remove(b"a")
        finally:
            os._exit(0)
    seen = set()
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        seen.add(table.count(b"a"))

    assert seen <= {0, 1, 2}
    assert table.count(b"a") == 0
