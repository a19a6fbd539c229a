"""Admission: each limit at its boundary, what counts as one address, and the action for refused clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.counters import Counters
from gserver.errors import CloseReason, LimitExceeded
from gserver.limits.access_list import AccessList, parse_networks
from gserver.limits.address_table import TABLE_WORDS, AddressTable
from gserver.limits.connection_limits import Limits
from gserver.server import admission as door_module
from gserver.server.admission import Door, OwnOccupancy

V4: tuple[Any, ...] = ("10.0.0.1", 1000)
NEIGHBOUR: tuple[Any, ...] = ("10.0.0.2", 1000)
STRANGER: tuple[Any, ...] = ("10.9.9.9", 1000)


class FakeOccupancy:
    """As many connections as the test sets, and the tables of this worker and of another."""

    def __init__(self) -> None:
        self.own, self.other = (AddressTable(memoryview(bytearray(8 * TABLE_WORDS)).cast("Q")) for _ in range(2))
        self.here = self.everywhere = 0
        self.workers = 1

    def open_here(self) -> int:
        return self.here

    def open_everywhere(self) -> int:
        return self.everywhere

    def tables(self) -> Iterator[AddressTable]:
        return iter((self.own, self.other))

    def sharers(self) -> int:
        return self.workers


class Clock:
    """time.monotonic() for the door."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(door_module, "time", clock)
    return clock


@pytest.fixture
def occupancy() -> FakeOccupancy:
    return FakeOccupancy()


def reason(refusal: LimitExceeded | None) -> CloseReason | None:
    return None if refusal is None else refusal.close_reason


def test_without_limits_every_connection_is_admitted(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(), occupancy)
    occupancy.here = occupancy.everywhere = 10**6

    assert door.check_accept() is None
    assert [door.check_address(who, V4) for who in range(100)] == [None] * 100


@pytest.mark.parametrize(("limit", "count"), [("worker_connections", "here"), ("max_connections", "everywhere")])
def test_a_full_server_admits_as_many_as_the_limit_and_names_it(
    occupancy: FakeOccupancy, limit: str, count: str
) -> None:
    door = Door(Limits(**{limit: 3}), occupancy)  # type: ignore[arg-type]
    setattr(occupancy, count, 3)  # the new connection is counted already
    assert door.check_accept() is None
    setattr(occupancy, count, 4)
    refusal = door.check_accept()

    assert reason(refusal) is CloseReason.FULL
    assert str(refusal) == "the server is full: it holds 3 connections"


def test_of_two_limits_both_hold(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(worker_connections=2, max_connections=5), occupancy)
    answers = {}
    for occupancy.here, occupancy.everywhere in ((2, 5), (3, 5), (2, 6), (3, 6)):
        answers[occupancy.here, occupancy.everywhere] = door.check_accept() is None

    assert answers == {(2, 5): True, (3, 5): False, (2, 6): False, (3, 6): False}


# The accept rate


def accepted(door: Door, tries: int) -> int:
    return sum(door.check_accept() is None for _ in range(tries))


def test_the_accept_rate_admits_so_many_in_a_second(occupancy: FakeOccupancy, clock: Clock) -> None:
    door = Door(Limits(max_accept_rate=5), occupancy)
    assert accepted(door, 20) == 5
    clock.now += 1.0
    assert accepted(door, 20) == 5
    clock.now += 0.4
    assert accepted(door, 20) == 2
    refusal = door.check_accept()

    assert reason(refusal) is CloseReason.ACCEPT_RATE
    assert str(refusal) == "more than 5 connections a second"


def test_workers_share_the_accept_rate(occupancy: FakeOccupancy, clock: Clock) -> None:
    occupancy.workers = 3
    door = Door(Limits(max_accept_rate=30), occupancy)
    assert accepted(door, 100) == 10
    occupancy.workers = 1  # the others are gone
    clock.now += 1.0
    assert accepted(door, 100) == 30


@pytest.mark.parametrize(("rate", "workers"), [(1, 1), (0.5, 1), (2, 3), (0.1, 4)])
def test_an_accept_rate_below_one_for_each_worker_still_admits_connections(
    occupancy: FakeOccupancy, clock: Clock, rate: float, workers: int
) -> None:
    occupancy.workers = workers
    door = Door(Limits(max_accept_rate=rate), occupancy)
    times = 0
    for _ in range(5000):
        times += door.check_accept() is None
        clock.now += 0.1

    assert times == pytest.approx(500 * rate / workers, rel=0.05, abs=2)


def test_the_accept_rate_holds_before_a_connection_is_shed(occupancy: FakeOccupancy, clock: Clock) -> None:
    """A full server that sheds admits every client: the accept rate must be checked before that."""
    door = Door(Limits(max_connections=1, full_action="shed", max_accept_rate=2), occupancy)
    occupancy.everywhere = 2

    assert [reason(door.check_accept()) for _ in range(3)] == [CloseReason.FULL] * 2 + [CloseReason.ACCEPT_RATE]


# By address


