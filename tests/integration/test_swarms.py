"""Special swarms: with TLS, any message, user classes of a file, several processes, and different clocks.

All of them run at the same time, each in its own Locust process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from loadtests.host.subprocesses import free_port
from loadtests.recording.recording import CUT_OFF, NEVER_SENT, OK, TASK, UNSENT
from tests.helpers.certificates import make_certificates
from tests.helpers.loadtests_swarms import LOCUSTFILE, JsonServer, Peer, Swarm, of_processes
from tests.helpers.processes import GserverProcess, wait_for

pytestmark = pytest.mark.long

USERS = 4
BRIEFLY = ("--users", str(USERS), "--spawn-rate", "100", "--run-time", "3s", "--stop-timeout", "20")
OWN = """
from gserver import Lines
from locust import constant, events, task
from loadtests.users.wait_times import closed, paced
from loadtests.users import TcpUser

class Own(TcpUser):
    abstract = True
    codec = Lines

    @task
    def ask(self):
        self.exchange(type(self).__name__, b"question", b"question")

class Paced(Own):
    fixed_count = 4
    wait_time = paced(20)

class Deep(Own):
    fixed_count = 2
    wait_time = closed(depth=8)

class Waiting(Own):
    fixed_count = 2
    wait_time = constant(0.1)

class Churning(Own):
    fixed_count = 2
    wait_time = paced(20)
    exchanges_per_connection = 1
"""
MISNAMED = """
from gserver import Lines
from locust import task
from loadtests.users import TcpUser

class Misnamed(TcpUser):
    codec = Lines

    @task
    def ask(self):
        self.exchange("connect", b"question")
"""
LISTENING = """
from locust import events
heard = []
events.request.add_listener(lambda name, exception, **_: heard.append((name, exception)))
events.quit.add_listener(lambda **_: print("HEARD", sum(name == "Paced" for name, _ in heard)))
"""
SEVERAL = """
from gserver import Lines
from locust import TaskSet, task
from loadtests.users.wait_times import paced
from loadtests.users import TcpUser

class Several(TcpUser):
    codec = Lines
    wait_time = paced(10)

    @task
    def ask(self):
        for name in ("first", "second", "third"):
            self.exchange(name, b"question", b"question")

class InATaskSet(Several):
    @task
    class Tasks(TaskSet):
        @task
        def ask(self):
            self.user.ask()
