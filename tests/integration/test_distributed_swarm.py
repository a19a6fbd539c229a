"""A swarm on several hosts, started by its commands. The hosts are network namespaces; one worker has another clock."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from loadtests.host.kernel_counters import network as network_counters
from loadtests.results.store import Run, load_recording, load_run
from tests.helpers.namespaces import Network, network
from tests.helpers.processes import wait_for

pytestmark = pytest.mark.long

PATIENCE_S = 120.0
# Each connection retransmits after 0.2 s, 0.4 s, 0.8 s and so on: so many take a second or two without a network.
SENT_AGAIN = 100
OTHER_CLOCK = ("unshare", "-T", "--monotonic", "1000", "--fork")


class Field:
    """A server and a sampler on one host, a run on a second one, and two workers on a third."""

    def __init__(self, net: Network, folder: Path, stack: ExitStack, seconds: int) -> None:
        self.net, self._folder, self._stack = net, folder, stack
        python = (sys.executable, "-m")
        server, master = net.address("server"), net.address("master")
        stats = str(folder / "stats")
        served = self._start("server", *python, "gserver", "json", "-b", f"{server}:3001", "--stats-socket", stats)
        self.await_log("server", "Worker ready")
        at = ("--pid", str(served.pid), "--stats-socket", stats, "--listen", f"{server}:3002")
        self._start("server", *python, "loadtests", "sample", *at, log="sampler")
        self.await_log("sampler", "listening at")
        there = ("--host", f"tcp://{server}:3001", "--sampler", f"{server}:3002")
        mastered = ("--master", "--bind", f"{master}:3003", "--expect-workers", "2", "--results", str(folder / "runs"))
        run = (*python, "loadtests", "run", "smoke", "--duration", str(seconds), *there, *mastered)
        self.run = self._start("master", *run)
        worker = (*python, "loadtests", "worker", "--master", f"{master}:3003")
        self.worker = self._start("worker", *worker)
        self.other = self._start("worker", *OTHER_CLOCK, *worker, log="other")

    def _start(self, host: str, *words: str, log: str = "") -> subprocess.Popen[bytes]:
        with (self._folder / f"{log or host}.log").open("wb") as output:
            process = subprocess.Popen(self.net.command(host, *words), stdout=output, stderr=output)
        self._stack.callback(end, process)
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def await_log(self, name: str, words: str) -> None:
        wait_for(lambda: re.search(words, self.log(name)) is not None, f"{words!r} of the {name}")

    def end(self) -> Run:
        self.run.wait(PATIENCE_S)
        said = self.log("master")
        assert "Traceback" not in said
        (folder,) = (self._folder / "runs").iterdir()
        return load_run(folder)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants: `ip netns exec` becomes the program, but a worker has a Locust below it."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    finally:
        for each in below:
            if each.is_running():
                each.kill()
        process.kill()
        process.wait()


@pytest.fixture
def field(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Field]:
    """The hosts, with a run that measures for four seconds, or for as many as the parameter."""
    with network("master", "server", "worker") as net, ExitStack() as stack:
        yield Field(net, tmp_path, stack, getattr(request, "param", 4))


def test_hosts_with_different_clocks_make_one_run(field: Field) -> None:
    """The results of the worker with a clock 1,000 s ahead are in the same seconds as all others."""
    run = field.end()
    recording = load_recording(run.path / "client.json")
    start, finish = run.phases["measure"]
    figures = {figure.name: figure.value for figure in run.figures}

    assert run.errors == {}
    assert (figures["sockets_peak"], figures["connects_ok"]) == (50, 50)
    assert figures["throughput"] == pytest.approx(500, rel=0.02)
    assert figures["server_cpu_per_exchange"] > 0
    assert len(recording.health) == 3
    assert all(min(health) > start - 60 and max(health) < finish + 60 for health in recording.health.values())
    assert len([process for process, health in recording.health.items() if health[start]["sockets"] == 25]) == 2
    assert not [reason for reason in run.verdict.reasons if "counted" in reason or "Worker" in reason], run.verdict


@pytest.mark.longhaul
def test_a_killed_worker_is_reported_and_figures_are_of_what_arrived(field: Field) -> None:
    field.await_log("master", "measure")
    for process in psutil.Process(field.worker.pid).children(recursive=True):
        process.kill()
    run = field.end()

    assert field.run.returncode != 0
    assert run.verdict.state == "incomplete"
    assert "s into the measured phase; its last report is missing" in run.verdict.reasons[0]
    recording = load_recording(run.path / "client.json")
    done = recording.total(recording.exchange_series()).outcomes
    exchanges = run.figure("exchanges_ok")
    assert exchanges is not None
    assert exchanges.value == done["ok"]


@pytest.mark.longhaul
@pytest.mark.parametrize("field", [16], indirect=True)
def test_a_network_that_is_down_for_some_seconds_loses_no_results(field: Field) -> None:
    """Both workers are behind one link: they continue, report later, and their slow exchanges count."""
    field.await_log("master", "measure")
    before = network_counters(field.worker.pid)["retransmits"]
    field.net.plug("worker", False)
    wait_for(lambda: network_counters(field.worker.pid)["retransmits"] > before + SENT_AGAIN, "segments sent again")
    field.net.plug("worker", True)
    run = field.end()
    recording = load_recording(run.path / "client.json")

    assert recording.lost() == recording.missing() == []
    assert not [reason for reason in run.verdict.reasons if "Worker process" in reason], run.verdict
    assert recording.sockets()[run.phases["measure"][1] - 1] == 50
    assert any("TCP segments were sent again in the measured phase" in warning for warning in run.warnings), (
        run.warnings
    )
    assert field.worker.wait(PATIENCE_S) == field.other.wait(PATIENCE_S) == 0


@pytest.mark.longhaul
def test_workers_print_one_line_when_their_master_dies(field: Field) -> None:
    field.await_log("master", "measure")
    for process in psutil.Process(field.run.pid).children(recursive=True):
        if "locust" in " ".join(process.cmdline()):
            process.kill()

    assert field.run.wait(PATIENCE_S) == 1
    for worker, name in ((field.worker, "worker"), (field.other, "other")):
        assert worker.wait(PATIENCE_S) == 1
        assert "has been silent for 20 s" in field.log(name)
        assert "Traceback" not in field.log(name)
