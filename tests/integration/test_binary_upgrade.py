"""A binary upgrade (USR2, then TERM to the old arbiter) under a service manager: a simulated one, and real systemd.

systemd ends all processes of a service after STOPPING=1, and after its main process has ended.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, is_alive, wait_for
from tests.helpers.service_manager import ServiceManager, missing_for_a_manager

WATCHDOG_S = 1
SLOW_APP = """
import time
from gserver import Lines, Service

def answer(line, conn):
    if line == b"slow":
        conn.send(b"it begins")
        time.sleep(2)
    return line

app = Service(answer, Lines)
"""


class Manager:
    """The notify socket of a service manager: receives messages with the pid of the sender."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._received: list[tuple[int, str]] = []

    def close(self) -> None:
        self._socket.close()

    def messages(self) -> list[tuple[int, str]]:
        while True:
            try:
                data, [(_, _, credentials)], _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return self._received
            self._received.append((struct.unpack("3i", credentials)[0], data.decode()))

    def heard(self, pid: int, line: str) -> bool:
        return any(sender == pid and line in text.splitlines() for sender, text in self.messages())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def watched(tmp_path: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000)}


def start_successor(server: GserverProcess, folder: Path, manager: Manager) -> psutil.Process:
    """Start a new arbiter on the same sockets with USR2; return it when it is ready."""
    server.signal(signal.SIGUSR2)
    wait_for(lambda: bool((folder / "gserver.pid.2").exists()), "the new arbiter has a pid file")
    new = psutil.Process(int((folder / "gserver.pid.2").read_text()))
    wait_for(lambda: manager.heard(new.pid, "READY=1"), "the new arbiter reports that it is ready")
    return new


def test_the_old_arbiter_reports_the_new_one_as_the_main_process_and_then_nothing(
    tmp_path: Path, manager: Manager
) -> None:
    with GserverProcess(tmp_path, "echo", "-p", "gserver.pid", environment=watched(tmp_path)) as server:
        old = server.process.pid
        new = start_successor(server, tmp_path, manager)
        wait_for(lambda: manager.heard(old, "WATCHDOG=1"), "the old arbiter is alive")
        assert not manager.heard(new.pid, "WATCHDOG=1")
        server.signal(signal.SIGTERM)
        server.wait()
        wait_for(lambda: manager.heard(new.pid, "WATCHDOG=1"), "the new arbiter sends to the watchdog")
        assert (tmp_path / "gserver.pid").read_text() == f"{new.pid}\n"

        assert [text for sender, text in manager.messages() if sender == old and text != "WATCHDOG=1"] == [
            "READY=1\nSTATUS=1 workers",
            f"MAINPID={new.pid}\n",
        ]
        new.terminate()
        wait_for(lambda: not is_alive(new), "the new arbiter has ended")
        assert manager.heard(new.pid, "STOPPING=1")


def test_while_the_old_arbiter_drains_the_new_one_can_be_reloaded_and_stopped(tmp_path: Path, manager: Manager) -> None:
    (tmp_path / "app.py").write_text(SLOW_APP)
    options = ("app:app", "-p", "gserver.pid", "--reload-settle", "0", "-b", "unix:socket")
    with (
        GserverProcess(tmp_path, *options, environment=watched(tmp_path)) as server,
        Client(server.address, Lines()) as client,
    ):
        client.send(b"slow")
        assert client.recv() == b"it begins"
        new = start_successor(server, tmp_path, manager)
        server.signal(signal.SIGTERM)
        wait_for(lambda: (tmp_path / "gserver.pid").read_text() == f"{new.pid}\n", "it has the pid file")
        new.send_signal(signal.SIGHUP)
        wait_for(lambda: manager.heard(new.pid, "STATUS=reloaded"), "it has reloaded")
        new.terminate()
        wait_for(lambda: not is_alive(new), "it has ended")
        assert manager.heard(new.pid, "STOPPING=1")
        assert client.recv() == b"slow"
    assert not (tmp_path / "socket").exists()
    assert not (tmp_path / "gserver.pid").exists()


def test_a_new_arbiter_that_is_stopped_again_does_not_report_that_the_service_stops(
    tmp_path: Path, manager: Manager
) -> None:
    with GserverProcess(tmp_path, "echo", "-p", "gserver.pid", environment=watched(tmp_path)) as server:
        new = start_successor(server, tmp_path, manager)
        new.terminate()
        server.wait_for_log("The new arbiter ended with status 0")
        assert {text for sender, text in manager.messages() if sender == new.pid} == {"READY=1\nSTATUS=1 workers"}
        with server.connect() as client:
            client.sendall(b"here")
            assert client.recv(100) == b"here"
        assert (tmp_path / "gserver.pid").read_text() == f"{server.process.pid}\n"
    assert manager.heard(server.process.pid, "STOPPING=1")


def test_when_the_old_arbiter_is_killed_the_new_one_takes_over(tmp_path: Path, manager: Manager) -> None:
    with GserverProcess(tmp_path, "echo", "-p", "gserver.pid", environment=watched(tmp_path)) as server:
        new = start_successor(server, tmp_path, manager)
        between = psutil.Process(new.ppid())
        server.process.kill()
        server.wait()
        wait_for(lambda: manager.heard(new.pid, f"MAINPID={new.pid}"), "the new arbiter has taken over")
        wait_for(lambda: not is_alive(between), "the process between them has ended with the old arbiter")
        wait_for(lambda: (tmp_path / "gserver.pid").read_text() == f"{new.pid}\n", "it has the pid file")
        new.terminate()
        wait_for(lambda: not is_alive(new), "the new arbiter has ended")


