"""The scoreboard: places, totals, and what a worker writes read by its arbiter."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import pytest

from gserver.arbiter.scoreboard import SERVING, Scoreboard, Slot
from gserver.counters import ACCEPTED, CELLS, MESSAGES, OPEN, RECEIVED, Counters, closed_cell
from gserver.errors import CloseReason

LARGEST = 2**64 - 1


def make_taken(scoreboard: Scoreboard, pid: int, opened: int = 0, is_serving: bool = False) -> Slot:
    slot = scoreboard.free_slot()
    slot.reserve(age=pid)
    slot.assign(pid)
    slot.is_serving = is_serving
    for _ in range(opened):
        Counters(slot.cells).opened()
    return slot


def in_child(work: Callable[[], None]) -> None:
    """Do `work` in a forked process, to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


# Places


def test_a_new_scoreboard_is_empty() -> None:
    scoreboard = Scoreboard(3)

    assert list(scoreboard.used_slots()) == []
    assert scoreboard.totals() == [0] * CELLS
    assert scoreboard.fewest_open() is None
    assert [scoreboard.slot(index).pid for index in range(3)] == [0, 0, 0]


def test_the_first_free_slot_is_taken() -> None:
    scoreboard = Scoreboard(3)

    assert [make_taken(scoreboard, pid).index for pid in (11, 12, 13)] == [0, 1, 2]
    assert [slot.pid for slot in scoreboard.used_slots()] == [11, 12, 13]


def test_a_slot_is_free_until_it_is_taken() -> None:
    scoreboard = Scoreboard(2)

    assert scoreboard.free_slot().index == scoreboard.free_slot().index == 0


def test_a_slot_is_taken_before_its_worker_has_a_pid() -> None:
    scoreboard = Scoreboard(2)
    scoreboard.free_slot().reserve(age=1)

    assert scoreboard.free_slot().index == 1
    assert [slot.index for slot in scoreboard.used_slots()] == [0]


@pytest.mark.parametrize("size", [0, 1, 5])
def test_when_every_slot_is_taken_there_is_none(size: int) -> None:
    scoreboard = Scoreboard(size)
    for number in range(size):
        make_taken(scoreboard, 100 + number)

    with pytest.raises(IndexError, match="in use"):
        scoreboard.free_slot()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_slot_that_was_vacated_is_taken_again(index: int) -> None:
    scoreboard = Scoreboard(3)
    slots = [make_taken(scoreboard, pid) for pid in (11, 12, 13)]
    scoreboard.vacate(slots[index])

    assert scoreboard.free_slot().index == index
    assert len(list(scoreboard.used_slots())) == 2


def test_who_leaves_before_being_forked_leaves_nothing() -> None:
    scoreboard = Scoreboard(1)
    slot = scoreboard.free_slot()
    slot.reserve(age=1)
    slot.release()

    assert slot.pid == 0
    assert scoreboard.free_slot().index == 0
    assert list(scoreboard.used_slots()) == []


def test_a_slot_is_clean_for_its_next_worker() -> None:
    scoreboard = Scoreboard(1)
    slot = make_taken(scoreboard, 11, opened=3, is_serving=True)
    slot.deadline = slot.heartbeat_at = slot.lag_s = 17.0
    scoreboard.vacate(slot)
    again = make_taken(scoreboard, 12)

    assert (again.pid, again.is_serving, again.deadline, again.heartbeat_at) == (12, False, None, 0.0)
    assert (again.lag_s, again.lag_max_s, again.lag_histogram) == (0.0, 0.0, {})
    assert list(again.cells) == [0] * CELLS


