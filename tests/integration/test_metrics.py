"""Metrics, health and the page of a real server: their process, its restarts, reloads, upgrades and hostile clients."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.early_imports import EARLY_IMPORTS
from tests.helpers.hostile import Attack
from tests.helpers.processes import GserverProcess, children_of, is_running, run_gserver, wait_for
from tests.helpers.scraping import (
    Address,
    metrics_address,
    metrics_pid,
    read_metrics,
    request,
    sockets_of,
    total,
)

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

SETTLE = ("--reload-settle", "0.1")
READY = "Metrics process ready"
APP = """
import os, gevent
from gserver import Lines, Service
with open("imported", "a") as file:
    file.write(f"{os.getpid()}\\n")

def answer(line, conn):
    if line == b"wait":
        conn.send(b"waiting")
        gevent.sleep(3600)
    return line

app = Service(answer, Lines)
"""
HOOKS = """
import os
def _note(*arguments):
    with open("hooked", "a") as file:
        file.write(f"{os.getpid()}\\n")
def post_fork(server, worker): _note()
def worker_exit(server, worker): _note()
def on_exit(server): _note()
metrics_bind = "127.0.0.1:0"
"""


def start(
    folder: Path, *arguments: str, workers: int = 2, app: str = "echo", metrics: str = "127.0.0.1:0"
) -> GserverProcess:
    return GserverProcess(
        folder, app, "--metrics-bind", metrics, "--pid", "gserver.pid", *SETTLE, *arguments, workers=workers
    )


def send_lines(server: GserverProcess, count: int) -> None:
    with Client(server.address, Lines()) as client:
        for _ in range(count):
            client.call(b"hello")


def listeners_of(pid: int) -> set[tuple[str, int]]:
    """The TCP addresses on which a process listens."""
    connections = psutil.Process(pid).net_connections("tcp")
    return {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}


def wait_until_ready(address: Address) -> None:
    wait_for(lambda: request(address, "/readyz").status == 200, "the server is ready")


class Scraper:
    """Scrapes all the time, in a thread; keeps every answer, and what failed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[dict[str, float]] = []
        self.failures: list[str] = []

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(read_metrics(self._address))
            except Exception as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.answers) + count
        wait_for(lambda: len(self.answers) >= wanted, f"{count} more answers; failures: {self.failures}")


def decreases(answers: list[dict[str, float]]) -> list[str]:
    """The counters and buckets that became smaller from one answer to the next."""
    found = []
    for before, after in itertools.pairwise(answers):
        for name, value in before.items():
            is_counter = re.match(r"\w+_(total|bucket|count|sum)\b", name)
            if is_counter and after.get(name, 0.0) < value:
                found.append(f"{name}: {value} -> {after.get(name)}")
    return found


# What is served


