from __future__ import annotations

import math
import os
import time

import pytest

from gserver.arbiter.scoreboard import RESERVED
from gserver.config.settings import Settings
from gserver.counters import MESSAGES, Counters
from gserver.metrics.readings import Histogram, read
from tests.gserver.metrics.boards import add_worker, make_board


def test_a_reading_has_what_the_workers_wrote() -> None:
    board = make_board(workers=0)
    slot = add_worker(board, 11, opened=3)
    slot.message_rate, slot.lag_s, slot.certificate_not_after = 12.5, 0.003, 1_800_000_000.7
    slot.cells[MESSAGES] = 40
    (worker,) = read(board, Settings()).workers

    assert (worker.slot, worker.pid, worker.number, worker.is_serving) == (0, 11, 1, True)
    assert (worker.open, worker.messages, worker.message_rate) == (3, 40, 12.5)
    assert (worker.lag_s, worker.lag_max_s, worker.not_after) == (0.003, 0.003, 1_800_000_000)
    assert not worker.is_stuck


def test_the_lag_of_a_blocked_worker_is_the_age_of_its_heartbeat() -> None:
    board = make_board(workers=1)
    now = time.monotonic()
    board.slot(0).heartbeat_at = now - 8.0
    (worker,) = read(board, Settings(), lambda: now).workers

    assert worker.heartbeat_age_s == pytest.approx(8.0, abs=0.001)
    assert worker.lag_s == worker.lag_max_s == pytest.approx(7.0, abs=0.001)
    assert worker.is_stuck


def test_a_slot_that_is_reserved_has_no_pid_and_no_heartbeat() -> None:
    board = make_board(workers=0)
    board.free_slot().reserve(age=1)
    assert board.slot(0).pid == RESERVED
    (worker,) = read(board, Settings()).workers

    assert (worker.pid, worker.heartbeat_age_s, worker.not_after, worker.is_serving) == (0, None, None, False)


def test_counts_and_lags_of_workers_that_ended_remain() -> None:
    board = make_board(workers=1)
    for pid in (21, 22, 23):
        slot = add_worker(board, pid, opened=2)
        slot.cells[MESSAGES] = 10
        slot.lag_s = 0.3
        board.vacate(slot)
    board.slot(0).lag_s = 0.0
    readings = read(board, Settings())

    assert (readings.totals.accepted, readings.totals.open, readings.totals.messages) == (6, 0, 30)
    assert sum(readings.lags.counts) == 4
    assert readings.lags.counts[readings.lags.bounds_s.index(0.512)] == 3
    assert readings.lags.sum_s == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ((0, 0, 0), 0.5, None),
        ((4, 0, 0), 0.5, 0.5),
        ((4, 0, 0), 1.0, 1.0),
        ((0, 4, 0), 0.5, 1.5),
        ((2, 2, 0), 0.75, 1.5),
        ((0, 0, 9), 0.99, 2.0),
        ((98, 1, 1), 0.99, 2.0),
    ],
)
def test_a_quantile_is_estimated_inside_its_bucket(counts: tuple[int, ...], share: float, value: float | None) -> None:
    assert Histogram((1.0, 2.0, math.inf), counts, 0.0).quantile(share) == value


def test_the_handler_times_of_all_workers() -> None:
    board = make_board(workers=2)
    for number, nanoseconds in enumerate((10_000, 40_000)):
        Counters(board.slot(number).cells).handler_took(nanoseconds)
    handlers = read(board, Settings()).handlers

    assert handlers.counts[:4] == (1, 0, 1, 0)
    assert (handlers.bounds_s[0], handlers.bounds_s[-1], handlers.sum_s) == (16e-6, math.inf, 50e-6)


def test_no_total_decreases_while_the_arbiter_vacates_slots() -> None:
    """Another process, as the arbiter is one for the reader, ends thousands of workers meanwhile."""
    board = make_board(workers=0)
    pid = os.fork()
    if pid == 0:
        for number in range(3000):
            slot = add_worker(board, 100 + number, opened=1)
            slot.cells[MESSAGES] = 5
            slot.lag_s = 0.1
            board.vacate(slot)
        os._exit(0)
    before = (0, 0, 0, 0.0)
    readings = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        found = read(board, Settings())
        now = (found.totals.accepted, found.totals.messages, sum(found.lags.counts), found.lags.sum_s)
        assert all(after >= earlier for after, earlier in zip(now, before, strict=True)), (before, now)
        before = now
        readings += 1
    assert readings > 10
    assert read(board, Settings()).totals.messages == 15_000


def test_an_arbiter_that_was_killed_inside_a_change_does_not_stop_the_reader() -> None:
    board = make_board(workers=1)
    board._words[board._changes_word] += 1
    began = time.monotonic()

    assert len(read(board, Settings()).workers) == 1
    assert time.monotonic() - began < 5