def test_lags_are_kept_by_their_length() -> None:
    scoreboard = Scoreboard(2)
    slot, other = make_taken(scoreboard, 11), make_taken(scoreboard, 12)
    for lag_s in (0.0, 0.0009, 0.001, 0.0019, 0.002, 2.9, 40.0, 1e6, 0.5):
        slot.lag_s = lag_s

    assert (slot.lag_s, slot.lag_max_s) == (0.5, 1e6)
    assert slot.lag_histogram == {0.001: 2, 0.002: 2, 0.004: 1, 0.512: 1, 4.096: 1, math.inf: 2}
    assert list(slot.cells) == [0] * CELLS
    assert (other.lag_s, other.lag_max_s, other.lag_histogram, other.pid) == (0.0, 0.0, {}, 12)


def test_times_of_handlers_outlive_their_worker() -> None:
    scoreboard = Scoreboard(2)
    slot = make_taken(scoreboard, 11)
    in_child(lambda: Counters(slot.cells).handler_took(3_000_000))
    other = make_taken(scoreboard, 12)
    Counters(other.cells).handler_took(20_000)

    assert (slot.handler_times[0.004096], slot.handler_seconds) == (1, 0.003)
    scoreboard.vacate(slot)
    again = make_taken(scoreboard, 13)

    assert again.index == slot.index
    assert (sum(again.handler_times.values()), again.handler_seconds) == (0, 0.0)
    assert (scoreboard.ended.handler_times[0.004096], scoreboard.ended.handler_seconds) == (1, 0.003)
    scoreboard.vacate(other)
    assert sum(scoreboard.ended.handler_times.values()) == 2
    assert scoreboard.ended.handler_seconds == pytest.approx(0.00302)


def test_neighbours_do_not_touch_each_other() -> None:
    scoreboard = Scoreboard(3)
    slots = [make_taken(scoreboard, pid) for pid in (11, 12, 13)]
    for cell in range(CELLS):
        slots[1].cells[cell] = LARGEST
    slots[1].deadline = 99.0
    slots[1].is_serving = True

    for slot, pid in ((slots[0], 11), (slots[2], 13)):
        assert (slot.pid, slot.is_serving, slot.deadline) == (pid, False, None)
        assert list(slot.cells) == [0] * CELLS


def test_a_slot_has_as_many_cells_as_counters_and_no_more() -> None:
    slot = Scoreboard(2).slot(0)

    assert len(slot.cells) == CELLS
    with pytest.raises(IndexError):
        slot.cells[CELLS] = 1


@pytest.mark.parametrize("index", [100, -1])
def test_there_is_no_slot_far_outside(index: int) -> None:
    with pytest.raises(IndexError):
        assert Scoreboard(2).slot(index).pid


# Heads


def test_a_worker_that_has_not_begun_has_no_deadline() -> None:
    assert make_taken(Scoreboard(1), 11).deadline is None


@pytest.mark.parametrize("deadline", [0.001, 1.5, 1e6, 123456789.125])
def test_a_deadline_is_exact_to_the_microsecond(deadline: float) -> None:
    slot = make_taken(Scoreboard(1), 11)
    slot.deadline = deadline

    assert slot.deadline == pytest.approx(deadline, abs=1e-6)


def test_a_deadline_is_on_the_clock_that_all_processes_share() -> None:
    slot = make_taken(Scoreboard(1), 11)
    before = time.monotonic()

    in_child(lambda: setattr(slot, "deadline", time.monotonic()))

    assert slot.deadline is not None
    assert before - 1e-6 <= slot.deadline <= time.monotonic()


def test_a_state_changes_and_changes_back() -> None:
    slot = make_taken(Scoreboard(1), 11)

    assert not slot.is_serving
    slot.is_serving = True
    assert slot.is_serving
    slot.is_serving = False
    assert not slot.is_serving


def test_a_rate_and_the_end_of_a_certificate_are_kept_until_the_slot_is_taken_again() -> None:
    scoreboard = Scoreboard(1)
    slot = make_taken(scoreboard, 11)
    assert (slot.message_rate, slot.certificate_not_after) == (0.0, None)
    slot.message_rate, slot.certificate_not_after = 1234.567, 1_800_000_000.9

    assert (slot.message_rate, slot.certificate_not_after) == (1234.567, 1_800_000_000)
    scoreboard.vacate(slot)
    again = make_taken(scoreboard, 12)
    assert (again.message_rate, again.certificate_not_after) == (0.0, None)