def test_an_address_has_at_most_so_many_connections(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_ip=2), occupancy)

    assert [reason(door.check_address(who, V4)) for who in range(3)] == [None, None, CloseReason.ADDRESS_LIMIT]
    assert door.check_address(10, NEIGHBOUR) is None


def test_a_refused_connection_counts_until_it_has_left(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_ip=1), occupancy)
    door.check_address("first", V4)
    refusal = door.check_address("second", V4)
    assert str(refusal) == "more than 1 connections from one address"
    door.left("first")
    assert door.check_address("third", V4) is not None
    door.left("second")
    door.left("third")

    assert door.check_address("fourth", V4) is None


def test_a_connection_that_left_leaves_no_entry(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_ip=1, max_connections_per_network=1), occupancy)
    for who in range(20):
        assert door.check_address(who, V4) is None
        door.left(who)
        door.left(who)  # the second call must do nothing

    assert door.check_address("last", V4) is None


def test_connections_of_other_workers_count(occupancy: FakeOccupancy) -> None:
    elsewhere = FakeOccupancy()
    elsewhere.own, elsewhere.other = occupancy.other, occupancy.own
    limits = Limits(max_connections_per_ip=2)
    here, there = Door(limits, occupancy), Door(limits, elsewhere)
    assert there.check_address("a", V4) is None
    assert here.check_address("b", V4) is None
    assert here.check_address("c", V4) is not None
    here.left("c")
    assert there.check_address("d", V4) is not None
    there.left("d")
    there.left("a")

    assert here.check_address("e", V4) is None


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fd00:0:0:1::1", "fd00:0:0:1:8000::2", True),  # a /64
        ("fd00:0:0:1::1", "fd00:0:0:2::1", False),
    ],
)
def test_an_address_of_ipv6_is_a_64(occupancy: FakeOccupancy, first: str, second: str, is_one: bool) -> None:
    door = Door(Limits(max_connections_per_ip=1), occupancy)
    assert door.check_address("a", (first, 1)) is None

    assert (door.check_address("b", (second, 1)) is not None) is is_one


@pytest.mark.parametrize(
    ("bits", "others", "is_one"),
    [
        ({}, "10.0.0.255", True),
        ({}, "10.0.1.0", False),
        ({"ipv4_network_bits": 23}, "10.0.1.0", True),
        ({"ipv4_network_bits": 32}, "10.0.0.2", False),
        ({"ipv4_network_bits": 1}, "127.0.0.1", True),
    ],
)
def test_a_network_is_as_wide_as_its_setting(
    occupancy: FakeOccupancy, bits: dict[str, Any], others: str, is_one: bool
) -> None:
    door = Door(Limits(max_connections_per_network=1, **bits), occupancy)
    assert door.check_address("a", V4) is None
    refusal = door.check_address("b", (others, 1))

    assert (str(refusal) if is_one else refusal) == ("more than 1 connections from one network" if is_one else None)


def test_a_network_of_ipv6_is_as_wide_as_its_setting(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_network=1, ipv6_network_bits=32), occupancy)
    assert door.check_address("a", ("fd00:1:2::1", 1, 0, 0)) is None
    assert door.check_address("b", ("fd00:1:3::1", 1, 0, 0)) is not None
    assert door.check_address("c", ("fd00:2::1", 1, 0, 0)) is None


def test_an_address_and_its_network_are_two_limits_even_of_the_same_bits(occupancy: FakeOccupancy) -> None:
    limits = Limits(max_connections_per_ip=2, max_connections_per_network=2, ipv4_network_bits=32)
    door = Door(limits, occupancy)

    assert [door.check_address(who, V4) is None for who in range(3)] == [True, True, False]
    for who in range(3):
        door.left(who)
    assert [door.check_address(who, V4) is None for who in range(3)] == [True, True, False]


def test_peers_without_an_address_are_not_counted(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_ip=1, max_connections_per_network=1), occupancy)

    assert [door.check_address(who, "") for who in range(5)] == [None] * 5


def test_addresses_that_do_not_fit_into_a_full_table_are_admitted(occupancy: FakeOccupancy) -> None:
    occupancy.own = AddressTable(memoryview(bytearray(64)).cast("Q"))
    door = Door(Limits(max_connections_per_ip=1), occupancy)
    for number in range(8):
        assert door.check_address(number, (f"10.0.0.{number}", 1)) is None

    assert door.check_address("ninth", STRANGER) is None
    assert door.check_address("tenth", STRANGER) is None
    door.left("ninth")
    assert door.check_address("again", ("10.0.0.1", 1)) is not None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=80))
def test_no_address_ever_has_more_than_its_limit(steps: list[tuple[int, int]]) -> None:
    """A refused connection leaves, as in a server. The model is the set of the others."""
    door, there = Door(Limits(max_connections_per_ip=2), FakeOccupancy()), dict[int, int]()
    for who, number in steps:
        if who in there:
            del there[who]
            door.left(who)
            continue
        has_room = list(there.values()).count(number) < 2
        assert (door.check_address(who, (f"10.0.0.{number}", 1)) is None) is has_room
        if has_room:
            there[who] = number
        else:
            door.left(who)


# Access


