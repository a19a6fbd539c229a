"""The scoreboard: one piece of memory that the arbiter and all its workers share, a place for each worker.

A place has a head (pid and age: the arbiter writes them; state, deadline, heartbeat and lags: the worker does) and the
cells of the worker's counters. Each cell has one writer and is one aligned word, so nothing is locked. When a worker is
gone the arbiter adds its counts to the totals: counters survive their worker, and connections that ended with it are
counted. Lags are those of a worker that lives.

Beside it each place has a table of the addresses whose connections its worker holds, for limits that are of all workers
together. It is memory only where it is used.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Iterator

from gserver.counters import CELLS, OPEN, closed_cell, snapshot
from gserver.errors import CloseReason
from gserver.limits.address_table import TABLE_WORDS, AddressTable

__all__ = ["HEARTBEAT_S", "SERVING", "Place", "Scoreboard"]

_PID, _AGE, _STATE, _DEADLINE, _BEAT, _LAG, _LONGEST_LAG, _FIRST_BUCKET = range(8)
# How many seconds were as late: below 1 ms, 2 ms, 4 ms and so on to 32.768 s, and one count for all that were later.
_BUCKETS = 17
_HEAD = _FIRST_BUCKET + _BUCKETS
_WORDS = _HEAD + CELLS
_WORD_BYTES = 8
_TABLE_BYTES = TABLE_WORDS * _WORD_BYTES
#: How often a worker's heart beats.
HEARTBEAT_S = 1.0
_MAP_FIXED = 0x10
NANOSECONDS = 1_000_000_000
MILLISECOND = 1_000_000

_UNBORN = 2**32
#: The state of a worker that accepts connections; 0 for everybody else.
SERVING = 1


class Place:
    """One worker's part of the scoreboard."""

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words[index * _WORDS : (index + 1) * _WORDS]
        self.index = index
        self.cells = self._words[_HEAD:]  # for its Counters

    @property
    def pid(self) -> int:
        """0 when nobody has this place."""
        return self._words[_PID]

    @property
    def open(self) -> int:
        """How many connections it holds."""
        return self.cells[OPEN]

    @property
    def is_serving(self) -> bool:
        return self._words[_STATE] == SERVING

    @is_serving.setter
    def is_serving(self, value: bool) -> None:
        self._words[_STATE] = SERVING if value else 0

    @property
    def deadline(self) -> float | None:
        """When the worker must have been heard of again, on time.monotonic()'s clock; None: it has not begun."""
        return self._words[_DEADLINE] / NANOSECONDS or None

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._words[_DEADLINE] = int(value * NANOSECONDS)

    @property
    def beat_at(self) -> float:
        """When its heart beat last, on time.monotonic()'s clock; 0 before it did for the first time."""
        return self._words[_BEAT] / NANOSECONDS

    @beat_at.setter
    def beat_at(self, value: float) -> None:
        self._words[_BEAT] = int(value * NANOSECONDS)

    @property
    def lag_s(self) -> float:
        """How late its hub came to what was due in the last second, as far as that was noticed."""
        return self._words[_LAG] / NANOSECONDS

    @lag_s.setter
    def lag_s(self, value: float) -> None:
        """Once for each second: it is counted."""
        lag = self._words[_LAG] = int(value * NANOSECONDS)
        if lag > self._words[_LONGEST_LAG]:
            self._words[_LONGEST_LAG] = lag
        self._words[_FIRST_BUCKET + min((lag // MILLISECOND).bit_length(), _BUCKETS - 1)] += 1

    @property
    def lag_max_s(self) -> float:
        """The longest lag that its worker has noticed."""
        return self._words[_LONGEST_LAG] / NANOSECONDS

    @property
    def lag_histogram(self) -> dict[float, int]:
        """How many seconds had a lag below so many seconds, and not below the bound before it; only those that had."""
        counts = enumerate(self._words[_FIRST_BUCKET:_HEAD])
        return {2**bucket / 1000 if bucket < _BUCKETS - 1 else math.inf: count for bucket, count in counts if count}

    def take(self, age: int) -> None:
        """Keep this place for a worker that is about to be forked."""
        for word in range(_WORDS):
            self._words[word] = 0
        self._words[_AGE] = age
        self._words[_PID] = _UNBORN

    def belongs_to(self, pid: int) -> None:
        self._words[_PID] = pid

    def leave(self) -> None:
        self._words[_PID] = self._words[_STATE] = 0


class Scoreboard:
    """Places for `size` workers, and the totals of those that are gone. Anonymous memory: it ends with its processes.

    Workers must be forked from the process that made it.
    """

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, ((size + 1) * _WORDS + 1) * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("Q")
        self._used_word = (size + 1) * _WORDS  # holds where the words of the places end that were ever taken
        self._size = size
        self._address_memory = mmap.mmap(-1, max(1, size) * _TABLE_BYTES)
        self._address_words = memoryview(self._address_memory).cast("Q")
        #: The last place is nobody's: what the workers that are gone had counted.
        self.gone = Place(self._words, size)

    def become_private(self) -> None:
        """In a process that was forked from a worker: what it writes from now on is nobody's, as if it were a copy.

        In place, for whoever counts in it (compiled code too) holds on to its addresses.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        for memory in (self._memory, self._address_memory):
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            counted = memory[:] if memory is self._memory else b""
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            if libc.mmap(address, len(memory), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != address:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            memory[: len(counted)] = counted

    def place(self, index: int) -> Place:
        """One of the places; IndexError if there are not so many."""
        if not 0 <= index < self._size:
            raise IndexError(f"place {index} of {self._size}")
        return Place(self._words, index)

    def free_place(self) -> Place:
        """The first that nobody has; IndexError if there is none."""
        for index in range(self._size):
            if not self._words[index * _WORDS + _PID]:
                self._address_memory.madvise(mmap.MADV_REMOVE, index * _TABLE_BYTES, _TABLE_BYTES)  # all zeros again
                self._words[self._used_word] = max(self._words[self._used_word], (index + 1) * _WORDS)
                return self.place(index)
        raise IndexError("every place of the scoreboard is taken")

    def addresses(self, place: Place) -> AddressTable:
        """Those whose connections its worker holds; only that worker may add and remove."""
        return AddressTable(self._address_words[place.index * TABLE_WORDS : (place.index + 1) * TABLE_WORDS])

    def vacate(self, place: Place) -> None:
        """Its worker is gone: keep what it had counted."""
        counted = snapshot(place.cells)  # it may have been killed between two cells
        counted[closed_cell(CloseReason.WORKER_DIED)] += counted[OPEN]
        counted[OPEN] = 0
        for cell in range(CELLS):
            self.gone.cells[cell] += counted[cell]
            place.cells[cell] = 0
        place.leave()

    def taken(self) -> Iterator[Place]:
        used = self._words[self._used_word] // _WORDS
        return (place for place in map(self.place, range(used)) if place.pid)

    def totals(self) -> list[int]:
        """The cells of a counters over all workers that there are and ever were."""
        places = [self.gone, *self.taken()]
        return [sum(place.cells[cell] for place in places) for cell in range(CELLS)]

    def open_connections(self) -> int:
        """How many connections all workers hold. Once for every accept, where they have a limit together."""
        words = self._words
        return sum(words[at + _HEAD + OPEN] for at in range(0, words[self._used_word], _WORDS) if words[at + _PID])

    def serving(self) -> int:
        """How many workers accept connections."""
        words = self._words
        return sum(words[at + _STATE] == SERVING for at in range(0, words[self._used_word], _WORDS))

    def fewest_open(self) -> int | None:
        """How many connections the worker holds that serves the fewest; None if none serves. Once for every accept."""
        words, fewest = self._words, None
        for at in range(0, words[self._used_word], _WORDS):
            if words[at + _STATE] == SERVING:
                held = words[at + _HEAD + OPEN]
                fewest = held if fewest is None or held < fewest else fewest
        return fewest
