"""Hostile clients of the control socket and of the metrics, by the thousand: no worker notices, and both survive."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

from gserver.control.client import ControlClient, Unreachable
from gserver.control.control_socket import MAX_CLIENTS
from tests.helpers.hostile import Attack
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for
from tests.helpers.scraping import metrics_address, metrics_pid, read_metrics, request, total
from tests.helpers.steady import Steady
from tests.helpers.system_calls import WORKER_CALLS_A_SECOND, traced

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

pytestmark = [pytest.mark.long, pytest.mark.alone]

CTL = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]
#: For each of the two addresses.
MANY = {"silent": 1000, "dripping": 200, "garbage": 50, "over_long": 20, "resetting": 20, "half_closing": 20}
FLOOD = {"flooding": 4, "not_reading": 20, "empty": 10}
ATTACK_S = 5.0
WORKERS = 2


class Target(GserverProcess):
    """A server with a control socket and metrics, and what its operators and scrapers get in an attack."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.path = str(folder / "ctl")
        given = ("--control-socket", self.path, "--metrics-bind", "127.0.0.1:0")
        super().__init__(folder, "echo", *given, *arguments, workers=WORKERS)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def operate(self) -> int:
        """Request the status until it is answered; return the number of attempts."""
        attempts = 0

        def is_answered() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                with ControlClient(self.path) as client:
                    return bool(client.call("status")["ready"])
            except Unreachable:  # so many others came meanwhile that this client had to go
                return False

        wait_for(is_answered, "an operator gets an answer")
        return attempts

    def scrape(self, source: str) -> dict[str, float]:
        """Return the metrics, fetched from an address of which no attack comes."""
        return read_metrics(metrics_address(self), source)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path) as made:
        made.wait_for_log("Metrics process ready")
        wait_for(lambda: request(metrics_address(made), "/readyz").status == 200, "all serve")
        yield made


@contextlib.contextmanager
def attacked(server: Target, **counts: int) -> Iterator[None]:
    """Attack both addresses; afterwards check that the attacks happened, and that both survived."""
    metrics, arbiter = metrics_pid(server), psutil.Process(server.process.pid)
    files = arbiter.num_fds()
    with Attack(server.path, **counts) as control, Attack(metrics_address(server), **counts) as scraped:
        yield
        assert arbiter.num_fds() <= files + MAX_CLIENTS + WORKERS
        assert psutil.Process(metrics).num_fds() < 120
    for attack in (control, scraped):
        assert sum(attack.report["closed"].values()) > sum(counts.values())
    server.operate()
    assert request(metrics_address(server), "/livez").status == 200
    assert metrics_pid(server) == metrics, "the metrics process has ended"
    wait_for(lambda: arbiter.num_fds() <= files + 1, "the arbiter has closed their connections")


def lines_of_workers(server: Target) -> list[str]:
    pids = "|".join(map(str, server.serving_pids()))
    return re.findall(rf"^.*\[(?:{pids})\] \[.*$", server.log, re.MULTILINE)


def test_no_exchange_fails_and_no_worker_notices(server: Target) -> None:
    workers, lines_before = server.serving_pids(), lines_of_workers(server)
    steady = Steady(server.address, 20)
    replies = len(steady.ask_for(0.1))
    with attacked(server, **MANY, **FLOOD):
        replies += len(steady.ask_for(ATTACK_S))
        server.operate()
        for number in range(10):
            server.scrape(f"127.0.0.{number + 3}")
        steady.close()
        assert server.serving_pids() == workers
        assert lines_of_workers(server) == lines_before
        metrics = server.scrape("127.0.0.99")
        server.kill_worker(workers[0])  # supervision goes on
        with server.connect() as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"

    assert steady.failures == []
    assert total(metrics, "gserver_messages_total") == replies
    assert total(metrics, "gserver_errors_total") == total(metrics, "gserver_worker_restarts_total") == 0
    assert metrics["gserver_workers_stuck"] == 0
    assert max(value for name, value in metrics.items() if name.startswith("gserver_worker_lag_max_seconds")) < 1
    assert "Traceback" not in server.log


@pytest.mark.longhaul
def test_an_idle_worker_makes_no_more_system_calls_in_an_attack(server: Target) -> None:
    workers = server.serving_pids()
    cpu_before = cpu_s(workers)
    with attacked(server, **MANY, **FLOOD), traced(workers) as calls:
        began = time.monotonic()
        time.sleep(ATTACK_S)
        seconds = time.monotonic() - began

    for pid in workers:
        lasted = max(seconds, calls[pid][-1] - calls[pid][0])
        assert len(calls[pid]) <= WORKER_CALLS_A_SECOND * (lasted + 1)
    assert cpu_s(workers) - cpu_before < 0.5


def cpu_s(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def test_a_client_that_waits_for_its_reply_does_not_give_way_to_others(tmp_path: Path) -> None:
    with Target(tmp_path, "--reload-settle", "10") as server:
        server.wait_for_log("Metrics process ready")
        command = [*CTL, "-s", server.path, "reload"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reloading:
            server.wait_for_log("Reloading")
            with Attack(server.path, **MANY) as attack:
                output, errors = reloading.communicate(timeout=PATIENCE_S)

    assert (reloading.returncode, errors) == (0, ""), output
    assert sum(attack.report["closed"].values()) > MAX_CLIENTS