def test_metrics_health_and_page_are_served(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        send_lines(server, 5)
        address = metrics_address(server)
        wait_for(lambda: read_metrics(address)["gserver_received_bytes_total"] == 30, "the bytes are counted")
        wait_for(lambda: read_metrics(address)["gserver_workers_serving"] == 2, "both workers serve")
        metrics = read_metrics(address)

        assert metrics["gserver_messages_total"] == 5
        assert metrics["gserver_connections_accepted_total"] == 1
        assert metrics['gserver_connections_closed_total{reason="peer_eof"}'] == 1
        assert metrics["gserver_workers_serving"] == metrics["gserver_workers_wanted"] == 2
        assert {metrics[f'gserver_worker_serving{{worker="{slot}"}}'] for slot in (0, 1)} == {1}
        assert request(address, "/livez")[::2] == (200, "2 of 2 workers serve and have a recent heartbeat\n")
        assert request(address, "/readyz")[::2] == (200, "2 workers serve\n")
        assert request(address, "/").text.startswith("<!doctype html>")


def test_it_is_served_on_a_unix_socket_that_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with start(tmp_path, metrics=f"unix:{path},mode=600") as server:
        server.wait_for_log(READY)

        wait_until_ready(str(path))
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_counts_of_workers_that_ended_remain_and_restarts_have_a_cause(tmp_path: Path) -> None:
    with start(tmp_path, "--max-requests", "50", workers=1) as server:
        address = metrics_address(server)
        send_lines(server, 10)
        server.kill_worker(server.serving_pids()[0])
        wait_until_ready(address)
        send_lines(server, 60)
        recycled = 'gserver_worker_restarts_total{cause="recycled"}'
        wait_for(lambda: read_metrics(address)[recycled] == 1, "the worker was recycled")
        server.signal(signal.SIGHUP)
        reloaded = 'gserver_worker_restarts_total{cause="reloaded"}'
        wait_for(lambda: read_metrics(address)[reloaded] == 1, "the worker was replaced")
        wait_for(lambda: read_metrics(address)['gserver_reloads_total{outcome="succeeded"}'] == 1, "it has reloaded")
        metrics = read_metrics(address)

        assert metrics["gserver_messages_total"] == 70
        assert metrics['gserver_worker_restarts_total{cause="signal"}'] == 1
        assert total(metrics, "gserver_worker_restarts_total") == 3
        assert metrics["gserver_reload_generation"] == metrics["gserver_last_reload_successful"] == 1


def test_a_worker_that_is_stuck_is_seen_and_its_kill_is_counted(tmp_path: Path) -> None:
    with start(tmp_path, "--timeout", "8", workers=1) as server:
        address = metrics_address(server)
        wait_until_ready(address)
        stopped = server.serving_pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        wait_for(lambda: request(address, "/livez").status == 503, "the server is not alive")

        assert re.fullmatch(
            r"every worker is stuck: the last heartbeat is \d\.\d s old\n", request(address, "/livez").text
        )
        unready = request(address, "/readyz")
        assert unready.status == 503
        assert unready.text.startswith("every worker that serves is stuck: ")
        assert read_metrics(address)["gserver_workers_stuck"] == 1
        assert read_metrics(address)['gserver_worker_lag_seconds{worker="0"}'] > 3

        wait_for(lambda: not is_running(stopped), "the arbiter has killed it")
        wait_until_ready(address)
        assert read_metrics(address)['gserver_worker_restarts_total{cause="timeout"}'] == 1


def test_a_server_that_drains_is_not_ready_but_alive(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with start(tmp_path, app="app:app", workers=1) as server, server.connect() as waiting:
        address = metrics_address(server)
        waiting.sendall(b"wait\n")
        assert waiting.recv(100) == b"waiting\n"
        server.signal(signal.SIGTERM)
        wait_for(lambda: request(address, "/readyz").status == 503, "the server is not ready")

        assert request(address, "/readyz").text == "the server is stopping\n"
        assert request(address, "/livez")[::2] == (200, "1 of 1 workers drain and have a recent heartbeat\n")
        assert read_metrics(address)["gserver_stopping"] == 1
        server.signal(signal.SIGQUIT)
        server.wait()


# The process


def test_the_process_has_no_listener_of_the_service_and_runs_no_user_code(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "gserver.conf.py").write_text(HOOKS)
    with GserverProcess(tmp_path, "app:app", workers=2) as server:
        server.wait_for_log(READY)
        pid, workers = metrics_pid(server), set(server.serving_pids())

        assert listeners_of(pid) == {metrics_address(server)}
        assert listeners_of(server.process.pid) == {metrics_address(server), server.address}
        assert all(listeners_of(worker) == {server.address} for worker in workers)
        # No socket but the listener: no channel of a worker, no queue of signals, no pidfd, no stats socket.
        own = sockets_of(pid)
        assert len(own) == 1
        assert own <= sockets_of(server.process.pid)
        arbiter = server.process.pid
    assert {int(line) for line in (tmp_path / "imported").read_text().split()} == workers
    assert {int(line) for line in (tmp_path / "hooked").read_text().split()} == {arbiter, *workers}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_process_runs_as_the_user_of_the_settings(open_folder: Path) -> None:
    (open_folder / "gserver.conf.py").write_text(EARLY_IMPORTS)
    with start(open_folder, "--user", "nobody", "--group", "nogroup") as server:
        server.wait_for_log(READY)
        process = psutil.Process(metrics_pid(server))
        nobody = pwd.getpwnam("nobody")

        assert set(process.uids()) == {nobody.pw_uid}
        assert set(process.gids()) == {nobody.pw_gid}
        assert read_metrics(metrics_address(server))['gserver_worker_resident_memory_bytes{worker="0"}'] > 1e6


def test_a_process_that_dies_is_forked_again_after_growing_pauses_and_no_scrape_is_lost(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        server.wait_for_log(READY)
        for count, pause in ((1, "0.5"), (2, "1")):
            killed = metrics_pid(server)
            os.kill(killed, signal.SIGKILL)
            server.wait_for_log(rf"The metrics process ended with signal SIGKILL \(pid: {killed}\); .* in {pause} s")

            wait_until_ready(metrics_address(server))  # it waits in the accept queue
            server.wait_for_log(READY, count + 1)
        assert server.log.count("Worker ready") == 2


def test_the_process_ends_with_an_arbiter_that_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        server.wait_for_log(READY)
        pid = metrics_pid(server)
        workers = server.serving_pids()
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not is_running(pid), "the metrics process has ended")
        wait_for(lambda: not any(map(is_running, workers)), "the workers have ended")


def test_a_log_rotation_gives_the_process_the_new_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with GserverProcess(
        tmp_path, "echo", "--metrics-bind", "127.0.0.1:0", "--log-file", "log", log=log, ready=READY
    ) as server:
        server.wait_for_log("Worker ready")
        first = metrics_pid(server)
        address = metrics_address(server)
        log.rename(tmp_path / "log.1")
        server.signal(signal.SIGUSR1)
        server.wait_for_log(READY)

        second = metrics_pid(server)
        wait_for(lambda: not is_running(first), "the previous process has ended")
        assert (tmp_path / "log").samefile(f"/proc/{second}/fd/{_descriptor_of(second, 'log')}")
        wait_until_ready(address)
        (tmp_path / "log").write_text((tmp_path / "log.1").read_text() + (tmp_path / "log").read_text())


def _descriptor_of(pid: int, name: str) -> str:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return next(link.name for link in links if link.readlink().name == name)


# Reload and upgrade


def test_no_scrape_is_lost_and_no_counter_decreases_while_workers_are_killed_and_reloaded(tmp_path: Path) -> None:
    with start(tmp_path, "--drain-spread", "0") as server, Scraper(metrics_address(server)) as scraper:
        for _ in range(3):
            send_lines(server, 100)
            server.kill_worker(server.serving_pids()[0])
            scraper.wait_for_answers(3)
        for reload in range(2):
            send_lines(server, 100)
            server.signal(signal.SIGHUP)
            server.wait_for_log("Reloaded; listening at", reload + 1)
            server.signal(signal.SIGUSR1)
            scraper.wait_for_answers(3)
    assert scraper.failures == []
    assert decreases(scraper.answers) == []
    assert scraper.answers[-1]["gserver_messages_total"] == 500


def test_a_reload_moves_turns_off_and_turns_on(tmp_path: Path) -> None:
    config = tmp_path / "gserver.conf.py"
    config.write_text(f"metrics_bind = 'unix:{tmp_path}/first'")

    def reload(text: str) -> int:
        config.write_text(text)
        return run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path).returncode

    with GserverProcess(tmp_path, "echo", "--pid", "gserver.pid", *SETTLE) as server:
        wait_until_ready(str(tmp_path / "first"))

        assert reload(f"metrics_bind = 'unix:{tmp_path}/second'") == 0
        wait_until_ready(str(tmp_path / "second"))
        assert not (tmp_path / "first").exists()
        assert read_metrics(str(tmp_path / "second"))["gserver_reload_generation"] == 1

        pid = metrics_pid(server)
        assert reload("") == 0
        assert not (tmp_path / "second").exists()
        wait_for(lambda: not is_running(pid), "the metrics process has ended")
        assert len(children_of(server.process.pid)) == 1

        assert reload(f"metrics_bind = 'unix:{tmp_path}/third'") == 0
        wait_until_ready(str(tmp_path / "third"))


def test_a_reload_to_an_address_that_cannot_be_bound_fails_and_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "gserver.conf.py"
    config.write_text("metrics_bind = '127.0.0.1:0'")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        GserverProcess(tmp_path, "echo", "--pid", "gserver.pid", *SETTLE) as server,
    ):
        address = metrics_address(server)
        port = taken.getsockname()[1]
        config.write_text(f"metrics_bind = '127.0.0.1:{port}'")
        ended = run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path)

        assert (ended.returncode, ended.stderr) == (
            1,
            f"gserver: the reload failed: cannot listen on 127.0.0.1:{port}: Address already in use\n",
        )
        metrics = read_metrics(address)
        assert metrics['gserver_reloads_total{outcome="failed"}'] == 1
        assert metrics["gserver_last_reload_successful"] == 0


