"""Memory per connection, for servers with known memory use."""

from __future__ import annotations

import random
from typing import Any

import pytest

from loadtests.recording.recording import Recording
from loadtests.results.memory import memory_of
from tests.helpers.plateaus import MIB, on_plateaus, sample_of

STEPS = (100, 1000, 2000, 4000)


def flat(*sockets: int, size: float = 20 * MIB) -> dict[int, float]:
    return dict.fromkeys(sockets, size)


@pytest.mark.parametrize("kib", [0.5, 4.0, 200.0])
def test_the_slope_is_found_despite_the_pieces_of_an_allocator(kib: float) -> None:
    """A size is rounded up to pieces of 256 KiB, as allocators take it."""
    recording, samples = on_plateaus(flat(*STEPS), each=kib * 1024)
    for sample in samples:
        process = sample["processes"][0]
        process["memory_bytes"] = -(-process["memory_bytes"] // (MIB // 4)) * (MIB // 4)
    found = memory_of(recording, samples)

    assert found.withheld == ""
    assert found.each is not None
    assert found.each.value == pytest.approx(kib * 1024, rel=0.2)


def test_memory_that_a_server_allocates_once_is_not_counted_as_connections() -> None:
    """8 MiB come with the first connections; before those the server has less."""
    recording, samples = on_plateaus(flat(*STEPS, size=28 * MIB), each=1024)
    samples = [sample_of(99.0 + at / 4, 20 * MIB) for at in range(4)] + samples
    found = memory_of(recording, samples)

    assert found.each is not None
    assert found.each.value == pytest.approx(1024)


@pytest.mark.parametrize(
    ("sockets", "why"),
    [
        ((20,), "this run rested at 20 connections, but 3 different numbers are needed: use the profile memory"),
        ((2000,), "this run rested at 2,000 connections, but 3 different numbers are needed: use the profile memory"),
        (
            (1000, 3000),
            "this run rested at 1,000, 3,000 connections, but 3 different numbers are needed: use the profile memory",
        ),
        ((10, 20, 40), "differ by 30 at most, but 1,000 are needed to separate"),
    ],
)
def test_few_plateaus_or_few_connections_give_no_figure(sockets: tuple[int, ...], why: str) -> None:
    found = memory_of(*on_plateaus(flat(*sockets), each=10_000))

    assert found.each is None
    assert why in found.withheld


def test_growth_at_a_constant_number_of_connections_is_a_figure_of_its_own() -> None:
    """A server that leaks 0.5 MiB a second at any number of connections."""
    found = memory_of(*on_plateaus(flat(50), more=lambda time_s: MIB / 2 * time_s))

    assert found.each is None
    assert found.withheld == "memory grew 2.4 MiB in 5 s at 50 connections: a leak or a cache"
    assert found.growth is not None
    assert found.growth.slope.value == pytest.approx(MIB / 2)


def test_much_growth_withholds_the_figure_on_any_number_of_plateaus() -> None:
    found = memory_of(*on_plateaus(flat(*STEPS), each=512, more=lambda time_s: MIB / 4 * time_s))

    assert found.each is None
    assert found.withheld.startswith("memory grew 1.2 MiB in 5 s at ")


def test_little_growth_is_reported_and_withholds_nothing() -> None:
    found = memory_of(*on_plateaus(flat(*STEPS), each=50 * 1024, more=lambda time_s: MIB / 4 * time_s))

    assert found.each is not None
    assert found.each.value == pytest.approx(50 * 1024, rel=0.1)
    assert found.growth is not None


@pytest.mark.parametrize("seed", range(5))
def test_a_heap_that_goes_up_and_down_does_not_grow(seed: int) -> None:
    dice = random.Random(seed)
    found = memory_of(*on_plateaus(flat(50), more=lambda time_s: dice.uniform(0, 3 * MIB)))

    assert found.growth is None


def test_a_few_pages_more_are_noise() -> None:
    found = memory_of(*on_plateaus(flat(50), more=lambda time_s: 50 * 1024 * time_s))

    assert found.growth is None


def test_memory_that_does_not_follow_the_connections_is_withheld_with_the_interval() -> None:
    sizes = {100: 20.0 * MIB, 1000: 28.0 * MIB, 2000: 21.0 * MIB, 4000: 27.0 * MIB}
    found = memory_of(*on_plateaus(sizes))

    assert found.each is None
    assert "memory did not follow the number of connections closely enough" in found.withheld


def test_plateaus_after_the_highest_one_do_not_count() -> None:
    recording, samples = on_plateaus(flat(*STEPS, 1500), each=2048)
    for sample in samples:
        if sample["time_s"] >= 100 + 7 * len(STEPS):
            sample["processes"][0]["memory_bytes"] = 20 * MIB + 4000 * 2048
    found = memory_of(recording, samples)

    assert [level.sockets for level in found.levels] == list(STEPS)
    assert found.each is not None
    assert found.each.value == pytest.approx(2048)


def refuse(process: dict[str, Any]) -> None:
    del process["memory_bytes"]
    process["memory_error"] = "Permission denied"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (refuse, "the memory of process 1 cannot be read: Permission denied"),
        (lambda process: process.pop("memory_bytes"), "memory was not read while the number of connections stayed"),
    ],
    ids=["refused", "never read"],
)
def test_memory_that_was_not_read_is_withheld_with_the_reason(change: Any, why: str) -> None:
    recording, samples = on_plateaus(flat(*STEPS), each=1024)
    for sample in samples:
        change(sample["processes"][0])
    found = memory_of(recording, samples)

    assert found.each is None
    assert why in found.withheld


def test_a_sample_counts_if_all_living_processes_were_read() -> None:
    recording, samples = on_plateaus(flat(*STEPS), each=1024)
    for sample in samples:
        sample["processes"] += [
            {"pid": 2, "has_ended": True, "rss_bytes": 0},
            {"pid": 3, "memory_bytes": 1000.0, "rss_bytes": 0},
        ]
    del samples[20]["processes"][2]["memory_bytes"]
    found = memory_of(recording, samples)

    assert sum(len(level.readings) for level in found.levels) == 4 * 5 * len(STEPS) - 1
    assert found.each is not None
    assert found.each.value == pytest.approx(1024)


def test_a_run_that_saw_nothing_has_no_memory() -> None:
    assert memory_of(Recording(), [sample_of(1.0, MIB)]).each is None
