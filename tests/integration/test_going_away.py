"""Going away without breaking anybody: the delay before the drain, drains that take longer, and on_drain."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gserver.arbiter.stats_socket import read_stats
from tests.helpers.processes import PATIENCE_S, GserverProcess, run_gserver, wait_for

#: A delay that no test waits for.
LONG = ("--shutdown-delay", "3600", "--stats-socket", "stats")
LEAVING = "the server is about to stop: it still serves, for shutdown_delay"


def echoes(server: GserverProcess) -> bool:
    with server.connect() as client:
        client.sendall(b"hello")
        return client.recv(100) == b"hello"


def problem(folder: Path) -> str | None:
    found: str | None = read_stats(str(folder / "stats"))["not_ready_because"]
    return found


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_gserver("--stats", str(folder / "stats"))


def go_away(server: GserverProcess) -> None:
    """Send TERM, and wait until the delay has begun."""
    server.signal(signal.SIGTERM)
    server.wait_for_log("Stopping in ")


# The shutdown delay


def test_it_serves_on_while_health_checks_fail_and_then_drains(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", "--shutdown-delay", "2", "--stats-socket", "stats", workers=2) as server:
        assert check(tmp_path).returncode == 0
        began = time.monotonic()
        go_away(server)
        assert echoes(server)
        assert problem(tmp_path) == LEAVING
        assert check(tmp_path).returncode == 0  # it need not be restarted
        assert echoes(server)

        assert server.wait() == 0
        assert time.monotonic() - began >= 2
        assert "Stopping in 2 s" in server.log
        assert "Stopping: draining connections" in server.log


def test_in_the_delay_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", *LONG) as server:
        go_away(server)
        server.kill_worker(server.serving_pids()[0])
        assert echoes(server)
        assert problem(tmp_path) == LEAVING
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_second_signal_ends_the_delay_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with GserverProcess(tmp_path, "echo", *LONG) as server, server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        go_away(server)
        server.signal(number)

        assert client.recv(100) == b""
        assert server.wait() == 0
    assert "drained 1" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_quick_stop_has_no_delay(tmp_path: Path, number: signal.Signals) -> None:
    with GserverProcess(tmp_path, "echo", *LONG) as server:
        server.signal(number)
        assert server.wait() == 0
    assert "Stopping in" not in server.log


def test_a_server_that_does_not_serve_yet_stops_at_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import time\nfrom gserver import Service\ntime.sleep(3600)\napp = Service(print)\n"
    )
    with GserverProcess(tmp_path, "app:app", *LONG, ready="Booting worker") as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_nothing_new_begins_in_the_delay(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", *LONG, "--pid", "gserver.pid") as server:
        (old,) = server.serving_pids()
        go_away(server)
        ended = run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (1, "gserver: the reload failed: the server is about to stop\n")
        for number in (signal.SIGUSR2, signal.SIGTTIN, signal.SIGWINCH):
            server.signal(number)
        server.wait_for_log("Ignored, because the server is about to stop: UPGRADE")
        server.wait_for_log("Ignored, because the server is about to stop: MORE")
        assert server.serving_pids() == [old]
        assert echoes(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_reload_changes_the_delay(tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("shutdown_delay = 3600\n")
    with GserverProcess(tmp_path, "echo", "-c", str(config)) as server:
        config.write_text("shutdown_delay = 0\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_after_an_upgrade_the_old_arbiter_has_no_delay_because_the_new_one_serves(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", *LONG, "--pid", "gserver.pid") as server:
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Stopping in" not in server.log
        wait_for(lambda: problem(tmp_path) is None, "the new arbiter has the stats socket")
        new = int((tmp_path / "gserver.pid").read_text())
        try:
            assert echoes(server)
            os.kill(new, signal.SIGTERM)
            wait_for(lambda: problem(tmp_path) == LEAVING, "the new arbiter has a delay of its own")
        finally:
            os.kill(new, signal.SIGTERM)
            wait_for(lambda: not (tmp_path / "gserver.pid").exists(), "the new arbiter has ended")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(PATIENCE_S)
        yield bound


def stopping_times(manager: socket.socket) -> list[float]:
    """The seconds that were requested with STOPPING=1, in order, without those of other messages."""
    times: list[float] = []
    manager.setblocking(False)
    while True:
        try:
            message = manager.recv(1000).decode()
        except BlockingIOError:
            return times
        if message.startswith("STOPPING=1\n"):
            times.append(int(re.findall(r"^EXTEND_TIMEOUT_USEC=(\d+)$", message, re.M)[0]) / 1e6)


def test_systemd_waits_for_the_delay_and_the_drain(tmp_path: Path, manager: socket.socket) -> None:
    limits = ("--drain-spread", "20", "--graceful-timeout", "100")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with GserverProcess(tmp_path, "echo", *LONG, *limits, environment=environment) as server:
        go_away(server)
        first = stopping_times(manager)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

    assert first == [3600 + 20 + 100 + 4 + 5]
    assert stopping_times(manager) == [20 + 100 + 4 + 5]


# Drains that take longer


def test_no_worker_is_killed_in_a_drain_that_takes_longer_than_its_other_limits(tmp_path: Path) -> None:
    """The heartbeat goes on, so the worker timeout does not apply; idle connections are drained one by one."""
    limits = ("--drain-spread", "5", "--graceful-timeout", "5", "-t", "3", "--access-logfile", "access")
    with GserverProcess(tmp_path, "echo", *limits) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        ends = []
        for client in clients:
            assert client.recv(1) == b""
            ends.append(time.monotonic() - began)

        assert server.wait() == 0
        assert max(ends) > 4
        assert not re.search("Sending|missed|CRITICAL", server.log)
        assert "closed: drained 20" in server.log
        assert (tmp_path / "access").read_text().count('"drained"') == 20


def test_a_connection_is_served_until_its_own_moment_of_a_long_drain(tmp_path: Path) -> None:
    limits = ("--drain-spread", "3600", "--graceful-timeout", "3600")
    with GserverProcess(tmp_path, "echo", *limits) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        server.signal(signal.SIGTERM)
        server.wait_for_log("Draining 5 connections over 3.6e")
        clients[0].sendall(b"y")
        assert clients[0].recv(1) == b"y"
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


def test_a_stop_in_a_reload_gives_the_old_workers_the_time_of_their_own_settings(tmp_path: Path) -> None:
    """The new settings allow 4 seconds: the old worker, which drains for longer, is not killed by that."""
    config = tmp_path / "conf.py"
    config.write_text("drain_spread = 7\ngraceful_timeout = 7\nworkers = 1\n")
    with GserverProcess(tmp_path, "echo", "-c", str(config), workers=None) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(10)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        config.write_text("drain_spread = 0\ngraceful_timeout = 0\nreload_settle = 3600\nraw_env = ['NEW=1']\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTERM)

        assert server.wait() == 0
        assert "drained 10" in server.log
        assert "Sending KILL" not in server.log


# on_drain

BYE_APP = """
from gserver import Lines, Service

def bye(conn):
    conn.send(b"bye " + conn.drain_reason.value.encode())

app = Service(lambda line, conn: line, Lines, on_drain=bye)
"""


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGQUIT, ()),
        (signal.SIGHUP, ("--reload-settle", "0")),
        (signal.SIGTERM, ("--greenlets", "dedicated")),
    ],
    ids=["TERM", "QUIT", "reload", "dedicated"],
)
def test_clients_are_told_to_go_elsewhere(tmp_path: Path, number: signal.Signals, options: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(BYE_APP)
    with GserverProcess(tmp_path, "app:app", *options) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        files = [stack.enter_context(client.makefile("rb")) for client in clients]
        for client, file in zip(clients, files, strict=True):
            client.sendall(b"hello\n")
            assert file.readline() == b"hello\n"
        server.signal(number)

        assert [file.read() for file in files] == [b"bye drained\n"] * 20
