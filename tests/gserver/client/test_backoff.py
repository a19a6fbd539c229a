"""The pauses after failures, and the order of the addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.client.backoff import Addresses, delay_s

BASE_S = 0.05
MOST_S = 2.0


@pytest.mark.parametrize(
    ("failures", "chance", "expected_s"),
    [(0, 1, 0), (1, 1, 0.05), (2, 1, 0.1), (3, 0.5, 0.1), (6, 1, 1.6), (7, 1, 2), (10_000, 1, 2), (10_000, 0, 0)],
)
def test_a_pause_doubles_up_to_the_longest(failures: int, chance: float, expected_s: float) -> None:
    assert delay_s(failures, chance, BASE_S, MOST_S) == pytest.approx(expected_s)


@given(failures=st.integers(0, 10**6), chance=st.floats(0, 1))
def test_a_pause_is_between_0_and_the_longest(failures: int, chance: float) -> None:
    assert 0 <= delay_s(failures, chance, BASE_S, MOST_S) <= MOST_S


def chosen(addresses: Addresses[str], now: float, count: int) -> list[str]:
    return [addresses.address(addresses.choose(now)[0]) for _ in range(count)]


def test_addresses_are_used_in_turn() -> None:
    assert chosen(Addresses(["a", "b", "c"], BASE_S, MOST_S), 100, 5) == ["a", "b", "c", "a", "b"]


def test_an_address_that_has_failed_is_left_alone_for_its_pause() -> None:
    addresses = Addresses(["a", "b", "c"], BASE_S, MOST_S)
    addresses.failed(1, 99.9, 100, 1)

    assert chosen(addresses, 100, 4) == ["a", "c", "a", "c"]
    assert set(chosen(addresses, 100.06, 3)) == {"a", "b", "c"}


def test_if_all_have_failed_the_first_to_be_free_again_is_next() -> None:
    addresses = Addresses(["a", "b"], BASE_S, MOST_S)
    addresses.failed(0, 99.9, 100, 1)
    addresses.failed(1, 99.9, 100, 0.5)

    number, pause_s = addresses.choose(100)
    assert (number, round(pause_s, 6)) == (1, 0.025)


def test_attempts_that_fail_at_the_same_time_count_once() -> None:
    addresses = Addresses(["a"], BASE_S, MOST_S)
    for _ in range(20):
        addresses.failed(0, 99.9, 100, 1)

    assert round(addresses.choose(100)[1], 6) == BASE_S


def test_a_success_ends_the_pause() -> None:
    addresses = Addresses(["a"], BASE_S, MOST_S)
    for began_at in (1, 2, 3):
        addresses.failed(0, began_at, began_at + 0.5, 1)
    addresses.succeeded(0)

    assert addresses.choose(3.5) == (0, 0)
