"""The scoreboard: shared memory of the arbiter and all its workers, with one slot per worker.

A slot has a head and the cells of the worker's counters. The arbiter writes pid and age into the head; the worker
writes state, deadline, heartbeat, lags, message rate and the end of its certificate. Each cell has one writer and is
one aligned word, so there are no locks. When a worker has ended, the arbiter adds its counts and its histogram of lags
to the totals. So they survive their worker, and connections that ended with it are counted. A process that reads
counts and totals meanwhile reads them with consistent().

One more part has the facts about the whole server, which only the arbiter writes (server_facts.py).

Each slot also has a table of the client addresses of its worker's connections, for the limits that apply to all workers
together. The kernel allocates memory only for the used parts of the tables.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from gserver.arbiter.server_facts import FACT_WORDS, ServerFacts
from gserver.counters import CELLS, OPEN, closed_cell, handler_seconds, handler_times, snapshot
from gserver.errors import CloseReason
from gserver.limits.address_table import TABLE_WORDS, AddressTable

__all__ = ["HEARTBEAT_S", "LAG_BOUNDS_S", "RESERVED", "SERVING", "STUCK_S", "Scoreboard", "Slot"]

_PID, _AGE, _STATE, _DEADLINE, _BEAT, _MESSAGE_RATE, _NOT_AFTER, _LAG, _LONGEST_LAG, _LAG_SUM, _FIRST_BUCKET = range(11)
# The histogram of lags: seconds with a lag below 1 ms, 2 ms, 4 ms and so on to 32.768 s, and one bucket for the rest.
_BUCKETS = 17
#: The upper bounds of the buckets, in seconds.
LAG_BOUNDS_S = (*(2**bucket / 1000 for bucket in range(_BUCKETS - 1)), math.inf)
_HEAD = _FIRST_BUCKET + _BUCKETS
_WORDS = _HEAD + CELLS
_WORD_BYTES = 8
_TABLE_BYTES = TABLE_WORDS * _WORD_BYTES
#: The interval of a worker's heartbeats.
HEARTBEAT_S = 1.0
#: A worker is stuck if its last heartbeat is older than this: five heartbeats. Clients give up long before the setting
#: timeout, after which the arbiter kills a worker.
STUCK_S = 5.0
# How long consistent() waits for the end of a change. The arbiter needs some microseconds for one.
_CHANGE_S = 0.5
_CHANGE_POLL_S = 0.0002
_MAP_FIXED = 0x10
NANOSECONDS = 1_000_000_000
MILLISECOND = 1_000_000

#: Stands for the pid of a worker that has not been forked yet.
RESERVED = 2**32
#: The state of a worker that accepts connections; 0 otherwise.
SERVING = 1
_Read = TypeVar("_Read")


class Slot:
    """One worker's part of the scoreboard. Times are seconds; instants are on time.monotonic()'s clock."""

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words[index * _WORDS : (index + 1) * _WORDS]
        self.index = index
        self.cells = self._words[_HEAD:]  # for its Counters

    @property
    def pid(self) -> int:
        """The worker's pid; 0 if this slot is free."""
        return self._words[_PID]

    @property
    def age(self) -> int:
        """1 for the first worker of this arbiter, 2 for the next."""
        return self._words[_AGE]

    @property
    def open(self) -> int:
        """The number of open connections of this worker."""
        return self.cells[OPEN]

    @property
    def is_serving(self) -> bool:
        return self._words[_STATE] == SERVING

    @is_serving.setter
    def is_serving(self, value: bool) -> None:
        self._words[_STATE] = SERVING if value else 0

    @property
    def deadline(self) -> float | None:
        """When the next heartbeat is due at the latest; None before the first heartbeat."""
        return self._words[_DEADLINE] / NANOSECONDS or None

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._words[_DEADLINE] = int(value * NANOSECONDS)

    @property
    def heartbeat_at(self) -> float:
        """The time of the last heartbeat; 0 before the first."""
        return self._words[_BEAT] / NANOSECONDS

    @heartbeat_at.setter
    def heartbeat_at(self, value: float) -> None:
        self._words[_BEAT] = int(value * NANOSECONDS)

    @property
    def message_rate(self) -> float:
        """The messages per second since the heartbeat before the last one."""
        return self._words[_MESSAGE_RATE] / 1000

    @message_rate.setter
    def message_rate(self, value: float) -> None:
        self._words[_MESSAGE_RATE] = int(value * 1000)

    @property
    def certificate_not_after(self) -> int | None:
        """When the first of the worker's certificates expires, in seconds since 1970; None without TLS."""
        return self._words[_NOT_AFTER] or None

    @certificate_not_after.setter
    def certificate_not_after(self, value: float | None) -> None:
        self._words[_NOT_AFTER] = max(1, int(value)) if value is not None else 0

    @property
    def lag_s(self) -> float:
        """The largest observed delay of the event loop in the last second."""
        return self._words[_LAG] / NANOSECONDS

    @lag_s.setter
    def lag_s(self, value: float) -> None:
        """To be set once for each second: each value is counted in the histogram."""
        lag = self._words[_LAG] = int(value * NANOSECONDS)
        if lag > self._words[_LONGEST_LAG]:
            self._words[_LONGEST_LAG] = lag
        self._words[_LAG_SUM] += lag
        self._words[_FIRST_BUCKET + min((lag // MILLISECOND).bit_length(), _BUCKETS - 1)] += 1

    @property
    def lag_max_s(self) -> float:
        """The largest lag since the worker started."""
        return self._words[_LONGEST_LAG] / NANOSECONDS

    @property
    def lag_histogram(self) -> dict[float, int]:
        """By upper bound in seconds: how many seconds had a lag below it and not below the previous bound.

        Empty buckets are left out.
        """
        return {bound: count for bound, count in zip(LAG_BOUNDS_S, self.lag_counts, strict=True) if count}

    @property
    def lag_counts(self) -> list[int]:
        """For each of LAG_BOUNDS_S: how many seconds had a lag below it and not below the previous bound."""
        return self._words[_FIRST_BUCKET:_HEAD].tolist()

    @property
    def lag_sum_ns(self) -> int:
        """The sum of all lags that were recorded. A whole number, because a sum of floats depends on their order."""
        return self._words[_LAG_SUM]

    def take_lags(self, other: Slot) -> None:
        """Add the histogram of another slot to that of this one, and clear it there."""
        for word in (_LAG_SUM, *range(_FIRST_BUCKET, _HEAD)):
            self._words[word] += other._words[word]
            other._words[word] = 0

    @property
    def handler_times(self) -> dict[float, int]:
        """The histogram of sampled handler times, in seconds: see gserver.counters. Of `ended`: of ended workers."""
        return handler_times(self.cells)

    @property
    def handler_seconds(self) -> float:
        """The sum of the sampled handler times."""
        return handler_seconds(self.cells)

    def reserve(self, age: int) -> None:
        """Reserve this slot for a worker that is about to be forked, and clear it."""
        for word in range(_WORDS):
            self._words[word] = 0
        self._words[_AGE] = age
        self._words[_PID] = RESERVED

    def assign(self, pid: int) -> None:
        self._words[_PID] = pid

    def release(self) -> None:
        self._words[_PID] = self._words[_STATE] = 0


class Scoreboard:
    """Slots for `size` workers, and the totals of the workers that have ended.

    The memory is anonymous: workers must be forked from the process that made it, and the kernel frees it with the last
    of them.
    """

    def __init__(self, size: int) -> None:
        # Indexes of two words: the end of all slots that were ever used, and the number of changes in vacate().
        self._used_word, self._changes_word = (size + 1) * _WORDS, (size + 1) * _WORDS + 1
        first_fact = self._changes_word + 1
        self._memory = mmap.mmap(-1, (first_fact + FACT_WORDS) * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("Q")
        #: Facts about the server as a whole.
        self.server = ServerFacts(self._words[first_fact:])
        self._size = size
        self._address_memory = mmap.mmap(-1, max(1, size) * _TABLE_BYTES)
        self._address_words = memoryview(self._address_memory).cast("Q")
        #: One more slot, for the sums of the workers that have ended.
        self.ended = Slot(self._words, size)

    def become_private(self) -> None:
        """In a process that was forked from a worker: turn the shared memory into a private copy.

        It is mapped at the same address, because counters (also those of compiled code) hold pointers into it.
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

    def slot(self, index: int) -> Slot:
        """The slot with this index; IndexError if there is none."""
        if not 0 <= index < self._size:
            raise IndexError(f"place {index} of {self._size}")
        return Slot(self._words, index)

    def free_slot(self) -> Slot:
        """The first free slot; IndexError if there is none."""
        for index in range(self._size):
            if not self._words[index * _WORDS + _PID]:
                self._address_memory.madvise(mmap.MADV_REMOVE, index * _TABLE_BYTES, _TABLE_BYTES)  # all zeros again
                self._words[self._used_word] = max(self._words[self._used_word], (index + 1) * _WORDS)
                return self.slot(index)
        raise IndexError("every slot of the scoreboard is in use")

    def addresses(self, slot: Slot) -> AddressTable:
        """The client addresses of the worker's connections. Only that worker may add and remove some."""
        return AddressTable(self._address_words[slot.index * TABLE_WORDS : (slot.index + 1) * TABLE_WORDS])

    def vacate(self, slot: Slot) -> None:
        """Free the slot of a worker that has ended, and add its counts to the totals."""
        self._words[self._changes_word] += 1  # now odd: see consistent()
        counted = snapshot(slot.cells)  # corrected, in case it was killed between the writes of two cells
        counted[closed_cell(CloseReason.WORKER_DIED)] += counted[OPEN]
        counted[OPEN] = 0
        for cell in range(CELLS):
            self.ended.cells[cell] += counted[cell]
            slot.cells[cell] = 0
        self.ended.take_lags(slot)
        slot.release()
        self._words[self._changes_word] += 1

    def consistent(self, read: Callable[[], _Read]) -> _Read:
        """Call read() until vacate() in another process has not run meanwhile, and return what it has read last.

        Otherwise the counts of a worker that has just ended could be read twice, or not at all, and a total could be
        smaller than before. An arbiter that was killed inside vacate() ends the wait after half a second.
        """
        words, until = self._words, time.monotonic() + _CHANGE_S
        while True:
            before = words[self._changes_word]
            result = read()
            if (before % 2 == 0 and words[self._changes_word] == before) or time.monotonic() > until:
                return result
            time.sleep(_CHANGE_POLL_S)

    def used_slots(self) -> Iterator[Slot]:
        used = self._words[self._used_word] // _WORDS
        return (slot for slot in map(self.slot, range(used)) if slot.pid)

    def totals(self) -> list[int]:
        """The counter cells, summed over all workers since the start of the arbiter."""
        slots = [self.ended, *self.used_slots()]
        return [sum(slot.cells[cell] for slot in slots) for cell in range(CELLS)]

    def open_connections(self) -> int:
        """The open connections of all workers. Read for every accept if max_connections is set."""
        words = self._words
        return sum(words[at + _HEAD + OPEN] for at in range(0, words[self._used_word], _WORDS) if words[at + _PID])

    def serving(self) -> int:
        """How many workers accept connections."""
        words = self._words
        return sum(words[at + _STATE] == SERVING for at in range(0, words[self._used_word], _WORDS))

    def fewest_open(self) -> int | None:
        """The open connections of the serving worker that has the fewest; None if no worker serves.

        Read for every accept.
        """
        words, fewest = self._words, None
        for at in range(0, words[self._used_word], _WORDS):
            if words[at + _STATE] == SERVING:
                held = words[at + _HEAD + OPEN]
                fewest = held if fewest is None or held < fewest else fewest
        return fewest
