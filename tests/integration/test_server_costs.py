"""The sampler's CPU time and memory of servers that use known amounts.

The true value is the server's own getrusage(2), or the number of bytes that it allocates. The tests do not depend on
the wall clock: CPU time is compared with CPU time, and the times of samples on a plateau are set by the test.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from loadtests.host.cpu_time import Used, used_over
from loadtests.host.environment import raise_nofile_limit
from loadtests.recording.recording import Recording
from loadtests.results.memory import Memory, memory_of
from loadtests.sampling.process_tree import Tree
from loadtests.sampling.sampler import Sampler
from tests.helpers.costly import Costly

MIB = 2**20
# Largest difference of two readings of CPU time: that of ended children is in ticks, for user and system time each.
ROUNDED_S = 0.02
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def server() -> Iterator[Costly]:
    with Costly() as costly:
        yield costly


def sampled(server: Costly, what: str, **arguments: Any) -> tuple[Used, float]:
    """Sample a command while it runs; return its CPU time from the samples, and from getrusage(2)."""
    sampler = Sampler(Tree(server.process.pid))
    before_s = server.do("burn", messages=0, seconds=0)["cpu_s"]
    samples = [sampler.take()]
    server.begin(what, **arguments)
    while not select.select([server.process.stdout], [], [], 0.01)[0]:
        samples.append(sampler.take())
    after_s = server.done()["cpu_s"]
    samples.append(sampler.take())
    return used_over([sample for sample in samples if sample is not None]), after_s - before_s


def assert_same(used: Used, truth_s: float) -> None:
    assert used.seconds == pytest.approx(truth_s, abs=ROUNDED_S, rel=0.03)
    assert used.lost == ""


def test_cpu_time_of_messages(server: Costly) -> None:
    used, truth_s = sampled(server, "burn", messages=50, seconds=0.004)

    assert truth_s == pytest.approx(0.2, abs=0.02)
    assert_same(used, truth_s)


@pytest.mark.parametrize("milliseconds", [2, 5, 9])
def test_cpu_time_of_less_than_a_tick(server: Costly, milliseconds: int) -> None:
    """With ticks of 10 ms the result would be 0 or 10 ms."""
    sampler = Sampler(Tree(server.process.pid))
    differences = []
    for _ in range(10):
        before = sampler.take()
        server.do("burn", messages=1, seconds=milliseconds / 1000)
        after = sampler.take()
        assert before is not None
        assert after is not None
        differences.append(1000 * used_over([before, after]).seconds - milliseconds)

    assert -0.001 <= min(differences) < 1


def test_cpu_time_of_threads_that_ended(server: Costly) -> None:
    used, truth_s = sampled(server, "threads", count=5, seconds=0.04)

    assert truth_s > 0.19
    assert_same(used, truth_s)


@pytest.mark.parametrize("seconds", [0.002, 0.03])
def test_cpu_time_of_children_that_ended_between_samples_or_in_them(server: Costly, seconds: float) -> None:
    used, truth_s = sampled(server, "forks", count=round(0.3 / seconds), seconds=seconds)

    assert truth_s > 0.29
    assert_same(used, truth_s)


def test_cpu_time_of_children_and_their_children(server: Costly) -> None:
    used, truth_s = sampled(server, "families", count=4, seconds=0.04)

    assert truth_s > 0.31
    assert_same(used, truth_s)


def test_cpu_time_of_other_programs(server: Costly) -> None:
    used, truth_s = sampled(server, "executes", count=3, seconds=0.05)

    assert truth_s > 0.15
    assert_same(used, truth_s)


def test_cpu_time_of_a_zombie(server: Costly) -> None:
    """getrusage(2) does not include it yet, but the zombie still has its CPU time."""
    used, truth_s = sampled(server, "not_waited_for", seconds=0.1)

    assert used.seconds == pytest.approx(truth_s + 0.1, abs=ROUNDED_S)
    assert used.lost == ""


def test_if_sigchld_is_ignored_the_cpu_time_is_a_lower_bound(server: Costly) -> None:
    """Linux drops the CPU time of such children: getrusage(2) of the parent does not include it either."""
    used, truth_s = sampled(server, "ignoring", count=2, seconds=0.1)

    assert truth_s < 0.1
    assert f"process {server.process.pid} ignores SIGCHLD" in used.lost
    assert truth_s - ROUNDED_S <= used.seconds <= truth_s + 0.2 + ROUNDED_S


@pytest.fixture
def adopted() -> Iterator[None]:
    """Make this process adopt orphans below it (PR_SET_CHILD_SUBREAPER), instead of process 1."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("adopted")
