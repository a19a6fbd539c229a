"""What the server costs: its process tree, sampled by a process of its own, which a busy generator cannot blind.

    python -m loadtests.sampler --pid PID --output FILE [--interval SECONDS]

One line of JSON a sample: the monotonic time, which every process of the host shares, and for each process of the tree
its processor time, memory, descriptors, sockets and context switches so far. Ends with the tree, or at SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["main", "sample_tree"]

DEFAULT_INTERVAL_S = 0.25
# Telling sockets from files takes a readlink for each descriptor, 3 ms at 2,000: done on every fourth sample only.
SAMPLES_PER_SOCKET_COUNT = 4


def sample_tree(root: psutil.Process, count_sockets: bool = True) -> dict[str, Any]:
    """One sample of the tree under `root`; without processes if it has ended."""
    processes = []
    for process in _tree(root):
        try:
            processes.append(_sample(process, count_sockets))
        except psutil.Error:  # it ended between being listed and being read
            continue
    return {"time_s": time.monotonic(), "processes": processes}


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _sample(process: psutil.Process, count_sockets: bool) -> dict[str, Any]:
    with process.oneshot():
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(process.pid)
        cpu, switches = process.cpu_times(), process.num_ctx_switches()
        sample = {
            "pid": process.pid,
            "cpu_user_s": cpu.user,
            "cpu_system_s": cpu.system,
            "rss_bytes": process.memory_info().rss,
            "descriptors": process.num_fds(),
            "switches_voluntary": switches.voluntary,
            "switches_involuntary": switches.involuntary,
        }
    if count_sockets:
        sample["sockets"] = sum(1 for target in _descriptors(process.pid) if target.startswith("socket:"))
    return sample


def _descriptors(pid: int) -> Iterator[str]:
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                yield os.readlink(entry.path)
            except OSError:  # closed meanwhile
                continue
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.sampler", description="Sample a process tree.")
    parser.add_argument("--pid", type=int, required=True, help="the root of the tree")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to append the samples")
    parser.add_argument("--interval", type=float, default=DEFAULT_INTERVAL_S, metavar="SECONDS", help="(default 0.25)")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        root = psutil.Process(arguments.pid)
    except psutil.Error:
        print(f"loadtests.sampler: there is no process {arguments.pid}", file=sys.stderr)
        return 1
    _run(root, arguments.output, arguments.interval, stop)
    return 0


def _run(root: psutil.Process, output: Path, interval_s: float, stop: threading.Event) -> None:
    due_s, taken = time.monotonic(), 0
    with output.open("a") as file:
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            sample = sample_tree(root, taken % SAMPLES_PER_SOCKET_COUNT == 0)
            if not sample["processes"]:
                return
            file.write(json.dumps(sample) + "\n")
            file.flush()
            taken += 1
            due_s += interval_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
