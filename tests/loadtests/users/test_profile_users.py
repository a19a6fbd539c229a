"""Each profile, with a reduced load, does what its description says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.results.store import Run, load_run

pytestmark = pytest.mark.longhaul

PATIENCE_S = 180.0
OWN = """
from locust import task
from gserver.codecs import Raw
from loadtests.users import TcpUser

class Own(TcpUser):
    codec = Raw

    @task
    def hello(self):
        self.exchange("hello", b"hello", b"hello")
"""


def run(results: Path, *arguments: str) -> Run:
    command = [sys.executable, "-m", "loadtests", "run", *arguments, "--results", str(results)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "Traceback" not in ended.stderr
    (folder,) = results.iterdir()
    return load_run(folder)


def value(run: Run, name: str) -> float:
    figure = run.figure(name)
    assert figure is not None, name
    return figure.value


def assert_all_accounted_for(run: Run) -> None:
    assert run.errors == {}
    assert run.verdict.state in ("valid", "generator-bound", "noisy-host"), run.verdict


def test_churn_connects_for_each_exchange(tmp_path: Path) -> None:
    churned = run(tmp_path, "churn", "--users", "20", "--duration", "3")

    assert_all_accounted_for(churned)
    assert abs(value(churned, "connects_ok") - value(churned, "exchanges_ok")) <= 20


def test_slow_readers_take_two_seconds(tmp_path: Path) -> None:
    slow = run(tmp_path, "slow-readers", "--users", "5", "--duration", "8")

    assert_all_accounted_for(slow)
    assert value(slow, "service_p50") > 1.5e6


def test_a_spike_is_measured_with_all_its_sockets(tmp_path: Path) -> None:
    spike = run(tmp_path, "spike", "--users", "200", "--duration", "7")

    assert_all_accounted_for(spike)
    assert value(spike, "sockets_peak") == 200


def test_a_climb_is_measured_on_its_way(tmp_path: Path) -> None:
    climb = run(tmp_path, "ramp", "--users", "100", "--duration", "6")

    assert_all_accounted_for(climb)
    assert 0.3 < value(climb, "throughput") / 100 < 0.8


def test_a_search_finds_the_most_that_holds_and_measures_there(tmp_path: Path) -> None:
    """The best step is measured at the end, whatever this host can serve."""
    search = run(tmp_path, "find-limit", "--users", "64", "--duration", "3")

    assert_all_accounted_for(search)
    assert value(search, "limit_sockets") <= 64
    assert value(search, "throughput") == pytest.approx(20 * value(search, "limit_sockets"), rel=0.05)


def test_users_of_a_file_are_used(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = run(
        tmp_path / "runs",
        "echo",
        "--users",
        "10",
        "--duration",
        "2",
        "--file",
        str(tmp_path / "own.py"),
        "--user",
        "Own",
    )

    assert_all_accounted_for(own)
    assert own.figure("service_hello_p50")


@pytest.mark.parametrize("kib", [2, 16])
def test_memory_of_a_connection_is_what_the_server_allocates_for_it(tmp_path: Path, kib: int) -> None:
    """In addition to the memory of asyncio, which is measured with a server that allocates nothing."""
    bare, holding = (held_by(tmp_path / str(each), each * 1024) for each in (0, kib))

    assert holding - bare == pytest.approx(kib, rel=0.1)


def held_by(results: Path, size: int) -> float:
    """KiB per connection, by the profile."""
    command = [sys.executable, "-m", "tests.helpers.holding", str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = f"tcp://127.0.0.1:{server.stdout.readline().strip()}"
        try:
            message = ("--message", "ping", "--expect", "ping")
            measured = run(results, "memory", "--host", address, "--server-pid", str(server.pid), *message)
        finally:
            server.kill()
    assert measured.withheld == {}
    assert measured.figure("server_memory_growth") is None
    return value(measured, "server_rss_per_socket")


def test_ten_thousand_sockets_are_held_and_used(tmp_path: Path) -> None:
    held = run(tmp_path, "c10k")

    assert held.errors == {}
    assert (value(held, "sockets_peak"), value(held, "sockets_used")) == (10_000, 10_000)
    slope = held.figure("server_rss_per_socket")
    assert slope is not None
    assert slope.low is not None
    assert slope.high is not None
    assert 0 < slope.low < slope.value < slope.high < 4
