"""What the sampler has measured of servers that use a known amount of CPU time and memory.

The truth is the server's own getrusage(2), or the bytes that it was told to hold. Time passes only for what is done:
CPU time is no wall time, and a plateau's seconds are written on samples that were taken one after the other.
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
# How far apart two readings of what was used may be: accounts of children are in ticks, user and system time apart.
ROUNDED_S = 0.02
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def server() -> Iterator[Costly]:
    with Costly() as costly:
        yield costly


def sampled(server: Costly, what: str, **arguments: Any) -> tuple[Used, float]:
    """What the samples have of a command, taken all the time while it goes on; and what it used by its own account."""
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
    """Ticks of 10 ms would make 0 or 10 of it."""
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


def test_cpu_time_of_a_child_that_nobody_waited_for(server: Costly) -> None:
    """It is no child of getrusage(2) yet; the process that has ended still has its account."""
    used, truth_s = sampled(server, "not_waited_for", seconds=0.1)

    assert used.seconds == pytest.approx(truth_s + 0.1, abs=ROUNDED_S)
    assert used.lost == ""


def test_where_sigchld_is_ignored_the_figure_is_a_lower_bound(server: Costly) -> None:
    """Linux has no account of them: getrusage(2) of their parent has nothing either."""
    used, truth_s = sampled(server, "ignoring", count=2, seconds=0.1)

    assert truth_s < 0.1
    assert f"process {server.process.pid} ignores SIGCHLD" in used.lost
    assert truth_s - ROUNDED_S <= used.seconds <= truth_s + 0.2 + ROUNDED_S


@pytest.fixture
def adopted() -> Iterator[None]:
    """This process is given the children of ended parents below it, as process 1 of a host is otherwise."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("adopted")
def test_a_process_whose_parent_ended_is_followed_and_once_it_is_gone_the_figure_is_a_lower_bound(
    server: Costly,
) -> None:
    """A double fork's child is in no account of the server, but in its own, for as long as it is there."""
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
    """With so many connections after each other; four readings on each, with a command before each if there is one."""
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
    """Of all its processes together."""
    sample = Sampler(Tree(server.process.pid)).take()
    assert sample is not None
    return float(sum(process["memory_bytes"] for process in sample["processes"]))


@pytest.mark.parametrize("kib", [4, 20])
def test_memory_of_a_connection(server: Costly, kib: int) -> None:
    """Beside what Python takes for the objects of one: below 1.5 KiB here."""
    server.do("holds", size=kib * 1024)
    server.connect_up_to(10)
    found = measured(server, 50, 300, 700, 1100)

    assert found.withheld == ""
    assert found.each is not None
    assert kib * 1024 <= found.each.value <= (kib + 1.5) * 1024


def test_memory_that_messages_leak_is_growth_and_no_connections(server: Costly) -> None:
    found = measured(server, 20, message={"what": "leak", "messages": 100, "size": 8192})

    assert found.each is None
    assert "a leak or a cache" in found.withheld
    assert found.growth is not None
    assert found.growth.grown == pytest.approx(3 * 100 * 8192, rel=0.1)


def test_a_leak_on_many_plateaus_is_no_memory_of_connections(server: Costly) -> None:
    found = measured(server, 50, 400, 1100, message={"what": "leak", "messages": 100, "size": 8192})

    assert found.each is None
    assert "a leak or a cache" in found.withheld


def test_pages_that_workers_share_are_counted_once_and_copies_by_themselves(server: Costly) -> None:
    """RSS would have 32 MiB for each of them; USS 0, and 8 for each that writes."""
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
