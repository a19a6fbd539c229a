"""How many connections each address has, in memory that several processes read. Pure."""

from __future__ import annotations

__all__ = ["TABLE_WORDS", "AddressTable"]

#: How many 64-bit words a table has; it holds about half as many addresses before it loses sight of one.
TABLE_WORDS = 2**15

_BUCKET = 8

_COUNT_BITS = 16

_MOST = (1 << _COUNT_BITS) - 1


class AddressTable:
    """How many connections each key has, in TABLE_WORDS words of memory that may be shared; all of them 0 at first.

    One process writes, and any number read without a lock: a word holds 48 bits of a key's hash and 16 of its count,
    and is stored at once. All of them must have been forked from one process, for the hash is keyed, by Python's own
    key: nobody outside can choose addresses that collide. A key stays in its bucket of eight words. A full bucket
    counts no more keys, which lets them in rather than keep out somebody who has done nothing.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._buckets = len(words) // _BUCKET

    def add(self, key: bytes) -> bool:
        """Count one more; False if there is no room to count it, and then it must not be removed either."""
        tag, begin = self._place(key)
        free = None
        for index in range(begin, begin + _BUCKET):
            word = self._words[index]
            count = word & _MOST
            if count and word >> _COUNT_BITS == tag:
                if count == _MOST:
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
        """Count one less of what was added."""
        index = self._find(key)
        if index is not None:
            self._words[index] -= 1

    def count(self, key: bytes) -> int:
        index = self._find(key)
        return 0 if index is None else self._words[index] & _MOST

    def _place(self, key: bytes) -> tuple[int, int]:
        """What a key is known by, and where its bucket begins."""
        hashed = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        return hashed >> _COUNT_BITS, hash((hashed, "bucket")) % self._buckets * _BUCKET

    def _find(self, key: bytes) -> int | None:
        tag, begin = self._place(key)
        for index in range(begin, begin + _BUCKET):
            word = self._words[index]
            if word & _MOST and word >> _COUNT_BITS == tag:
                return index
        return None
