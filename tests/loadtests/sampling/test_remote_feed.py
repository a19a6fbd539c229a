"""Samples of a server on its own machine: over TCP, on another clock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.sampling import remote_feed as remote
from loadtests.sampling.remote_feed import Broadcast, ClockOffset, Feed, FeedLost
from loadtests.sampling.wakeup import Wakeup
from tests.helpers.processes import wait_for

AHEAD_S = 100_000
can_shift_clocks = bool(os.getuid() == 0 and shutil.which("unshare") and Path("/proc/self/ns/time").exists())
in_another_time = pytest.mark.skipif(not can_shift_clocks, reason="needs root, unshare and time namespaces")


# Clocks


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0.00001, 0.5), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_an_offset_is_never_wrong_by_more_than_it_says(offset_s: float, asked: list[tuple[float, float]]) -> None:
    """However unevenly a question and its answer share the time that both take."""
    clock, now_s = ClockOffset(), 1000.0
    for took_s, share in asked:
        clock.add(now_s, now_s + took_s * share + offset_s, now_s + took_s)
        now_s += took_s

    assert abs(clock.offset_s - offset_s) <= clock.uncertainty_s + 1e-6
    assert clock.uncertainty_s == pytest.approx(min(took for took, _ in asked) / 2, rel=1e-3, abs=1e-6)


def test_answers_of_long_ago_are_forgotten_for_clocks_drift() -> None:
    clock = ClockOffset(window_s=60.0)
    clock.add(0.0, 5.0, 0.0001)
    clock.add(100.0, 105.1, 100.2)

    assert clock.offset_s == pytest.approx(5.0)
    assert clock.uncertainty_s == pytest.approx(0.1)


# A sampler that gives, as the program that it is


class Sampling:
    """`sample --pid PID --listen`, in another time if asked."""

    def __init__(self, pid: int, *options: str, ahead_s: int = 0) -> None:
        wrapper = ["unshare", "-T", "--monotonic", str(ahead_s), "--fork", "--kill-child"] if ahead_s else []
        command = [
            sys.executable,
            "-m",
            "loadtests",
            "sample",
            "--pid",
            str(pid),
            "--interval",
            "0.02",
            *options,
        ]
        self.process = subprocess.Popen(
            [*wrapper, *command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Sampling:
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.fullmatch(r"loadtests sample: listening at 127\.0\.0\.1:(\d+)\n", said)
        assert found, said
        self.address = ("127.0.0.1", int(found[1]))
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def something_to_sample() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def relaying(address: tuple[str, int], output: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`sample --connect`."""
    command = [sys.executable, "-m", "loadtests", "sample", "--connect", f"{address[0]}:{address[1]}", *options]
    process = subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def samples_of(output: Path) -> list[dict[str, Any]]:
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_for_samples(output: Path, count: int) -> None:
    wait_for(lambda: len(samples_of(output)) >= count, f"{count} samples")


@in_another_time
def test_samples_of_another_clock_are_written_on_this_one(tmp_path: Path) -> None:
    output = tmp_path / "samples"
    with something_to_sample() as server, Sampling(server.pid, ahead_s=AHEAD_S) as sampling:
        before_s = time.monotonic()
        with relaying(sampling.address, output, "--generator", str(os.getpid())) as relay:
            wait_for_samples(output, 10)
            after_s = time.monotonic()
            samples = samples_of(output)
            relay.send_signal(signal.SIGTERM)
            assert (relay.communicate(timeout=60)[1], relay.returncode) == ("", 0)

    assert all(sample["clock"]["offset_s"] == pytest.approx(AHEAD_S, abs=0.001) for sample in samples)
    assert all(sample["clock"]["uncertainty_s"] < 0.001 for sample in samples)
    assert before_s < samples[0]["time_s"] < samples[9]["time_s"] < after_s
    for sample in samples:
        assert sample["processes"][0]["pid"] == server.pid
        assert sample["generator"][0]["pid"] == os.getpid()
        assert sample["generator_host"]["busy_s"] > 0
        assert 0 <= sample["generator_host"]["time_s"] - sample["time_s"] < 1


def test_several_runs_may_read_and_all_are_told_the_end(tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "other"]
    with something_to_sample() as server, Sampling(server.pid) as sampling, contextlib.ExitStack() as stack:
        relays = [stack.enter_context(relaying(sampling.address, output)) for output in outputs]
        for output in outputs:
            wait_for_samples(output, 3)
        server.kill()
        ended = [(relay.communicate(timeout=60)[1], relay.returncode) for relay in relays]

    assert ended == [(f"loadtests sample: process {server.pid} has ended\n", 0)] * 2


def test_a_sampler_that_is_killed_is_one_line_and_what_it_had_given_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "samples"
    with (
        something_to_sample() as server,
        Sampling(server.pid) as sampling,
        relaying(sampling.address, output) as relay,
    ):
        wait_for_samples(output, 3)
        sampling.process.kill()
        _, said = relay.communicate(timeout=60)

    shown = f"127.0.0.1:{sampling.address[1]}"
    assert (said, relay.returncode) == (f"loadtests sample: the sampler at {shown} is gone\n", 1)
    assert len(samples_of(output)) >= 3