def test_a_certificate_of_long_ago_is_not_taken_for_none() -> None:
    slot = make_taken(Scoreboard(1), 11)
    slot.certificate_not_after = -5.0

    assert slot.certificate_not_after == 1


# Totals


def test_totals_are_those_of_all_workers() -> None:
    scoreboard = Scoreboard(3)
    for pid, opened in ((11, 2), (12, 0), (13, 5)):
        make_taken(scoreboard, pid, opened)

    totals = scoreboard.totals()

    assert (totals[ACCEPTED], totals[OPEN]) == (7, 7)


def test_counters_survive_their_worker() -> None:
    scoreboard = Scoreboard(1)
    for pid in range(11, 16):
        slot = make_taken(scoreboard, pid, opened=2)
        counters = Counters(slot.cells)
        counters.ended(CloseReason.PEER_EOF)
        counters.ended(CloseReason.DRAINED)
        slot.cells[MESSAGES] += 10
        slot.cells[RECEIVED] += 1000
        scoreboard.vacate(slot)

    totals = Counters(scoreboard.totals())

    totals.check()
    assert (totals.accepted, totals.open, totals.messages) == (10, 0, 50)
    assert totals.cells[RECEIVED] == 5000
    assert totals.closed == {CloseReason.PEER_EOF: 5, CloseReason.DRAINED: 5}


def test_lags_survive_their_worker() -> None:
    scoreboard = Scoreboard(1)
    for pid in (11, 12, 13):
        slot = make_taken(scoreboard, pid)
        slot.lag_s = 0.3
        slot.lag_s = 0.0
        scoreboard.vacate(slot)

    assert scoreboard.ended.lag_histogram == {0.001: 3, 0.512: 3}
    assert scoreboard.ended.lag_sum_ns == 900_000_000
    assert slot.lag_histogram == {}


def test_connections_that_end_with_their_worker_are_counted() -> None:
    scoreboard = Scoreboard(2)
    make_taken(scoreboard, 11, opened=3)
    died = make_taken(scoreboard, 12, opened=4)
    Counters(died.cells).ended(CloseReason.PEER_RESET)
    scoreboard.vacate(died)

    totals = Counters(scoreboard.totals())

    totals.check()
    assert (totals.accepted, totals.open) == (7, 3)
    assert totals.closed == {CloseReason.WORKER_DIED: 3, CloseReason.PEER_RESET: 1}


def test_totals_only_grow_when_a_worker_goes() -> None:
    scoreboard = Scoreboard(2)
    slot = make_taken(scoreboard, 11, opened=3)
    before = scoreboard.totals()
    scoreboard.vacate(slot)
    after = scoreboard.totals()

    assert after[ACCEPTED] == before[ACCEPTED]
    assert after[OPEN] == 0
    assert after[closed_cell(CloseReason.WORKER_DIED)] == before[OPEN]


@pytest.mark.parametrize("killed", ["as it accepted", "as it closed"])
def test_a_worker_that_was_killed_between_two_cells_leaves_books_that_balance(killed: str) -> None:
    scoreboard = Scoreboard(1)
    slot = make_taken(scoreboard, 11, opened=2)
    if killed == "as it accepted":
        slot.cells[ACCEPTED] += 1
    else:
        slot.cells[OPEN] -= 1
    scoreboard.vacate(slot)

    totals = Counters(scoreboard.totals())
    totals.check()
    assert totals.closed == {CloseReason.WORKER_DIED: 3 if killed == "as it accepted" else 2}


def test_a_slot_that_is_vacated_twice_is_counted_once() -> None:
    scoreboard = Scoreboard(1)
    slot = make_taken(scoreboard, 11, opened=3)
    scoreboard.vacate(slot)
    once = scoreboard.totals()
    scoreboard.vacate(slot)

    assert scoreboard.totals() == once


