"""The sampler, on real process trees."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from loadtests.sampler import sample_tree
from tests.helpers.processes import wait_for

# A parent with three sockets, and a child that ends when a line comes.
TREE = """
import os, socket, sys
if os.fork() == 0:
    sys.stdin.readline()
    os._exit(0)
sockets = [socket.socket() for _ in range(3)]
print("ready", flush=True)
os.wait()
print("alone", flush=True)
import time
time.sleep(60)
"""


@contextlib.contextmanager
def running_tree() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TREE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()


def sampler_command(pid: int, output: Path) -> list[str]:
    arguments = ["--pid", str(pid), "--output", str(output), "--interval", "0.02"]
    return [sys.executable, "-m", "loadtests.sampler", *arguments]


def read_samples(path: Path) -> list[dict[str, list[dict[str, float]]]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_a_sample_has_every_process_and_what_it_costs() -> None:
    with running_tree() as process:
        sample = sample_tree(psutil.Process(process.pid))

    parent, child = sample["processes"]
    assert parent["pid"] == process.pid
    assert parent["sockets"] == 3
    assert child["sockets"] == 0
    for each in (parent, child):
        assert each["rss_bytes"] > 2**20
        assert each["descriptors"] >= 3
        assert each["cpu_user_s"] + each["cpu_system_s"] >= 0
        assert each["switches_voluntary"] >= 0


def test_sockets_are_counted_when_asked_for() -> None:
    sample = sample_tree(psutil.Process(), count_sockets=False)

    assert "sockets" not in sample["processes"][0]


def test_a_tree_that_has_ended_is_an_empty_sample() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        root = psutil.Process(process.pid)
        process.communicate(b"\n")

    assert sample_tree(root)["processes"] == []


def test_the_sampler_sees_a_child_end_goes_on_and_ends_with_the_tree(tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    with running_tree() as tree:
        sampler = subprocess.Popen(sampler_command(tree.pid, output))
        wait_for(lambda: output.exists() and len(read_samples(output)) >= 2, "two samples")
        assert tree.stdin is not None
        tree.stdin.write("end\n")
        tree.stdin.flush()
        wait_for(lambda: len(read_samples(output)[-1]["processes"]) == 1, "a sample of the parent alone")

        assert sampler.poll() is None

    assert sampler.wait(20) == 0
    times = [float(sample["time_s"]) for sample in read_samples(output)]  # type: ignore[arg-type]
    assert times == sorted(times)


def test_the_sampler_ends_at_term(tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    with running_tree() as tree:
        sampler = subprocess.Popen(sampler_command(tree.pid, output))
        wait_for(lambda: output.exists() and bool(read_samples(output)), "a sample")
        sampler.send_signal(signal.SIGTERM)

        assert sampler.wait(20) == 0


def test_a_process_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    command = sampler_command(2**22 + 1, tmp_path / "samples.jsonl")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert ended.returncode == 1
    assert ended.stderr == f"loadtests.sampler: there is no process {2**22 + 1}\n"


def test_open_sockets_of_this_process_are_counted() -> None:
    before = sample_tree(psutil.Process())["processes"][0]["sockets"]
    with socket.socket(), socket.socket():
        assert sample_tree(psutil.Process())["processes"][0]["sockets"] == before + 2