def test_a_denied_address_is_named_and_not_counted(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(max_connections_per_ip=1), occupancy)
    refusal = door.check_address("a", V4, AccessList((), parse_networks(["10.0.0.1"])))

    assert reason(refusal) is CloseReason.DENIED
    assert str(refusal) == "no access for 10.0.0.1:1000"
    assert door.check_address("b", V4) is None  # at a listener that denies nobody


def test_an_address_that_is_not_allowed_is_denied(occupancy: FakeOccupancy) -> None:
    door, access = Door(Limits(), occupancy), AccessList(parse_networks(["10.0.0.0/24"]), ())

    assert door.check_address("a", V4, access) is None
    assert reason(door.check_address("b", STRANGER, access)) is CloseReason.DENIED
    assert reason(door.check_address("c", ("::1", 1, 0, 0), access)) is CloseReason.DENIED
    assert door.check_address("d", "", access) is None  # a unix socket's permissions are its own


# Actions


@pytest.mark.parametrize(
    ("why", "action"),
    [
        (CloseReason.FULL, "shed"),
        (CloseReason.ADDRESS_LIMIT, "close"),
        (CloseReason.ACCEPT_RATE, "refuse"),
        (CloseReason.DENIED, "close"),
    ],
)
def test_each_limit_has_its_own_action(occupancy: FakeOccupancy, why: CloseReason, action: str) -> None:
    door = Door(Limits(full_action="shed", ip_action="close", accept_rate_action="refuse"), occupancy)

    assert door.action_for(LimitExceeded("", why)) == action


def test_the_accept_rate_has_an_action_of_its_own(occupancy: FakeOccupancy) -> None:
    door = Door(Limits(accept_rate_action="close"), occupancy)

    assert door.action_for(LimitExceeded("", CloseReason.ACCEPT_RATE)) == "close"
    assert door.action_for(LimitExceeded("", CloseReason.ADDRESS_LIMIT)) == "refuse"


def test_a_server_of_its_own_counts_the_connections_of_its_counters() -> None:
    counters = Counters()
    occupancy = OwnOccupancy(counters)
    counters.opened()

    assert occupancy.open_here() == occupancy.open_everywhere() == occupancy.sharers() == 1
    assert list(occupancy.tables()) == [occupancy.own]


# Other limits while there are connections


def test_connections_that_were_admitted_without_a_limit_are_counted_when_there_is_one() -> None:
    occupancy = FakeOccupancy()
    door = Door(Limits(), occupancy)
    assert door.check_address(1, V4) is None
    door.change(Limits(max_connections_per_ip=1))
    assert door.check_address(2, V4) is None  # not counted yet: the caller counts them one after another
    door.left(2)
    door.recount(1, V4)

    assert isinstance(door.check_address(3, V4), LimitExceeded)
    assert door.check_address(4, NEIGHBOUR) is None


def test_connections_above_the_limits_are_counted_under_every_entry() -> None:
    door = Door(Limits(), FakeOccupancy())
    door.change(Limits(max_connections_per_ip=1, max_connections_per_network=3))
    for key in range(3):
        door.recount(key, V4)

    assert isinstance(door.check_address("new", NEIGHBOUR), LimitExceeded)  # the network has three
    door.left("new")
    door.left(0)
    assert door.check_address("new", NEIGHBOUR) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([8, 16, 24])),
        max_size=8,
    )
)
def test_after_any_changes_nothing_is_left_in_the_table(changes: list[tuple[int, int, int]]) -> None:
    occupancy = FakeOccupancy()
    door = Door(Limits(), occupancy)
    peers: dict[str, Any] = {"a": V4, "b": NEIGHBOUR, "c": STRANGER, "d": ("2001:db8::1", 1, 0, 0), "e": "/a/path"}
    for key, peer in peers.items():
        door.check_address(key, peer)
    for per_ip, per_network, bits in changes:
        door.change(
            Limits(max_connections_per_ip=per_ip, max_connections_per_network=per_network, ipv4_network_bits=bits)
        )
        for key, peer in peers.items():
            door.recount(key, peer)
            door.recount(key, peer)
    fresh = Door(door._limits, other := FakeOccupancy())
    for key, peer in peers.items():
        fresh.recount(key, peer)
    assert door._entries == fresh._entries
    for key in peers:
        door.left(key)
        fresh.left(key)

    assert not any(table.count(entry) for table in (occupancy.own, other.own) for entry in _entries_of(peers.values()))


def _entries_of(peers: Any) -> list[bytes]:
    door = Door(Limits(max_connections_per_ip=1, max_connections_per_network=1), FakeOccupancy())
    return [entry for peer in peers for *_, entry in door._countings(peer)]


def test_the_accept_rate_gets_no_new_burst_by_another_change(clock: Clock) -> None:
    limits = Limits(max_accept_rate=2)
    door = Door(limits, FakeOccupancy())
    assert [door.check_accept() is None for _ in range(3)] == [True, True, False]
    door.change(dataclasses.replace(limits, max_connections=100))
    assert door.check_accept() is not None
    door.change(dataclasses.replace(limits, max_accept_rate=3))
    assert door.check_accept() is None
    door.change(Limits())

    assert all(door.check_accept() is None for _ in range(50))