def test_a_sampler_that_is_told_to_stop_tells_its_readers(tmp_path: Path) -> None:
    output = tmp_path / "samples"
    with (
        something_to_sample() as server,
        Sampling(server.pid) as sampling,
        relaying(sampling.address, output) as relay,
    ):
        wait_for_samples(output, 1)
        sampling.process.terminate()

        assert relay.communicate(timeout=60)[1] == "loadtests sample: it was stopped by a signal\n"
        assert (relay.returncode, sampling.process.wait(60)) == (0, 0)


def test_nobody_at_the_address_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with relaying(unused.getsockname(), tmp_path / "samples") as relay:
            _, said = relay.communicate(timeout=60)

    assert said == f"loadtests sample: no sampler at 127.0.0.1:{unused_port(said)}: Connection refused\n"
    assert relay.returncode == 1


def unused_port(said: str) -> str:
    return said.rpartition(": ")[0].rpartition(":")[2]


def test_an_address_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "loadtests", "sample", "--pid", str(os.getpid()), "--listen", address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stderr) == (1, f"loadtests sample: {address}: Address already in use\n")


# The giving side, in this process


class Giving:
    """A broadcast and its loop."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.wakeup = self._stack.enter_context(Wakeup())
        self.broadcast = self._stack.enter_context(Broadcast(("127.0.0.1", 0), self.wakeup))

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.broadcast.address, 5)
        self.turn_until(lambda: len(self.broadcast._readers) > 0)
        return sock

    def turn_until(self, fact: Any) -> None:
        deadline = time.monotonic() + 5
        while not fact():
            assert time.monotonic() < deadline
            self.wakeup.turn(time.monotonic() + 0.01)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def giving() -> Iterator[Giving]:
    made = Giving()
    yield made
    made.close()


def test_a_reader_that_takes_nothing_is_given_up_and_others_lose_nothing(giving: Giving) -> None:
    sample = {"time_s": 1.0, "padding": "x" * 50_000}
    with giving.connect() as deaf, socket.create_connection(giving.broadcast.address, 5) as reader:
        giving.turn_until(lambda: len(giving.broadcast._readers) == 2)
        received, sent = 0, 0
        while len(giving.broadcast._readers) == 2:
            giving.broadcast.send(sample)
            sent += 1
            assert sent < 2000
            giving.wakeup.turn(0.0)
            received += len(reader.recv(1 << 20))
        giving.turn_until(lambda: not any(each.waiting for each in giving.broadcast._readers.values()))
        giving.broadcast.end("enough")
        while not (data := reader.recv(1 << 20)).endswith(b'{"end": "enough"}\n'):
            received += len(data)
        received += len(data)
        deaf.close()

    expected = len(b'{"samples": 1}\n{"end": "enough"}\n') + sent * len(json.dumps({"sample": sample}) + "\n")
    assert received == expected


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"pong": 1}\n', b"x" * 2000, b"\xff\n"])
def test_who_speaks_otherwise_is_dropped(giving: Giving, said: bytes) -> None:
    with giving.connect() as stranger:
        stranger.sendall(said)
        giving.turn_until(lambda: not giving.broadcast._readers)


def test_no_more_readers_than_it_can_serve_are_let_in(giving: Giving) -> None:
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(socket.create_connection(giving.broadcast.address, 5))
            for _ in range(remote.MAX_READERS + 1)
        ]
        giving.turn_until(lambda: len(giving.broadcast._readers) == remote.MAX_READERS)
        giving.wakeup.turn(time.monotonic() + 0.05)

        assert readers[-1].recv(100) == b""


# The taking side, in this process


@contextlib.contextmanager
def heard(said: bytes) -> Iterator[Feed]:
    """The feed of somebody who says this to whoever connects, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid = os.fork()
        if pid == 0:
            peer, _ = server.accept()
            peer.sendall(said)
            time.sleep(60)
            os._exit(0)
        try:
            with Wakeup() as wakeup, Feed(server.getsockname(), wakeup) as feed:
                yield feed
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-x\r\n", b"[]\n", b"{}\n", b'{"pong": 99, "time_s": 1}\n', b'{"sample": {"x": 1}}\n']
)
def test_what_is_no_sampler_is_one_line(said: bytes) -> None:
    with heard(said) as feed, pytest.raises(FeedLost, match=r"^what is at 127\.0\.0\.1:\d+ is no sampler$"):
        list(feed)


def test_another_version_is_one_line() -> None:
    with heard(b'{"samples": 2}\n') as feed, pytest.raises(FeedLost, match=r"speaks version 2, this one 1$"):
        list(feed)


def test_a_machine_that_says_nothing_any_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.1)
    monkeypatch.setattr(remote, "PING_INTERVAL_S", 0.05)
    with heard(b'{"samples": 1}\n') as feed, pytest.raises(FeedLost, match=r"has said nothing for 0\.1 s$"):
        list(feed)