@pytest.mark.parametrize("metrics", ["127.0.0.1:0", "unix:metrics.sock"])
def test_an_upgrade_has_one_process_at_a_time(tmp_path: Path, metrics: str) -> None:
    with start(tmp_path, metrics=metrics, workers=1) as server:
        address: Address = str(tmp_path / "metrics.sock") if metrics.startswith("unix") else metrics_address(server)
        send_lines(server, 7)
        old = server.process.pid
        server.signal(signal.SIGUSR2)
        wait_for((tmp_path / "gserver.pid.2").exists, "the new arbiter runs")
        server.wait_for_log("Worker ready", 2)

        assert read_metrics(address)["gserver_messages_total"] == 7
        assert server.log.count(READY) == 1
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: server.log.count(READY) == 2, "the new arbiter has a metrics process")

        assert read_metrics(address)["gserver_messages_total"] == 0
        new = int((tmp_path / "gserver.pid").read_text())
        wait_until_ready(address)
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not is_running(new), "the new arbiter has ended")
        assert server.log.count(READY) == 2
    assert not (tmp_path / "metrics.sock").exists()


def test_a_check_that_the_old_process_answers_late_in_an_upgrade_is_good(tmp_path: Path) -> None:
    """Otherwise a load balancer marks the host as down, though the new server serves."""
    (tmp_path / "app.py").write_text(APP)
    with (
        start(tmp_path, "--graceful-timeout", "60", app="app:app", workers=1) as server,
        server.connect() as waiting,
        socket.create_connection(metrics_address(server), timeout=30) as check,
    ):
        waiting.sendall(b"wait\n")
        assert waiting.recv(100) == b"waiting\n"
        check.sendall(b"GET /readyz HTTP/1.1\r\n")
        old, exporter = server.process.pid, metrics_pid(server)
        wait_for(lambda: len(sockets_of(exporter)) > 1, "the old process has accepted it")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        os.kill(exporter, signal.SIGSTOP)
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: server.log.count(READY) == 2, "the new arbiter has a metrics process")
        check.sendall(b"\r\n")
        os.kill(exporter, signal.SIGCONT)

        assert check.recv(1000).startswith(b"HTTP/1.1 200 ")
        os.kill(old, signal.SIGQUIT)
        wait_for(lambda: not is_running(old), "the old arbiter has ended")
        os.kill(int((tmp_path / "gserver.pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("metrics", ["127.0.0.1:0", "unix:metrics.sock"])
def test_after_an_upgrade_that_failed_the_old_process_goes_on(tmp_path: Path, metrics: str) -> None:
    with start(tmp_path, metrics=metrics, workers=1) as server:
        address: Address = str(tmp_path / "metrics.sock") if metrics.startswith("unix") else metrics_address(server)
        server.signal(signal.SIGUSR2)
        wait_for((tmp_path / "gserver.pid.2").exists, "the new arbiter runs")
        server.wait_for_log("Worker ready", 2)
        os.kill(int((tmp_path / "gserver.pid.2").read_text()), signal.SIGTERM)
        server.wait_for_log("The new arbiter ended")

        wait_until_ready(address)
        assert server.log.count(READY) == 1


# Refusals


def test_an_address_in_use_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        ended = run_gserver("echo", "-b", "127.0.0.1:0", "--metrics-bind", address, cwd=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == f"gserver: cannot listen on {address}: Address already in use"


@pytest.mark.parametrize("command", [("echo",), ("--check-config", "echo")])
def test_a_missing_package_is_named_before_anything_is_bound(tmp_path: Path, command: tuple[str, ...]) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from gserver.__main__ import entry_point; entry_point()"
    )
    arguments = [*command, "--metrics-bind", "unix:metrics.sock", "-b", "unix:service.sock"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "gserver: setting metrics_bind is 'unix:metrics.sock', which needs prometheus-client: "
        "pip install 'gserver-tcp[metrics]'\n"
    )
    assert list(tmp_path.iterdir()) == []


# Hostile clients


@contextmanager
def connected(address: tuple[str, int], count: int, host: str = "127.0.0.2") -> Iterator[list[socket.socket]]:
    sockets = [socket.create_connection(address, 30, (host, 0)) for _ in range(count)]
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_hundreds_of_hostile_clients_delay_no_scrape_and_no_worker(tmp_path: Path) -> None:
    with start(tmp_path, workers=1) as server:
        address = metrics_address(server)
        with (
            Attack(address, silent=300, dripping=100, flooding=20) as attack,
            connected(address, 10) as garbage,
            Client(server.address, Lines()) as client,
        ):
            for number, sock in enumerate(garbage):
                sock.sendall([b"\x16\x03\x01\x02" * 50, b"GET\r\n\r\n", b"\0" * 500 + b"\r\n\r\n"][number % 3])
            for _ in range(20):
                # The attackers come from 127.0.0.1, as many as an address may have; this scraper does too.
                assert client.call(b"hello") == b"hello"
            with socket.create_connection(address, 30, ("127.0.0.3", 0)) as scraper:
                scraper.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                scraper.settimeout(30)
                assert b"200 OK" in scraper.recv(1000)
            process = psutil.Process(metrics_pid(server))
            assert process.num_fds() < 120
        assert sum(attack.report["closed"].values()) > 0
        assert read_metrics(address)["gserver_errors_total"] == 0
        assert read_metrics(address)['gserver_worker_lag_max_seconds{worker="0"}'] < 1
        assert metrics_pid(server) == process.pid
        assert "Traceback" not in server.log
