"""The address table: counts per key, within one process and between processes."""

from __future__ import annotations

import mmap
import os
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.address_table import TABLE_WORDS, AddressTable


def table_of(words: int = TABLE_WORDS) -> AddressTable:
    return AddressTable(memoryview(bytearray(8 * words)).cast("Q"))


KEYS = st.integers(0, 40).map(lambda number: number.to_bytes(4, "big"))


@given(st.sampled_from([8, 16, 64]), st.lists(st.tuples(st.booleans(), KEYS), max_size=200))
def test_a_table_counts_all_keys_that_fit(words: int, steps: list[tuple[bool, bytes]]) -> None:
    """Few words and many keys: the buckets are full most of the time."""
    table, model = table_of(words), Counter[bytes]()
    for is_added, key in steps:
        if is_added:
            counted = table.add(key)
            assert counted or (not model[key] and len(+model) >= 8)  # not counted only if eight others are
            model[key] += counted
        elif model[key]:
            table.remove(key)
            model[key] -= 1
        assert table.count(key) == model[key]

    assert {key: table.count(key) for key in model} == dict(model)


def test_a_full_bucket_counts_no_new_key_until_one_is_removed() -> None:
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


def test_removing_a_key_that_is_not_there_changes_nothing() -> None:
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


def test_another_process_reads_the_counts() -> None:
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
    """A word is stored at once: a reader sees only counts that existed."""
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