def test_an_orphan_is_sampled_and_when_it_ends_the_cpu_time_is_a_lower_bound(
    server: Costly,
) -> None:
    """The grandchild of a double fork has its own CPU time while it runs; it is never added to the server's."""
    sampler = Sampler(Tree(server.process.pid))
    before_s = server.do("burn", messages=0, seconds=0)["cpu_s"]
    samples = [sampler.take()]
    truth_s = 0.3 + server.do("orphan", seconds=0.3)["cpu_s"] - before_s
    samples.append(sampler.take())
    orphans = [each for each in psutil.Process().children() if each.pid != server.process.pid]
    for orphan in orphans:
        os.waitpid(orphan.pid, 0)
    samples.append(sampler.take())
    found = [sample for sample in samples if sample is not None]

    assert len(orphans) == 1
    assert_same(used_over(found[:2]), truth_s)
    assert used_over(found).seconds == pytest.approx(truth_s, abs=ROUNDED_S)
    assert (
        used_over(found).lost == f"the CPU time of process {orphans[0].pid}, which ended, is in no account of a parent"
    )


# Memory


def measured(server: Costly, *plateaus: int, message: dict[str, Any] | None = None) -> Memory:
    """Measure at these numbers of connections; four samples at each, with the command `message` before each sample."""
    sampler, recording, samples = Sampler(Tree(server.process.pid)), Recording(), []
    health = recording.health["a"] = {}
    for place, count in enumerate(plateaus):
        server.connect_up_to(count)
        for quarter in range(4):
            if message:
                server.do(**message)
            sampler.wants_expensive = True
            sample = sampler.take()
            assert sample is not None
            samples.append({**sample, "time_s": 10.0 * place + 1 + quarter})
        health |= {10 * place + at: {"sockets": count, "cpu_s": 0.0, "lag_ns": 0} for at in range(6)}
    return memory_of(recording, samples)


def bytes_of(server: Costly) -> float:
    """Return the memory of all processes of the server."""
    sample = Sampler(Tree(server.process.pid)).take()
    assert sample is not None
    return float(sum(process["memory_bytes"] for process in sample["processes"]))


@pytest.mark.parametrize("kib", [4, 20])
def test_memory_of_a_connection(server: Costly, kib: int) -> None:
    """Python objects of a connection add less than 1.5 KiB here."""
    server.do("holds", size=kib * 1024)
    server.connect_up_to(10)
    found = measured(server, 50, 300, 700, 1100)

    assert found.withheld == ""
    assert found.each is not None
    assert kib * 1024 <= found.each.value <= (kib + 1.5) * 1024


def test_memory_that_messages_leak_is_not_attributed_to_connections(server: Costly) -> None:
    found = measured(server, 20, message={"what": "leak", "messages": 100, "size": 8192})

    assert found.each is None
    assert "a leak or a cache" in found.withheld
    assert found.growth is not None
    assert found.growth.grown == pytest.approx(3 * 100 * 8192, rel=0.1)


def test_a_leak_on_many_plateaus_is_not_attributed_to_connections(server: Costly) -> None:
    found = measured(server, 50, 400, 1100, message={"what": "leak", "messages": 100, "size": 8192})

    assert found.each is None
    assert "a leak or a cache" in found.withheld


def test_pages_that_workers_share_are_counted_once_and_copies_separately(server: Costly) -> None:
    """RSS would be 32 MiB for each worker; USS would be 0, and 8 MiB for each worker that writes."""
    server.do("leak", messages=1, size=32 * MIB)
    before = bytes_of(server)
    server.do("workers", count=2, own=0)
    forked = bytes_of(server)
    server.do("workers", count=2, own=8 * MIB)
    copied = bytes_of(server)

    assert before > 32 * MIB
    assert forked - before < 4 * MIB
    assert copied - forked == pytest.approx(16 * MIB, abs=4 * MIB)


def test_a_segment_that_all_workers_write_to_is_counted_once(server: Costly) -> None:
    before = bytes_of(server)
    server.do("segment", count=3, size=16 * MIB)

    assert bytes_of(server) - before == pytest.approx(16 * MIB, abs=4 * MIB)


@pytest.fixture(autouse=True)
def _enough_descriptors() -> None:
    if raise_nofile_limit() < 2500:
        pytest.skip("1,100 connections need more open files")
