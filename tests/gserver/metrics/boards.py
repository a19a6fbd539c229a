"""A scoreboard with some workers, for the tests of what is read from it."""

from __future__ import annotations

import time

from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.counters import Counters

__all__ = ["add_worker", "make_board"]


def make_board(workers: int = 2) -> Scoreboard:
    """A scoreboard of a server with so many workers that serve."""
    board = Scoreboard(8)
    board.server.started_at = time.time()
    board.server.target = workers
    for number in range(workers):
        add_worker(board, 11 + number)
    return board


def add_worker(board: Scoreboard, pid: int, opened: int = 0) -> Slot:
    slot = board.free_slot()
    slot.reserve(age=pid - 10)
    slot.assign(pid)
    slot.heartbeat_at = time.monotonic()
    slot.is_serving = True
    for _ in range(opened):
        Counters(slot.cells).opened()
    return slot
