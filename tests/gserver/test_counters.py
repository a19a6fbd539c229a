"""The counters: accepted == open + sum(closed by reason), messages, errors and bytes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.counters import (
    ACCEPTED,
    BUS_EVENTS,
    CELLS,
    ERRORS,
    HANDLER_NS,
    MESSAGES,
    OFFLOAD_EVENTS,
    OPEN,
    RECEIVED,
    SENT,
    TIME_BUCKETS,
    Cells,
    Counters,
    bus_cell,
    closed_cell,
    handler_seconds,
    handler_times,
    offload_cell,
    snapshot,
)
from gserver.errors import CloseReason
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


@dataclass
class Carrier:
    received_bytes: int = 0
    sent_bytes: int = 0


def make_cells() -> Cells:
    return memoryview(bytearray(8 * CELLS)).cast("Q")


def make_counters(accepted: int, *reasons: CloseReason) -> Counters:
    counters = Counters()
    for _ in range(accepted):
        counters.opened()
    for reason in reasons:
        counters.ended(reason)
    return counters


def test_every_connection_is_open_or_closed_for_a_reason() -> None:
    counters = make_counters(4, CloseReason.PEER_EOF, CloseReason.KILLED, CloseReason.PEER_EOF)

    assert (counters.accepted, counters.open) == (4, 1)
    assert counters.closed == {CloseReason.PEER_EOF: 2, CloseReason.KILLED: 1}
    counters.check()


@pytest.mark.parametrize("between", ["accepted and open", "open and closed"])
def test_a_snapshot_balances_and_counts_a_connection_between_two_cells_as_open(between: str) -> None:
    cells = memoryview(bytearray(8 * CELLS)).cast("Q")
    counters = Counters(cells)
    for _ in range(3):
        counters.opened()
    counters.ended(CloseReason.PEER_EOF)
    cells[ACCEPTED if between == "accepted and open" else OPEN] += 1 if between == "accepted and open" else -1
    copied = Counters(snapshot(cells))

    copied.check()
    assert copied.open == (3 if between == "accepted and open" else 2)
    assert copied.closed == {CloseReason.PEER_EOF: 1}


def test_check_finds_a_connection_that_was_never_accepted() -> None:
    with pytest.raises(AssertionError):
        make_counters(1, CloseReason.PEER_EOF, CloseReason.PEER_EOF).check()


def test_check_finds_a_connection_that_was_lost() -> None:
    counters = make_counters(2, CloseReason.PEER_EOF)
    counters.cells[OPEN] -= 1
    with pytest.raises(AssertionError):
        counters.check()


def test_counters_are_formatted_as_a_line() -> None:
    assert str(Counters()) == "accepted 0, open 0, closed: none"
    assert str(make_counters(4, CloseReason.KILLED, CloseReason.PEER_EOF, CloseReason.PEER_EOF)) == (
        "accepted 4, open 1, closed: peer_eof 2, killed 1"
    )


@pytest.mark.parametrize("make", [lambda: [0] * CELLS, lambda: array("Q", [0] * CELLS), make_cells])
def test_cells_may_be_of_any_kind(make: Callable[[], Cells]) -> None:
    cells = make()
    counters = Counters(cells)
    counters.opened()
    counters.opened()
    counters.ended(CloseReason.DRAINED, 10, 20)
    counters.failed()
    counters.enter_bytes([Carrier(1, 2)])

    assert counters.cells is cells
    assert (cells[ACCEPTED], cells[OPEN], cells[ERRORS], cells[RECEIVED], cells[SENT]) == (2, 1, 1, 11, 22)
    assert cells[closed_cell(CloseReason.DRAINED)] == 1
    counters.check()


def test_every_cell_has_one_meaning() -> None:
    cells = [ACCEPTED, OPEN, MESSAGES, ERRORS, RECEIVED, SENT, *map(closed_cell, CloseReason)]
    cells += range(HANDLER_NS, HANDLER_NS + 1 + TIME_BUCKETS)
    cells += [offload_cell(pool, event) for pool, events in OFFLOAD_EVENTS.items() for event in events]
    cells += map(bus_cell, BUS_EVENTS)

    assert sorted(cells) == list(range(CELLS))


def test_two_counters_on_the_same_cells_read_the_same() -> None:
    cells = make_cells()
    writer, reader = Counters(cells), Counters(cells)
    writer.opened()
    writer.opened()
    writer.ended(CloseReason.KILLED)

    assert (reader.accepted, reader.open, reader.closed) == (2, 1, {CloseReason.KILLED: 1})
    assert str(reader) == str(writer)


def test_counters_share_nothing_by_default() -> None:
    make_counters(3, CloseReason.KILLED)

    assert Counters().accepted == 0


@pytest.mark.parametrize("reason", CloseReason)
def test_each_reason_is_counted_as_itself(reason: CloseReason) -> None:
    assert make_counters(2, reason, reason).closed == {reason: 2}


def test_reasons_that_did_not_occur_are_not_listed() -> None:
    assert list(make_counters(1, CloseReason.FINISHED).closed) == [CloseReason.FINISHED]


def test_unsigned_cells_refuse_the_end_of_a_connection_that_never_came() -> None:
    with pytest.raises((ValueError, OverflowError)):
        Counters(make_cells()).ended(CloseReason.KILLED)


@pytest.mark.parametrize("reason", ["peer_eof", None, 0])
def test_only_close_reasons_are_counted(reason: object) -> None:
    counters = make_counters(1)

    with pytest.raises(KeyError):
        counters.ended(reason)  # type: ignore[arg-type]
    counters.check()


def test_errors_are_counted_apart_from_connections() -> None:
    counters = make_counters(1)
    counters.failed()
    counters.failed()

    assert (counters.errors, counters.open) == (2, 1)
    counters.check()


def test_messages_are_read_from_their_cell() -> None:
    counters = Counters()
    counters.cells[MESSAGES] += 3

    assert counters.messages == 3


# Bytes


def test_bytes_are_those_of_closed_and_of_open_connections() -> None:
    counters = make_counters(3)
    counters.ended(CloseReason.PEER_EOF, 100, 200)
    counters.enter_bytes([Carrier(1, 2), Carrier(10, 20)])

    assert (counters.cells[RECEIVED], counters.cells[SENT]) == (111, 222)


def test_bytes_are_not_counted_again_when_they_are_entered_again() -> None:
    counters = make_counters(2)
    counters.ended(CloseReason.PEER_EOF, 100, 200)
    conn = Carrier(1, 2)
    for _ in range(3):
        counters.enter_bytes([conn])
    conn.received_bytes = 5

    counters.enter_bytes([conn])

    assert (counters.cells[RECEIVED], counters.cells[SENT]) == (105, 202)


def test_a_connection_that_closes_keeps_its_bytes() -> None:
    counters = make_counters(1)
    conn = Carrier(7, 8)
    counters.enter_bytes([conn])
    counters.ended(CloseReason.PEER_EOF, conn.received_bytes, conn.sent_bytes)
    counters.enter_bytes([])

    assert (counters.cells[RECEIVED], counters.cells[SENT]) == (7, 8)


def test_bytes_may_come_from_any_iterable() -> None:
    counters = make_counters(2)
    counters.enter_bytes(Carrier(number, 0) for number in range(4))

    assert counters.cells[RECEIVED] == 6


# accepted == open + closed


@given(st.lists(st.none() | st.sampled_from(CloseReason), max_size=80))
def test_the_counters_balance_after_every_entry(entries: list[CloseReason | None]) -> None:
    counters, expected = Counters(make_cells()), 0
    for reason in entries:
        if reason is None:
            counters.opened()
            expected += 1
        elif expected:
            counters.ended(reason)
            expected -= 1
        counters.check()

    assert counters.open == expected
    assert counters.accepted == entries.count(None)


def test_the_counters_balance_at_every_moment(serving: Serving, greenlets: str) -> None:
    """Connections are opened, used and closed in a mixture; the counters balance after each step."""
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    peers = []
    for number in range(30):
        peers.append(serving.meet(server))
        if number % 3 == 1:
            assert peers[-1].ask(b"hello") == b"hello"
            peers[-1].close()
        elif number % 3 == 2:
            peers[-1].send(b"half a line")
            peers[-1].reset()
        server.counters.check()
    wait_until(lambda: server.counters.open == 10)
    server.drain(0.5)

    assert server.counters.accepted == 30
    assert server.counters.closed[CloseReason.PEER_EOF] == 10
    assert server.counters.closed[CloseReason.PEER_RESET] == 10
    assert server.counters.closed[CloseReason.DRAINED] == 10


def test_times_of_handlers_are_kept_by_their_length() -> None:
    cells = make_cells()
    counters = Counters(cells)
    for microseconds in (0, 15.999, 16, 31.999, 32, 1_000, 60_000_000, 67_108_863, 67_108_864, 10**12):
        counters.handler_took(int(microseconds * 1000))
    counted = {bound: count for bound, count in handler_times(cells).items() if count}

    assert counted == {16e-6: 2, 32e-6: 2, 64e-6: 1, 0.001024: 1, 67.108864: 2, math.inf: 2}
    assert handler_seconds(cells) == pytest.approx(1e6 + 60 + 2 * 67.108864, abs=0.01)


def test_the_bounds_are_the_same_for_every_histogram() -> None:
    bounds = list(handler_times(make_cells()))

    assert bounds == [16 * 2**power / 1e6 for power in range(TIME_BUCKETS - 1)] + [math.inf]
    assert bounds[-2] > 60


def test_a_snapshot_has_the_times_of_handlers() -> None:
    cells = memoryview(bytearray(8 * CELLS)).cast("Q")
    Counters(cells).handler_took(20_000)

    copied = snapshot(cells)
    assert handler_times(copied)[32e-6] == 1
    assert handler_seconds(copied) == 20e-6
