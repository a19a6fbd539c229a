"""The sampler, as the program that it is, on real process trees."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from gserver.client import Client
from gserver.codecs import JsonLines
from loadtests.host.kernel_counters import noise
from loadtests.sampling.process_tree import Tree
from loadtests.sampling.sampler import Sampler
from tests.helpers.processes import GserverProcess, wait_for

# A parent with a child that ends when a line comes; another line makes a new child.
TREE = """
import os, sys, time
def child():
    if os.fork() == 0:
        sys.stdin.readline()
        os._exit(0)
child()
print("ready", flush=True)
os.wait()
child()
print("again", flush=True)
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
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children():
                    child.kill()
            process.kill()


class Running:
    """A sampler that writes a file; in `with`, it has ended at the end."""

    def __init__(self, output: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        command = [*wrapper, sys.executable, "-m", "loadtests", "sample", "--output", str(output)]
        self.output = output
        self.process = subprocess.Popen([*command, "--interval", "0.02", *arguments], stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def samples(self) -> list[dict[str, Any]]:
        if not self.output.exists():
            return []
        lines = self.output.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, count: int) -> None:
        before = len(self.samples())
        wait_for(lambda: len(self.samples()) >= before + count, f"{count} samples more")

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Its exit status, and what it said."""
        if number is not None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def test_a_sample_says_what_server_generator_kernel_and_sampler_have_used() -> None:
    with running_tree() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            sample = Sampler(Tree(server.pid), Tree(os.getpid()), port).take()

    assert sample is not None
    assert [each["pid"] for each in sample["processes"]][:1] == [server.pid]
    assert len(sample["processes"]) == 2
    assert sample["generator"][0]["pid"] == os.getpid()
    assert sample["kernel"]["accept_queue"] == 1
    assert sample["kernel"]["busy_s"] > 0
    assert sample["kernel"]["tcp_memory_bytes"] >= 0
    assert sample["sampler"]["cpu_s"] > 0
    assert "server" not in sample


def test_a_tree_that_forks_and_ends_is_followed_and_the_sampler_ends_with_it(tmp_path: Path) -> None:
    with running_tree() as tree, Running(tmp_path / "samples", "--pid", str(tree.pid)) as sampler:
        sampler.wait_for(2)
        assert tree.stdin is not None
        assert tree.stdout is not None
        tree.stdin.write("end\n")
        tree.stdin.flush()
        assert tree.stdout.readline() == "again\n"
        sampler.wait_for(2)
        tree.kill()
        ended = sampler.end()

    assert ended == (0, f"loadtests sample: process {tree.pid} has ended\n")
    samples = sampler.samples()
    times = [sample["time_s"] for sample in samples]
    assert times == sorted(times)
    first, last = [{each["pid"] for each in samples[at]["processes"]} for at in (0, -1)]
    assert len(first) == len(last) == 2
    assert first & last == {tree.pid}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_ends_without_a_word_when_told_to(tmp_path: Path, number: int) -> None:
    with running_tree() as tree, Running(tmp_path / "samples", "--pid", str(tree.pid)) as sampler:
        sampler.wait_for(1)

        assert sampler.end(number) == (0, "")


def test_what_a_sampler_had_written_when_it_was_killed_can_be_read(tmp_path: Path) -> None:
    with running_tree() as tree, Running(tmp_path / "samples", "--pid", str(tree.pid)) as sampler:
        sampler.wait_for(3)
        sampler.end(signal.SIGKILL)

        assert len(sampler.samples()) >= 3
        assert all(sample["processes"][0]["pid"] == tree.pid for sample in sampler.samples())


def test_what_is_dear_is_in_the_first_sample_and_when_asked_for(tmp_path: Path) -> None:
    with running_tree() as tree, Running(tmp_path / "samples", "--pid", str(tree.pid)) as sampler:
        sampler.wait_for(3)
        before = len(sampler.samples())
        sampler.process.send_signal(signal.SIGUSR1)
        sampler.wait_for(2)
        first, *others = sampler.samples()

        assert {"sockets", "memory_bytes"} <= set(first["processes"][0])
        assert any("memory_bytes" in each["processes"][0] for each in others[before - 1 :])
        assert "memory_bytes" not in others[0]["processes"][0]
        assert sampler.process.poll() is None


def test_each_plateau_has_a_reading_of_memory_even_if_the_budget_is_spent() -> None:
    sampler = Sampler(Tree(os.getpid()))
    sampler.take()
    sampler._memory.spent(time.monotonic(), 1e6)
    found = []
    for is_level in (False, True, True, False, True):
        sampler._plateau = SimpleNamespace(is_level=is_level, descriptors=9, add=lambda *_: None)  # type: ignore[assignment]
        sample = sampler.take()
        assert sample is not None
        found.append("memory_bytes" in sample["processes"][0])

    assert found == [False, True, False, False, True]


def test_what_gserver_has_counted_is_in_a_sample_as_long_as_it_can_be_had(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", "--stats-socket", "stats", workers=2) as server:
        options = ("--pid", str(server.process.pid), "--stats-socket", str(tmp_path / "stats"))
        with Client(server.address, JsonLines()) as client, Running(tmp_path / "samples", *options) as sampler:
            client.call({"type": "SUM", "a": 1, "b": 2})
            sampler.wait_for(2)
            counted = sampler.samples()[-1]["server"]
            (tmp_path / "stats").unlink()
            sampler.wait_for(3)
            last = sampler.samples()[-1]
            _, said = sampler.end(signal.SIGTERM)

    assert (counted["accepted"], counted["open"], counted["messages"], counted["workers"]) == (1, 1, 1, 2)
    assert "server" not in last
    assert said.count("cannot be read: No such file or directory\n") == 1


def test_a_generator_that_ends_is_said_once_and_sampling_goes_on(tmp_path: Path) -> None:
    with running_tree() as tree, running_tree() as generator:
        options = ("--pid", str(tree.pid), "--generator", str(generator.pid))
        with Running(tmp_path / "samples", *options) as sampler:
            sampler.wait_for(2)
            generator.kill()
            generator.wait()
            wait_for(lambda: sampler.samples()[-1]["generator"] == [], "the generator has ended")
            sampler.wait_for(2)
            status, said = sampler.end(signal.SIGTERM)

    assert (status, said) == (0, f"loadtests sample: the generator, process {generator.pid}, has ended\n")


def test_a_process_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with Running(tmp_path / "samples", "--pid", str(2**22 + 1)) as sampler:
        assert sampler.end() == (1, f"loadtests sample: there is no process {2**22 + 1}\n")


def test_a_disk_that_is_full_is_one_line() -> None:
    with running_tree() as tree, Running(Path("/dev/full"), "--pid", str(tree.pid)) as sampler:
        assert sampler.end() == (1, "loadtests sample: /dev/full: No space left on device\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_of_another_users_process_all_is_sampled_but_memory_and_that_is_told_once(tmp_path: Path) -> None:
    """Its modules are imported while it may still read them."""
    (tmp_path / "samples").touch()
    (tmp_path / "samples").chmod(0o666)
    program = (
        "import os, sys; os.setuid(65534); from loadtests.cli import main; sys.exit(main(['sample', *sys.argv[1:]]))"
    )
    with running_tree() as tree, open(tmp_path / "samples", "a") as output:
        command = [
            sys.executable,
            "-c",
            f"import shutil, loadtests.commands.sample, loadtests.cli; {program}",
            "--interval",
            "0.02",
        ]
        arguments = ["--pid", str(tree.pid), "--output", f"/proc/self/fd/{output.fileno()}"]
        sampler = subprocess.Popen(
            [*command, *arguments], stderr=subprocess.PIPE, text=True, pass_fds=[output.fileno()]
        )
        try:
            wait_for(lambda: (tmp_path / "samples").read_text().count("\n") > 2, "three samples")
        finally:
            sampler.terminate()
        _, told = sampler.communicate(timeout=60)
    root = json.loads((tmp_path / "samples").read_text().splitlines()[0])["processes"][0]

    assert told == f"loadtests sample: the memory of process {tree.pid} cannot be read: Permission denied\n"
    assert sampler.returncode == 0
    assert root["cpu_s"] > 0
    assert root["rss_bytes"] > 0
    assert root["memory_error"] == "Permission denied"
    assert not {"memory_bytes", "sockets"} & set(root)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either --pid or --connect must be given"),
        (("--pid", "0"), "argument --pid: '0', must be a number of at least 1"),
        (("--pid", "1"), "either --output or --listen must be given"),
        (("--pid", "1", "--listen", "unix:x"), "argument --listen: 'unix:x', must be HOST:PORT or [V6]:PORT"),
        (("--connect", "a:1", "--listen", "b:2"), "--connect needs --output"),
        (("--pid", "1", "--output", "x", "--interval", "nan"), "must be a number of seconds from 0.01 to 3600"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "loadtests", "sample", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith(says)


def test_noise_is_what_neither_server_nor_generator_nor_sampler_used() -> None:
    def sample(time_s: float, busy_s: float, server_s: float, generator_s: float, own_s: float) -> dict[str, Any]:
        return {
            "time_s": time_s,
            "processes": [{"pid": 1, "started_s": 5, "cpu_user_s": server_s, "cpu_system_s": server_s}],
            "generator": [{"pid": 2, "started_s": 6, "cpu_user_s": generator_s, "cpu_system_s": 0.0}],
            "kernel": {"busy_s": busy_s},
            "sampler": {"cpu_s": own_s},
        }

    first = sample(100.0, 1000.0, 10.0, 20.0, 1.0)

    assert noise(first, sample(110.0, 1015.0, 12.0, 25.0, 2.0)) == pytest.approx((15 - 4 - 5 - 1) / 10)
    assert noise(first, sample(110.0, 1000.0, 12.0, 25.0, 2.0)) == 0.0
    assert noise(first, first) is None


def test_what_children_of_the_server_used_that_ended_is_no_noise() -> None:
    def sample(time_s: float, busy_s: float, children_s: float) -> dict[str, Any]:
        server = {"pid": 1, "parent_pid": 0, "started_s": 5, "cpu_s": 1.0, "children_cpu_s": children_s}
        return {"time_s": time_s, "processes": [server], "kernel": {"busy_s": busy_s}, "sampler": {"cpu_s": 0.0}}

    assert noise(sample(100.0, 50.0, 3.0), sample(110.0, 58.0, 9.0)) == pytest.approx(0.2)


def test_of_two_hosts_the_noisier_one_counts() -> None:
    def sample(time_s: float, there_s: float, here_s: float) -> dict[str, Any]:
        return {
            "time_s": time_s,
            "processes": [{"pid": 1, "cpu_user_s": there_s / 2, "cpu_system_s": 0.0}],
            "generator": [{"pid": 1, "cpu_user_s": here_s / 4, "cpu_system_s": 0.0}],
            "kernel": {"busy_s": there_s},
            "sampler": {"cpu_s": 0.0},
            "generator_host": {"busy_s": here_s, "sampler_cpu_s": 0.0},
        }

    assert noise(sample(0.0, 0.0, 0.0), sample(10.0, 8.0, 4.0)) == pytest.approx(0.4)
    assert noise(sample(0.0, 0.0, 0.0), sample(10.0, 2.0, 8.0)) == pytest.approx(0.6)
