"""TcpUser, EchoUser and JsonUser in real swarms: on gserver, and on servers that do each thing wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.processes import free_port
from loadtests.recording import CUT_OFF, OK
from tests.helpers.processes import GserverProcess
from tests.helpers.swarms import Swarm, misbehaving, reset

pytestmark = pytest.mark.slow

FIVE_USERS = ("-u", "5", "-r", "5", "--rate", "5")

# JsonUser with less patience.
IMPATIENT = """
from locust import task
import loadtests.users

class Impatient(loadtests.users.JsonUser):
    reply_timeout_s = 0.2
    connect_attempts = 2
"""


def answer(line: bytes) -> Callable[[socket.socket], None]:
    """Answer whatever comes with `line`."""

    def behave(client: socket.socket) -> None:
        while client.recv(65536):
            client.sendall(line)

    return behave


def read_and_close(client: socket.socket) -> None:
    client.recv(65536)


def stop_inside_a_line(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b'{"status":')


def say_nothing(client: socket.socket) -> None:
    while client.recv(65536):
        pass


MISBEHAVIOUR = {
    "reset": (reset, "reset"),
    "closes": (read_and_close, "eof"),
    "stops inside a line": (stop_inside_a_line, "eof"),
    "wrong": (answer(b'{"status":"OK","result":-1}\n'), "mismatch"),
    "not json": (answer(b"hello\n"), "mismatch"),
    "too long": (answer(b"x" * 70_000), "protocol"),
    "silent": (say_nothing, "timeout"),
}


def test_each_misbehaviour_has_its_class_and_is_no_success(tmp_path: Path) -> None:
    locustfile = tmp_path / "impatient.py"
    locustfile.write_text(IMPATIENT)
    with contextlib.ExitStack() as stack:
        swarms = {}
        for name, (behave, _) in MISBEHAVIOUR.items():
            host = stack.enter_context(misbehaving(behave))
            swarms[name] = Swarm(tmp_path / name, host, "-t", "3s", *FIVE_USERS, locustfile=locustfile)
        nobody = f"tcp://127.0.0.1:{free_port()}"
        refused = Swarm(tmp_path / "refused", nobody, "-t", "3s", *FIVE_USERS, locustfile=locustfile)
        recordings = {name: swarm.finish() for name, swarm in swarms.items()}

    for name, (_, outcome) in MISBEHAVIOUR.items():
        total = recordings[name].total(["GREETING", "SUM"])
        assert total.outcomes.keys() - {CUT_OFF} == {outcome}, name
        assert total.latency.total == 0
        assert recordings[name].total(["connect"]).outcomes[OK] >= 5
        assert swarms[name].process.returncode == 1
    recording = refused.finish()
    assert recording.total(["connect"]).outcomes["refused"] >= 10
    assert set(recording.cells) == {"connect"}


def test_every_exchange_of_a_good_server_is_counted_once(tmp_path: Path) -> None:
    """JsonUser is what runs if nobody is named; EchoUser by name; Locust's own count is the same."""
    with GserverProcess(tmp_path, "json") as json, GserverProcess(tmp_path, "echo") as echo:
        by_default = Swarm(tmp_path / "json", "tcp://{}:{}".format(*json.address), "-t", "3s", *FIVE_USERS)
        by_name = Swarm(
            tmp_path / "echo",
            "tcp://{}:{}".format(*echo.address),
            *("-t", "3s", *FIVE_USERS, "--payload", "100000", "EchoUser"),
        )
        recordings = by_default.finish(), by_name.finish()

    assert set(recordings[0].cells) == {"connect", "GREETING", "SUM"}
    assert set(recordings[1].cells) == {"connect", "echo"}
    for swarm, recording in zip((by_default, by_name), recordings, strict=True):
        outcomes = recording.total().outcomes
        assert outcomes.keys() <= {OK, CUT_OFF}
        assert outcomes[OK] > 20
        assert f"Aggregated {outcomes[OK]} " in " ".join(swarm.log.split())
        assert swarm.process.returncode == 0


def test_processes_merge_to_what_the_server_answered(tmp_path: Path) -> None:
    answered = [0]
    lock = threading.Lock()

    def echo(client: socket.socket) -> None:
        while data := client.recv(65536):
            client.sendall(data)
            with lock:
                answered[0] += data.count(b"\n")

    with misbehaving(echo) as host:
        swarm = Swarm(
            tmp_path, host, "--processes", "2", "-t", "4s", "-u", "10", "-r", "10", "--rate", "10", "EchoUser"
        )
        recording = swarm.finish()

    outcomes = recording.total(["echo"]).outcomes
    workers = [health for health in recording.health.values() if any(second["sockets"] for second in health.values())]
    assert recording.total(["connect"]).outcomes == {OK: 10}
    assert outcomes[OK] <= answered[0] <= outcomes[OK] + outcomes[CUT_OFF]
    assert answered[0] > 100
    assert len(workers) == 2
    assert max(recording.sockets().values()) == 10


def test_what_is_in_flight_at_the_end_is_cut_off(tmp_path: Path) -> None:
    """The server takes longer than the test has: neither a success nor a failure."""
    with misbehaving(lambda client: (client.recv(100), time.sleep(30))) as host:
        recording = Swarm(tmp_path, host, "-t", "2s", "--stop-timeout", "0", *FIVE_USERS).finish()

    outcomes = recording.total(["GREETING", "SUM"]).outcomes
    assert outcomes == {CUT_OFF: 5}


def test_users_recover_when_the_server_comes_late(tmp_path: Path) -> None:
    port = free_port()
    swarm = Swarm(tmp_path / "swarm", f"tcp://127.0.0.1:{port}", "-t", "6s", *FIVE_USERS)
    time.sleep(1.5)  # the server is late, which is what this is about
    with GserverProcess(tmp_path, "json", bind=f"127.0.0.1:{port}"):
        recording = swarm.finish()

    assert recording.total(["connect"]).outcomes.keys() == {OK, "refused"}
    assert recording.total(["connect"]).outcomes[OK] == 5
    assert recording.total(["GREETING", "SUM"]).outcomes[OK] > 20


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "http://127.0.0.1:3000", "tcp://127.0.0.1"])
def test_a_wrong_host_is_named(tmp_path: Path, host: str) -> None:
    swarm = Swarm(tmp_path, host, "-t", "1s", *FIVE_USERS)
    swarm.process.wait(40)

    assert f"host is {host!r}, expected tcp://HOST:PORT" in swarm.log
