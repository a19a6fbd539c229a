"""What the processes of a tree cost."""

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

# A process with three sockets and a thread that has a child of its own; each level says when it is there.
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


def test_every_process_is_there_also_the_child_of_a_thread() -> None:
    with family() as process:
        known = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
        sample = Tree(process.pid).sample()

    assert sample[0]["pid"] == process.pid
    assert {each["pid"] for each in sample[1:]} == known
    assert len(known) == 2
    assert sorted(each["threads"] for each in sample) == [1, 1, 2]


def test_each_process_has_what_it_costs_as_psutil_says() -> None:
    with family() as process:
        (root, *_), known = Tree(process.pid).sample(sockets=True, memory=True), psutil.Process(process.pid)

        assert root["descriptors"] == known.num_fds()
        assert root["sockets"] == 3
        assert root["rss_bytes"] == pytest.approx(known.memory_info().rss, rel=0.05)
        assert 0 < root["memory_bytes"] < root["rss_bytes"]
        assert root["cpu_user_s"] + root["cpu_system_s"] == pytest.approx(sum(known.cpu_times()[:2]), abs=0.05)
        assert root["switches_voluntary"] <= known.num_ctx_switches().voluntary
        assert root["started_s"] == known.create_time()


def test_what_is_dear_is_left_out_unless_asked_for() -> None:
    (own, *_) = Tree(os.getpid()).sample()

    assert not {"sockets", "memory_bytes"} & set(own)


def test_descriptors_are_counted_one_by_one_as_they_come_and_go() -> None:
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


def test_a_root_that_waits_to_be_buried_has_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    sample = Tree(process.pid).sample()
    process.wait()

    assert sample == []


# A child that ends at once, and its own child, which stays in the session that the root leads; the root waits for none.
ORPHAN = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        print("ready", flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_child_that_has_ended_keeps_its_account_and_holds_nothing_and_its_own_child_is_followed() -> None:
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


def test_where_the_cpu_clock_cannot_be_read_ticks_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.sampling.process_tree._cpu_clock_s", lambda pid: None)
    (own, *_) = Tree(os.getpid()).sample()

    assert own["cpu_s"] == own["cpu_user_s"] + own["cpu_system_s"] > 0


def test_a_process_that_is_gone_has_no_cpu_clock() -> None:
    assert _cpu_clock_s(2**22 + 1) is None


def test_memory_of_a_kernel_that_does_not_split_it_is_all_of_it() -> None:
    head, own = "55cd-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 500 kB\n", "SwapPss: 7 kB\n"

    assert _memory_bytes(head + own) == 507 * 1024
    assert _memory_bytes(f"{head}Pss_Anon: 300 kB\nPss_File: 160 kB\nPss_Shmem: 40 kB\n{own}") == 347 * 1024


def test_a_kernel_without_a_rollup_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("loadtests.sampling.process_tree.PROC", tmp_path)

    assert _memory(1) == {"memory_error": "No such file or directory"}


def test_a_number_that_is_another_processes_by_now_is_not_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel would have it if the number were given again: the process that has it began at another time."""
    with family() as process:
        tree = Tree(process.pid)
        monkeypatch.setattr(tree._root, "_ident", (process.pid, 1.0))

        assert tree.sample() == []


def test_a_number_that_is_another_childs_by_now_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with family() as process:
        tree = Tree(process.pid)
        child = tree.sample()[1]
        stale = tree._known[child["pid"]]
        monkeypatch.setattr(stale, "_ident", (child["pid"], 1.0))
        monkeypatch.setattr(stale, "_create_time", 1.0)
        again = {each["pid"]: each for each in tree.sample()}

        assert again[child["pid"]]["started_s"] == child["started_s"]


def test_a_root_that_is_not_there_is_an_error() -> None:
    with pytest.raises(psutil.NoSuchProcess):
        Tree(2**22 + 1)


@pytest.mark.parametrize("cost_s", [0.05, 0.15, 2.0])
def test_what_is_dear_takes_no_more_than_its_share_of_the_time(cost_s: float) -> None:
    budget, now_s, spent_s = Budget(share=0.01), 0.0, 0.0
    while now_s < 3600:
        if budget.allows(now_s):
            spent_s += cost_s
            budget.spent(now_s, cost_s)
        now_s += 0.25

    assert 0.005 * 3600 < spent_s <= 0.01 * 3600 + cost_s


def test_a_plateau_is_where_descriptors_stay_the_same_for_a_while() -> None:
    plateau = Plateau()
    assert not plateau.is_level
    levels = []
    for step in range(100):
        now_s = step * 0.25
        plateau.add(now_s, min(2000, 100 * step))  # a ramp of five seconds
        levels.append((now_s, plateau.is_level))

    assert next(now_s for now_s, is_level in levels if is_level) == pytest.approx(4.75 + PLATEAU_S, abs=0.3)
    assert all(is_level for now_s, is_level in levels if now_s > 5.5 + PLATEAU_S)


def test_a_little_coming_and_going_is_still_a_plateau_and_more_is_none() -> None:
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
