"""Samples sent by another machine over TCP, and converted to this machine's clock."""

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

from loadtests.sampling import remote_feed as remote
from loadtests.sampling.remote_feed import Broadcast, Feed, FeedLost
from loadtests.sampling.wakeup import Wakeup
from tests.helpers.processes import wait_for

AHEAD_S = 100_000
can_shift_clocks = bool(os.getuid() == 0 and shutil.which("unshare") and Path("/proc/self/ns/time").exists())
in_another_time = pytest.mark.skipif(not can_shift_clocks, reason="needs root, unshare and time namespaces")


# A sampler that sends, as a process


class Sampling:
    """`sample --pid PID --listen`, with a monotonic clock that is `ahead_s` ahead."""

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
        printed = self.process.stderr.readline()
        found = re.fullmatch(r"loadtests sample: listening at 127\.0\.0\.1:(\d+)\n", printed)
        assert found, printed
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
        # On a busy host the relay, which lets others run first, may take its own part of the sample a second later.
        assert 0 <= sample["generator_host"]["time_s"] - sample["time_s"] < AHEAD_S / 2


def test_several_runs_may_read_and_all_receive_the_end(tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "other"]
    with something_to_sample() as server, Sampling(server.pid) as sampling, contextlib.ExitStack() as stack:
        relays = [stack.enter_context(relaying(sampling.address, output)) for output in outputs]
        for output in outputs:
            wait_for_samples(output, 3)
        server.kill()
        ended = [(relay.communicate(timeout=60)[1], relay.returncode) for relay in relays]

    assert ended == [(f"loadtests sample: process {server.pid} has ended\n", 0)] * 2


def test_the_end_arrives_though_a_ping_was_not_read() -> None:
    """A close with unread data would reset the connection, and the kernel then drops what it has not sent."""
    with Wakeup() as wakeup:
        with Broadcast(("127.0.0.1", 0), wakeup) as broadcast:
            reader = socket.create_connection(broadcast.address, timeout=30)
            wakeup.wait_once(time.monotonic() + 30)
            reader.sendall(b'{"ping": 1}\n')
            broadcast.end("it is over")
        received = b"".join(iter(lambda: reader.recv(4096), b""))
        reader.close()

    assert received.splitlines()[-1] == b'{"end": "it is over"}'


def test_a_killed_sampler_is_one_line_and_its_samples_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "samples"
    with (
        something_to_sample() as server,
        Sampling(server.pid) as sampling,
        relaying(sampling.address, output) as relay,
    ):
        wait_for_samples(output, 3)
        sampling.process.kill()
        _, printed = relay.communicate(timeout=60)

    shown = f"127.0.0.1:{sampling.address[1]}"
    assert (printed, relay.returncode) == (f"loadtests sample: the sampler at {shown} is gone\n", 1)
    assert len(samples_of(output)) >= 3


def test_a_sampler_that_is_stopped_sends_its_end_to_its_readers(tmp_path: Path) -> None:
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


def test_no_sampler_at_the_address_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with relaying(unused.getsockname(), tmp_path / "samples") as relay:
            _, printed = relay.communicate(timeout=60)

    assert printed == f"loadtests sample: no sampler at 127.0.0.1:{unused_port(printed)}: Connection refused\n"
    assert relay.returncode == 1


def unused_port(printed: str) -> str:
    return printed.rpartition(": ")[0].rpartition(":")[2]


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "loadtests", "sample", "--pid", str(os.getpid()), "--listen", address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stderr) == (1, f"loadtests sample: {address}: Address already in use\n")


# The sending side, in this process


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
            self.wakeup.wait_once(time.monotonic() + 0.01)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def giving() -> Iterator[Giving]:
    made = Giving()
    yield made
    made.close()


def test_a_reader_that_does_not_receive_is_disconnected_and_others_lose_nothing(giving: Giving) -> None:
    sample = {"time_s": 1.0, "padding": "x" * 50_000}
    with giving.connect() as deaf, socket.create_connection(giving.broadcast.address, 5) as reader:
        giving.turn_until(lambda: len(giving.broadcast._readers) == 2)
        received, sent = 0, 0
        while len(giving.broadcast._readers) == 2:
            giving.broadcast.send(sample)
            sent += 1
            assert sent < 2000
            giving.wakeup.wait_once(0.0)
            received += len(reader.recv(1 << 20))
        giving.turn_until(lambda: not any(each.waiting for each in giving.broadcast._readers.values()))
        giving.broadcast.end("enough")
        while not (data := reader.recv(1 << 20)).endswith(b'{"end": "enough"}\n'):
            received += len(data)
        received += len(data)
        deaf.close()

    expected = len(b'{"samples": 1}\n{"end": "enough"}\n') + sent * len(json.dumps({"sample": sample}) + "\n")
    assert received == expected


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"pong": 1}\n', b"x" * 2000, b"\xff\n"])
def test_a_reader_that_sends_anything_but_pings_is_disconnected(giving: Giving, sent: bytes) -> None:
    with giving.connect() as stranger:
        stranger.sendall(sent)
        giving.turn_until(lambda: not giving.broadcast._readers)


def test_a_reader_above_the_limit_is_disconnected(giving: Giving) -> None:
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(socket.create_connection(giving.broadcast.address, 5))
            for _ in range(remote.MAX_READERS + 1)
        ]
        giving.turn_until(lambda: len(giving.broadcast._readers) == remote.MAX_READERS)
        giving.wakeup.wait_once(time.monotonic() + 0.05)

        assert readers[-1].recv(100) == b""


# The receiving side, in this process


@contextlib.contextmanager
def feed_of(sent: bytes) -> Iterator[Feed]:
    """The feed of a server that sends these bytes to its first client, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid = os.fork()
        if pid == 0:
            peer, _ = server.accept()
            peer.sendall(sent)
            time.sleep(60)
            os._exit(0)
        try:
            with Wakeup() as wakeup, Feed(server.getsockname(), wakeup) as feed:
                yield feed
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-x\r\n", b"[]\n", b"{}\n", b'{"pong": 99, "time_s": 1}\n', b'{"sample": {"x": 1}}\n']
)
def test_another_program_is_one_line(sent: bytes) -> None:
    with feed_of(sent) as feed, pytest.raises(FeedLost, match=r"^the program at 127\.0\.0\.1:\d+ is no sampler$"):
        list(feed)


def test_another_version_is_one_line() -> None:
    with feed_of(b'{"samples": 2}\n') as feed, pytest.raises(FeedLost, match=r"has version 2, this one has 1$"):
        list(feed)


def test_a_sampler_that_falls_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.1)
    monkeypatch.setattr(remote, "PING_INTERVAL_S", 0.05)
    with feed_of(b'{"samples": 1}\n') as feed, pytest.raises(FeedLost, match=r"has sent nothing for 0\.1 s$"):
        list(feed)