"""
SHIFT_S = 1000
FREEZE_S = 1.5


@dataclass
class Swarms:
    by_name: dict[str, Swarm] = field(default_factory=dict)
    servers: dict[str, JsonServer] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # source addresses of connections
    began_s: float = field(default_factory=time.monotonic)

    def __getitem__(self, name: str) -> Swarm:
        return self.by_name[name]


def can_shift_clocks() -> bool:
    unshare = shutil.which("unshare")
    command = [str(unshare), "-T", "--monotonic", "5", "--fork", "true"]
    return bool(unshare) and subprocess.run(command, capture_output=True, check=False).returncode == 0


CAN_SHIFT = can_shift_clocks()


@pytest.fixture(scope="module")
def swarms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarms]:
    folder = tmp_path_factory.mktemp("swarms")
    swarms = Swarms()
    own, listening = folder / "own.py", folder / "listening.py"
    own.write_text(OWN)
    listening.write_text(OWN + LISTENING)
    certificates = make_certificates(folder / "certificates")
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [swarm.kill() for swarm in swarms.by_name.values()])

        def begin(name: str, host: tuple[str, int] | str, *arguments: str, file: Path = LOCUSTFILE) -> Swarm:
            swarm = swarms.by_name[name] = Swarm(folder / name, host, *BRIEFLY, *arguments, file=file)
            wait_for(lambda: sum(not each.is_up for each in swarms.by_name.values()) < 2, "that one Locust starts")
            return swarm

        def serve(name: str) -> tuple[str, int]:
            server = swarms.servers[name] = JsonServer()

            def behave(connection: socket.socket) -> None:
                if name == "killed":
                    swarms.seen.add(connection.getpeername()[0])
                server(connection)

            return stack.enter_context(Peer(behave)).address

        echo = stack.enter_context(GserverProcess(folder, "echo")).address
        tls_options = ("--certfile", certificates.certfile, "--keyfile", certificates.keyfile)
        secure = stack.enter_context(GserverProcess(folder, "json", *tls_options)).address
        tls = "tls://localhost:{1}".format(*secure)
        begin("tls", tls, "--rate", "20", "--tls-ca", certificates.ca)
        begin("tls-of-a-stranger", tls, "--rate", "1", "--tls-ca", make_certificates(folder / "stranger").ca)
        message = r"ping \x41\\ é\n"
        begin("expected", echo, "--rate", "20", "--message", message, "--expect", r"ping A\x5c é\n", "--codec", "raw")
        message = '{"type": "SUM", "a": 1, "b": 2}'
        unasked = stack.enter_context(Peer(JsonServer(times=3))).address
        begin("unasked", unasked, "--rate", "20", "--message", message, "--codec", "json_lines")
        begin("own", echo, "--users", "10", file=own)
        misnamed = folder / "misnamed.py"
        misnamed.write_text(MISNAMED)
        begin("misnamed", echo, "--users", "1", "--rate", "5", file=misnamed)
        several = folder / "several.py"
        several.write_text(SEVERAL)
        for user in ("Several", "InATaskSet"):
            frozen = stack.enter_context(Peer(echo_lines(freeze_at=10))).address
            begin(user, frozen, "--users", "1", "--run-time", "6s", user, file=several)
        stalled = stack.enter_context(Peer(echo_lines(silent_from=30))).address
        begin("stalled", stalled, "--users", "1", "--run-time", "6s", "--stop-timeout", "1", "Several", file=several)
        begin("listening", echo, "Paced", file=listening)
        if CAN_SHIFT:
            stack.enter_context(begin_shifted(folder, swarms, serve("shifted")))
        sources = ("--source-addresses", "127.0.3.1-127.0.3.4")
        killed = begin("killed", serve("killed"), "--rate", "20", *of_processes(2), *sources, "--run-time", "600s")
        kill_a_worker(killed)
        lines = killed.progress.count("\n")
        wait_for(lambda: killed.progress.count("\n") > lines + 2, "seconds without it")
        killed.process.terminate()
        for swarm in swarms.by_name.values():
            swarm.finish()
        yield swarms


def echo_lines(freeze_at: int = 0, silent_from: int = 0) -> Callable[[socket.socket], None]:
    """Return an echo behaviour that freezes before line `freeze_at`, or sends no replies from line `silent_from` on."""

    def behave(connection: socket.socket) -> None:
        for number, line in enumerate(connection.makefile("rb"), 1):
            if number == freeze_at:
                time.sleep(FREEZE_S)
            if not silent_from or number < silent_from:
                connection.sendall(line)

    return behave


@contextlib.contextmanager
def begin_shifted(folder: Path, swarms: Swarms, server: tuple[str, int]) -> Iterator[None]:
    """Start a master, a worker, and a second worker with a shifted monotonic clock."""
    port = str(free_port())
    master = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "2")
    swarms.by_name["shifted"] = Swarm(folder / "shifted", server, *BRIEFLY, "--rate", "20", *master)
    locust = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker"]
    worker = [*locust, "--master-host", "127.0.0.1", "--master-port", port]
    shifting = ["unshare", "-T", "--monotonic", str(SHIFT_S), "--fork", "--kill-child"]
    with (folder / "workers.log").open("wb") as log:
        workers = [subprocess.Popen(command, stdout=log, stderr=log) for command in (worker, [*shifting, *worker])]
    try:
        yield
    finally:
        for each in workers:
            each.kill()
            each.wait()


def kill_a_worker(swarm: Swarm) -> None:
    """Kill a worker after it has reported exchanges."""
    wait_for(lambda: '"exchanges"' in swarm.progress and '"exchanges": 0' not in last_line(swarm), "work", 60)
    worker = psutil.Process(swarm.process.pid).children()[0]
    os.kill(worker.pid, signal.SIGKILL)


def last_line(swarm: Swarm) -> str:
    return swarm.progress.strip().rpartition("\n")[2]


def kinds(swarm: Swarm) -> set[str]:
    return {outcome for outcome, count in swarm.exchanges.items() if count and outcome != CUT_OFF}


@pytest.mark.parametrize("name", ["tls", "expected", "own"])
def test_every_exchange_succeeds_and_is_counted_by_locust(swarms: Swarms, name: str) -> None:
    swarm = swarms[name]
    counts = {series: count for series, (count, _) in swarm.locust_counts.items()}
    recorded = {series: outcomes[OK] for series, outcomes in swarm.outcomes.items()}

    assert kinds(swarm) == {OK}, swarm.log
    no_requests = ("first_byte", "close", TASK)
    assert counts == {series: count for series, count in recorded.items() if series not in no_requests}
    assert swarm.process.returncode == 0
    assert "Traceback" not in swarm.log


def test_a_tls_handshake_has_its_own_series(swarms: Swarms) -> None:
    outcomes = swarms["tls"].outcomes

    assert outcomes.keys() == {"connect", "tls", "first_byte", "close", "GREETING", "SUM"}
    assert outcomes["connect"] == outcomes["tls"] == outcomes["first_byte"] == {OK: USERS}
    assert_closed(swarms["tls"])


def test_a_failed_handshake_is_counted_and_makes_no_exchange(swarms: Swarms) -> None:
    outcomes = swarms["tls-of-a-stranger"].outcomes

    assert outcomes.keys() == {"connect", "tls"}
    assert {each for each, count in outcomes["tls"].items() if count and each != CUT_OFF} == {"tls"}
    assert outcomes["connect"][OK] >= USERS


def test_data_that_arrives_before_the_request_is_no_reply(swarms: Swarms) -> None:
    """Any message is accepted as a reply here, but one that is already there would give latencies near 0."""
    exchanges = swarms["unasked"].exchanges

    assert kinds(swarms["unasked"]) == {OK, "mismatch"}
    assert abs(exchanges[OK] - exchanges["mismatch"]) <= USERS < exchanges["mismatch"]


def test_a_paced_user_has_two_latencies_and_one_in_a_closed_loop_has_one(swarms: Swarms) -> None:
    for name, has_response in [("Paced", True), ("Churning", True), ("Deep", False), ("Waiting", False)]:
        total = swarms["own"].recording.total([name])

        assert total.service.measured.total == total.outcomes[OK] > 0
        assert total.response.measured.total == (total.outcomes[OK] if has_response else 0)


def test_several_messages_in_flight_give_a_higher_throughput(swarms: Swarms) -> None:
    outcomes = swarms["own"].outcomes

    assert outcomes["Deep"][OK] > 5 * outcomes["Paced"][OK]


def assert_closed(swarm: Swarm) -> None:
    """Check that all connections were closed in order, except those with an exchange cut off by the end."""
    opened, closed = swarm.outcomes["connect"][OK], swarm.outcomes["close"].total()
    assert opened - swarm.exchanges[CUT_OFF] <= closed <= opened


def test_a_connection_for_each_exchange_is_opened_and_closed(swarms: Swarms) -> None:
    outcomes = swarms["own"].outcomes
    others = 4 + 2 + 2  # users that keep their connections open

    assert outcomes["Churning"][OK] <= outcomes["connect"][OK] - others <= outcomes["Churning"][OK] + 2
    assert_closed(swarms["own"])


def test_an_exchange_with_a_reserved_name_is_refused(swarms: Swarms) -> None:
    refusal = "an exchange is named 'connect', which is the name of another series in a report"

    assert refusal in swarms["misnamed"].log
    assert swarms["misnamed"].outcomes[TASK]["ValueError"] >= 1
    assert swarms["misnamed"].recording.examples[f"{TASK}: ValueError"] == refusal


@pytest.mark.parametrize("user", ["Several", "InATaskSet"])
def test_all_exchanges_of_a_late_task_are_late(swarms: Swarms, user: str) -> None:
    """The first line of the fourth task is delayed. The next tasks were due every 100 ms and waited for it."""
    recording = swarms[user].recording
    for name in ("first", "second", "third"):
        total = recording.total([name])
        slow = [
            sum(count for latency_ns, count in each.measured.counts.items() if latency_ns > 4e8)
            for each in (total.service, total.response)
        ]

        assert slow[0] == (name == "first")
        assert slow[1] >= (10 if name == "first" else 9), name


def test_unanswered_requests_at_the_end_count_with_their_waiting_time(swarms: Swarms) -> None:
    """The server replies to 9 tasks of three exchanges, and to two more; the ticks of two seconds are never sent."""
    recording = swarms["stalled"].recording
    total = recording.total([*recording.exchange_series()])

    assert total.outcomes[CUT_OFF] == 1
    assert recording.total([NEVER_SENT]).outcomes.keys() == {UNSENT}
    assert total.outcomes[UNSENT] > 10
    assert max(total.response.censored.counts) > 10**9
    assert total.response.censored.total == total.outcomes[UNSENT] + 1


def test_listeners_of_the_request_event_receive_each_exchange(swarms: Swarms) -> None:
    swarm = swarms["listening"]

    assert f"HEARD {swarm.exchanges[OK]}\n" in swarm.log
    assert swarm.locust_counts["Paced"] == (swarm.exchanges[OK], 0)


@pytest.mark.skipif(not CAN_SHIFT, reason="there are no time namespaces")
def test_results_of_a_worker_with_another_clock_are_in_the_seconds_of_the_run(swarms: Swarms) -> None:
    recording = swarms["shifted"].recording
    seconds = {second for cells in recording.cells.values() for second in cells}
    offsets = {
        health["clock_offset_ns"]
        for process in recording.health.values()
        for health in process.values()
        if "clock_offset_ns" in health
    }

    assert recording.missing() == []
    assert swarms.began_s - 1 < min(seconds) <= max(seconds) < time.monotonic()
    assert {second for process in recording.health.values() for second in process} < set(
        range(int(swarms.began_s) - 1, int(time.monotonic()))
    )
    assert {round(offset / 1e9, 1) for offset in offsets} == {0, -SHIFT_S}
    assert swarms.servers["shifted"].answered == swarms["shifted"].exchanges[OK]


def test_missing_results_of_a_killed_worker_are_reported(swarms: Swarms) -> None:
    """Results that had arrived count, and so do those of the other worker, which takes over the users."""
    recording = swarms["killed"].recording
    lost = recording.lost()

    assert len(recording.reports) == 2
    assert len(lost) == 1
    assert "was lost; its last report is missing" in lost[0]
    assert 0 < swarms["killed"].exchanges[OK] < swarms.servers["killed"].answered


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--message", "x", "--codec", "morse"], "--codec: unknown codec 'morse': expected one of raw, lines"),
        (["--source-addresses", "127.0.0.300"], "source address '127.0.0.300', expected ADDRESS or FIRST-LAST"),
        (["--server-pid", "1"], "--server-pid and --server-sampler are for the web UI, and this run has none"),
    ],
)
def test_a_wrong_argument_ends_locust_with_a_line_that_names_it(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    swarm = Swarm(tmp_path / "swarm", "tcp://127.0.0.1:1", *BRIEFLY, *arguments).finish()

    assert words in swarm.log
    assert "Traceback" not in swarm.log
    assert swarm.process.returncode == 2


def test_connections_come_from_the_given_source_addresses(swarms: Swarms) -> None:
    """More than one address is used; two processes may begin with the same one."""
    assert swarms.seen <= {f"127.0.3.{number}" for number in range(1, 5)}
    assert len(swarms.seen) > 1
