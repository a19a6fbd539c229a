"""The address table: the number of connections per address, in memory that several processes read. Pure."""

from __future__ import annotations

__all__ = ["TABLE_WORDS", "AddressTable"]

#: Size of a table in 64-bit words. It holds about half as many addresses before the first one does not fit.
TABLE_WORDS = 2**15

_BUCKET_WORDS = 8
_COUNT_BITS = 16
_MAX_COUNT = (1 << _COUNT_BITS) - 1


class AddressTable:
    """A count per key, in 64-bit words of memory that may be shared between processes.

    One process writes; any number of processes read without a lock, because a word (48 bits of the key's hash, 16 bits
    of its count) is stored at once. All processes must be forked from the same one: the hash has Python's random seed,
    so that no client can choose addresses that collide. Each key belongs to one bucket of 8 words. A full bucket counts
    no further keys: their connections are accepted without a limit, rather than refused without a reason.

    Args:
        words: the memory, cast to "Q"; usually TABLE_WORDS words; all 0 at first.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._buckets = len(words) // _BUCKET_WORDS

    def add(self, key: bytes) -> bool:
        """Add 1 to the count of `key`. False if the table has no room for it; then do not call remove() for it."""
        tag, begin = self._place(key)
        free = None
        for index in range(begin, begin + _BUCKET_WORDS):
            word = self._words[index]
            count = word & _MAX_COUNT
            if count and word >> _COUNT_BITS == tag:
                if count == _MAX_COUNT:
                    return False
                self._words[index] = word + 1
                return True
            if not count and free is None:
                free = index
        if free is None:
            return False
        self._words[free] = tag << _COUNT_BITS | 1
        return True

    def remove(self, key: bytes) -> None:
        """Subtract 1 from the count of a key that was added."""
        index = self._find(key)
        if index is not None:
            self._words[index] -= 1

    def count(self, key: bytes) -> int:
        """Return the count of `key`; 0 if the table does not hold it."""
        index = self._find(key)
        return 0 if index is None else self._words[index] & _MAX_COUNT

    def _place(self, key: bytes) -> tuple[int, int]:
        """Return the tag of a key (48 bits of its hash) and the index of its bucket."""
        hashed = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        return hashed >> _COUNT_BITS, hash((hashed, "bucket")) % self._buckets * _BUCKET_WORDS

    def _find(self, key: bytes) -> int | None:
        tag, begin = self._place(key)
        for index in range(begin, begin + _BUCKET_WORDS):
            word = self._words[index]
            if word & _MAX_COUNT and word >> _COUNT_BITS == tag:
                return index
        return None