# systemd

UNIT = """
[Service]
KillMode=mixed
Restart=on-failure
RestartSec=0
WorkingDirectory={folder}
ExecStart={python} -m gserver app:app -b unix:{folder}/socket -p {folder}/pid --graceful-timeout 10 {options}
"""
NOTIFY = """
Type=notify
WatchdogSec=3
TimeoutStopSec=1
StandardError=append:{folder}/log
"""
FORKING = """
Type=forking
PIDFile={folder}/pid
TimeoutStopSec=20
"""


class Service:
    """A gserver that systemd runs."""

    def __init__(self, manager: ServiceManager, options: str = "", more: str = NOTIFY) -> None:
        self._manager = manager
        self.folder = manager.folder
        (self.folder / "app.py").write_text(SLOW_APP)
        unit = (UNIT + more).format(folder=self.folder, python=sys.executable, options=options)
        manager.install("gserver.service", unit)
        manager.call("start", "gserver.service")

    def show(self, name: str) -> str:
        return self._manager.show("gserver.service", name)

    def signal(self, name: str) -> None:
        self._manager.call("kill", "--kill-whom=main", f"--signal={name}", "gserver.service")

    def stop(self) -> None:
        self._manager.call("stop", "gserver.service")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def client(self) -> Client:
        return Client(str(self.folder / "socket"), Lines())

    def upgrade(self) -> str:
        """Send USR2, and TERM when the new arbiter serves; return the pid of the new main process."""
        second = self.folder / "pid.2"
        ready = self.log().count("Worker ready")
        self.signal("USR2")
        wait_for(lambda: second.exists() and second.read_text() != "", "the new arbiter has a pid file")
        pid = second.read_text().strip()
        wait_for(lambda: self.log().count("Worker ready") > ready, "the new arbiter serves")
        self.signal("TERM")
        wait_for(lambda: self.show("MainPID") == pid, "the new arbiter is the main process")
        wait_for(lambda: "The old arbiter has ended" in self.log(), "the old arbiter has ended")
        return pid


@pytest.fixture
def systemd() -> Iterator[ServiceManager]:
    missing = missing_for_a_manager()
    if missing is not None:
        pytest.skip(missing)
    with ServiceManager() as manager:
        yield manager


@pytest.mark.parametrize(
    ("options", "more"),
    [("", NOTIFY), ("--preload", NOTIFY), ("--daemon --log-file log", FORKING)],
    ids=["notify", "notify-preload", "forking"],
)
def test_an_upgraded_service_keeps_running_and_drains_at_a_stop(
    systemd: ServiceManager, options: str, more: str
) -> None:
    service = Service(systemd, options, more)
    service.upgrade()
    with service.client() as client:
        assert client.call(b"here") == b"here"
        client.send(b"slow")
        assert client.recv() == b"it begins"
        service.stop()  # returns when the service has ended
        assert client.recv() == b"slow"

    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert service.log().count("Stopped") == 2
    assert service.show("NRestarts") == "0"
    assert sorted(path.name for path in service.folder.iterdir() if path.name.startswith(("pid", "sock"))) == []


def test_systemd_waits_for_the_shutdown_delay_of_a_service(systemd: ServiceManager) -> None:
    """The delay is longer than TimeoutStopSec= and WatchdogSec=: systemd kills nothing, and reports success."""
    service = Service(systemd, "--shutdown-delay 5")
    with service.client() as client:
        assert client.call(b"here") == b"here"
        stopping = systemd.begin("stop", "gserver.service")
        wait_for(lambda: "Stopping in 5 s" in service.log(), "the delay has begun")
        assert client.call(b"here") == b"here"
        with service.client() as another:
            assert another.call(b"here") == b"here"
        assert stopping.wait(60) == 0

    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert service.log().count("Stopped") == 1


def test_systemds_watchdog_restarts_the_service_when_the_new_arbiter_hangs(
    systemd: ServiceManager,
) -> None:
    service = Service(systemd)
    pid = service.upgrade()
    service.signal("STOP")  # it sends no more heartbeats, and systemd's watchdog detects that

    wait_for(lambda: service.show("NRestarts") == "1", "the service was started again")
    wait_for(lambda: service.show("ActiveState") == "active", "it is ready")
    assert service.show("MainPID") not in ("0", pid)
    service.stop()


def test_a_service_whose_upgrade_was_given_up_keeps_running(systemd: ServiceManager) -> None:
    service = Service(systemd)
    first = service.show("MainPID")
    service.signal("USR2")
    wait_for(lambda: service.log().count("Worker ready") == 2, "the new arbiter serves")
    systemd.inside("kill", (service.folder / "pid.2").read_text().strip())
    wait_for(lambda: "The new arbiter ended with status 0" in service.log(), "the new arbiter has ended")

    assert (service.show("MainPID"), service.show("ActiveState")) == (first, "active")
    with service.client() as client:
        assert client.call(b"here") == b"here"
    service.stop()
    assert service.show("Result") == "success"
