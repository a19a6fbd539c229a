"""CPU time, memory and descriptors of a process tree."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtests.sampling.process_tree import (
    PLATEAU_S,
    Budget,
    Plateau,
    Tree,
    _cpu_clock_s,
    _memory,
    _memory_bytes,
    resident_bytes,
)
from tests.helpers.processes import wait_for

# A process with three sockets, and with a thread that has a child; each level prints when it is ready.
FAMILY = """
import os, socket, sys, threading, time
sockets = [socket.socket() for _ in range(3)]
def grandchild():
    if os.fork() == 0:
        time.sleep(60)
    else:
        print("ready", flush=True)
        time.sleep(60)
if os.fork() == 0:
    threading.Thread(target=grandchild).start()
time.sleep(60)
"""


@contextlib.contextmanager
def family() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        try:
            yield process
        finally:
            for each in everybody:
                with contextlib.suppress(psutil.Error):
                    each.kill()


def test_the_tree_has_every_process_even_the_child_of_a_thread() -> None:
    with family() as process:
        known = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
        sample = Tree(process.pid).sample()

    assert sample[0]["pid"] == process.pid
    assert {each["pid"] for each in sample[1:]} == known
    assert len(known) == 2
    assert sorted(each["threads"] for each in sample) == [1, 1, 2]


def test_each_process_has_the_figures_of_psutil() -> None:
    with family() as process:
        (root, *_), known = Tree(process.pid).sample(sockets=True, memory=True), psutil.Process(process.pid)

        assert root["descriptors"] == known.num_fds()
        assert root["sockets"] == 3
        assert root["rss_bytes"] == pytest.approx(known.memory_info().rss, rel=0.05)
        assert 0 < root["memory_bytes"] < root["rss_bytes"]
        assert root["cpu_user_s"] + root["cpu_system_s"] == pytest.approx(sum(known.cpu_times()[:2]), abs=0.05)
        assert root["switches_voluntary"] <= known.num_ctx_switches().voluntary
        assert root["started_s"] == known.create_time()


def test_expensive_figures_are_read_only_on_request() -> None:
    (own, *_) = Tree(os.getpid()).sample()

    assert not {"sockets", "memory_bytes"} & set(own)


def test_each_opened_and_closed_descriptor_changes_the_count() -> None:
    tree = Tree(os.getpid())
    before = tree.sample(sockets=True)[0]
    with socket.socket(), socket.socket(), open(os.devnull):
        during = tree.sample(sockets=True)[0]

    assert during["descriptors"] - before["descriptors"] == 3
    assert during["sockets"] - before["sockets"] == 2


def test_a_tree_whose_root_has_ended_is_empty() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        tree = Tree(process.pid)
        assert tree.sample()
        process.communicate(b"\n")

    assert tree.sample() == []


def test_a_zombie_root_has_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    sample = Tree(process.pid).sample()
    process.wait()

    assert sample == []


# A child that ends at once, and its child, which stays in the session that the root leads; the root calls no wait().
ORPHAN = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        print("ready", flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_zombie_child_keeps_its_cpu_time_and_its_child_stays_in_the_tree() -> None:
    command = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        tree = Tree(process.pid)
        try:
            wait_for(lambda: any("has_ended" in each for each in tree.sample()), "the child has ended")
            root, *others = tree.sample(memory=True, sockets=True)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    (ended,) = [each for each in others if "has_ended" in each]
    (orphan,) = [each for each in others if "has_ended" not in each]

    assert ended["parent_pid"] == root["pid"]
    assert ended["cpu_s"] > 0
    assert ended["rss_bytes"] == ended["descriptors"] == 0
    assert orphan["parent_pid"] not in (root["pid"], ended["pid"])
    assert orphan["memory_bytes"] > 0


def test_without_a_cpu_clock_the_ticks_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.sampling.process_tree._cpu_clock_s", lambda pid: None)
    (own, *_) = Tree(os.getpid()).sample()

    assert own["cpu_s"] == own["cpu_user_s"] + own["cpu_system_s"] > 0


def test_a_process_that_has_ended_has_no_cpu_clock() -> None:
    assert _cpu_clock_s(2**22 + 1) is None


def test_memory_on_a_kernel_that_does_not_split_it_is_the_whole_pss() -> None:
    head, own = "55cd-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 500 kB\n", "SwapPss: 7 kB\n"

    assert _memory_bytes(head + own) == 507 * 1024
    assert _memory_bytes(f"{head}Pss_Anon: 300 kB\nPss_File: 160 kB\nPss_Shmem: 40 kB\n{own}") == 347 * 1024


def test_a_kernel_without_a_rollup_is_an_error_in_the_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("loadtests.sampling.process_tree.PROC", tmp_path)

    assert _memory(1) == {"memory_error": "No such file or directory"}


def test_another_process_with_the_pid_of_the_root_is_not_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that the kernel has reused belongs to a process with another start time."""
    with family() as process:
        tree = Tree(process.pid)
        monkeypatch.setattr(tree._root, "_ident", (process.pid, 1.0))

        assert tree.sample() == []


def test_another_process_with_the_pid_of_a_child_is_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with family() as process:
        tree = Tree(process.pid)
        child = tree.sample()[1]
        stale = tree._known[child["pid"]]
        monkeypatch.setattr(stale, "_ident", (child["pid"], 1.0))
        monkeypatch.setattr(stale, "_create_time", 1.0)
        again = {each["pid"]: each for each in tree.sample()}

        assert again[child["pid"]]["started_s"] == child["started_s"]


def test_a_missing_root_is_an_error() -> None:
    with pytest.raises(psutil.NoSuchProcess):
        Tree(2**22 + 1)


@pytest.mark.parametrize("cost_s", [0.05, 0.15, 2.0])
def test_expensive_figures_use_no_more_than_their_share_of_the_time(cost_s: float) -> None:
    budget, now_s, spent_s = Budget(share=0.01), 0.0, 0.0
    while now_s < 3600:
        if budget.allows(now_s):
            spent_s += cost_s
            budget.spent(now_s, cost_s)
        now_s += 0.25

    assert 0.005 * 3600 < spent_s <= 0.01 * 3600 + cost_s


def test_a_plateau_is_a_time_of_equal_descriptors() -> None:
    plateau = Plateau()
    assert not plateau.is_level
    levels = []
    for step in range(100):
        now_s = step * 0.25
        plateau.add(now_s, min(2000, 100 * step))  # a ramp of five seconds
        levels.append((now_s, plateau.is_level))

    assert next(now_s for now_s, is_level in levels if is_level) == pytest.approx(4.75 + PLATEAU_S, abs=0.3)
    assert all(is_level for now_s, is_level in levels if now_s > 5.5 + PLATEAU_S)


def test_a_change_of_one_percent_is_still_a_plateau() -> None:
    calm, lively = Plateau(), Plateau()
    for step in range(20):
        calm.add(step * 0.25, 1000 + step % 2 * 5)
        lively.add(step * 0.25, 1000 + step % 2 * 50)

    assert calm.is_level
    assert not lively.is_level


def test_resident_bytes_are_those_of_the_page_tables_and_none_of_a_process_that_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        assert resident_bytes(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)

    assert resident_bytes(process.pid) is None