def test_totals_are_a_copy() -> None:
    scoreboard = Scoreboard(1)
    scoreboard.totals()[ACCEPTED] = 5

    assert scoreboard.totals()[ACCEPTED] == 0


# The one with the fewest


def test_the_fewest_open_are_those_of_the_emptiest_worker_that_serves() -> None:
    scoreboard = Scoreboard(4)
    for pid, opened in ((11, 5), (12, 2), (13, 9)):
        make_taken(scoreboard, pid, opened, is_serving=True)

    assert scoreboard.fewest_open() == 2


def test_who_does_not_serve_is_not_looked_at() -> None:
    scoreboard = Scoreboard(4)
    make_taken(scoreboard, 11, opened=1)
    serving = make_taken(scoreboard, 12, opened=7, is_serving=True)

    assert scoreboard.fewest_open() == 7

    serving.is_serving = False

    assert scoreboard.fewest_open() is None


def test_a_worker_that_is_gone_is_not_looked_at() -> None:
    scoreboard = Scoreboard(3)
    slots = [make_taken(scoreboard, pid, opened, True) for pid, opened in ((11, 1), (12, 4), (13, 2))]
    scoreboard.vacate(slots[0])

    assert scoreboard.fewest_open() == 2

    scoreboard.vacate(slots[2])

    assert scoreboard.fewest_open() == 4

    scoreboard.vacate(slots[1])

    assert scoreboard.fewest_open() is None


@pytest.mark.parametrize("last", [0, 1, 63])
def test_every_slot_that_was_ever_taken_is_looked_at(last: int) -> None:
    scoreboard = Scoreboard(64)
    for number in range(last + 1):
        make_taken(scoreboard, 100 + number, opened=5 if number < last else 1, is_serving=True)

    assert scoreboard.fewest_open() == 1


def test_a_worker_that_holds_nothing_is_the_one_with_the_fewest() -> None:
    scoreboard = Scoreboard(2)
    make_taken(scoreboard, 11, opened=3, is_serving=True)
    make_taken(scoreboard, 12, is_serving=True)

    assert scoreboard.fewest_open() == 0


def test_the_serving_state_is_a_word_of_its_own() -> None:
    assert SERVING != 0


# Across a fork


def test_what_a_child_counts_its_parent_reads() -> None:
    scoreboard = Scoreboard(2)
    slot = make_taken(scoreboard, 11)

    def work() -> None:
        counters = Counters(slot.cells)
        for _ in range(5):
            counters.opened()
        counters.ended(CloseReason.FINISHED)
        slot.is_serving = True
        slot.deadline = 12.0

    in_child(work)

    totals = Counters(scoreboard.totals())
    totals.check()
    assert (totals.accepted, totals.open) == (5, 4)
    assert (slot.is_serving, slot.deadline) == (True, 12.0)
    assert scoreboard.fewest_open() == 4


def test_what_a_child_left_open_is_counted_when_it_is_gone() -> None:
    scoreboard = Scoreboard(2)
    for pid in (11, 12, 13):
        slot = make_taken(scoreboard, pid)
        in_child(lambda cells=slot.cells: [Counters(cells).opened() for _ in range(3)] and None)  # type: ignore[misc]
        scoreboard.vacate(slot)

    totals = Counters(scoreboard.totals())
    totals.check()
    assert (totals.accepted, totals.open) == (9, 0)
    assert totals.closed == {CloseReason.WORKER_DIED: 9}


def test_a_child_sees_those_that_were_forked_after_it() -> None:
    scoreboard = Scoreboard(3)
    make_taken(scoreboard, 11, opened=9, is_serving=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(scoreboard.fewest_open() or 0)
    os.close(reader)
    make_taken(scoreboard, 12, opened=4, is_serving=True)
    os.close(writer)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
