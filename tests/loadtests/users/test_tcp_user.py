"""The Locust users with good and hostile servers; each swarm is a Locust process, and all of them run at once.

On a busy host a Locust process may need seconds until its users run. So a swarm is ended when its progress lines show
enough, and not by the clock.

Each of them may have exchanges that are cut off: a user that Locust kills while it waits may wake up before it dies.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.recording.recording import CUT_OFF, OK
from tests.helpers.loadtests_swarms import LOCUSTFILE, JsonServer, Peer, Swarm, bound_socket, of_processes, reset
from tests.helpers.processes import GserverProcess, wait_for

USERS, RATE = 4, 10
COMMON = ("--users", str(USERS), "--spawn-rate", "100", "--stop-timeout", "20", "--rate", str(RATE))
IMPATIENT = """
from loadtests.users.standard_users import JsonUser

class Impatient(JsonUser):
    connect_timeout_s = 0.3
    reply_timeout_s = 0.3
    connect_attempts = 1
"""

PATIENT = """
from loadtests.users.standard_users import JsonUser

class Patient(JsonUser):
    reply_timeout_s = 600
"""

# The import takes longer than the test, and blocks the event loop.
SLOW_IMPORT = """
from gevent.monkey import get_original
from loadtests.users.standard_users import JsonUser

get_original("time", "sleep")(4)
"""
FAST_PER_S = 3 * RATE * USERS
WRONG_HOSTS = ["127.0.0.1:3000", "http://127.0.0.1:3000", "tcp://127.0.0.1"]


def after_a_request(answer: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
    """Answer each request with something else than its reply."""

    def behave(connection: socket.socket) -> None:
        while connection.recv(65536):
            answer(connection)

    return behave


def send(data: bytes) -> Callable[[socket.socket], None]:
    return after_a_request(lambda connection: connection.sendall(data))


def close_after(data: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return behave


class Silence:
    """A behaviour that counts requests and replies to none."""

    def __init__(self) -> None:
        self.requests = 0
        self._lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            with self._lock:
                self.requests += 1


@dataclass
class Hostility:
    """The behaviour of a server, and the outcome of every exchange with it."""

    behave: Callable[[socket.socket], None]
    outcome: str
    user: str = "JsonUser"


HOSTILE = {
    "resets": Hostility(after_a_request(reset), "reset"),
    "closes": Hostility(close_after(b""), "eof"),
    "closes-in-a-reply": Hostility(close_after(b'{"status": "O'), "eof"),
    "closes-in-an-echo": Hostility(close_after(b"x"), "eof", "EchoUser"),
    "answers-something-else": Hostility(send(b'{"status": "OK", "result": "3"}\n'), "mismatch"),
    "answers-no-json": Hostility(send(b"not JSON\n"), "mismatch"),
    "echoes-other-bytes": Hostility(send(b"x" * 64), "mismatch", "EchoUser"),
    "answers-without-end": Hostility(send(b"x" * 100_000), "protocol"),
    "is-silent": Hostility(after_a_request(lambda connection: None), "timeout", "Impatient"),
}


Enough = Callable[[Swarm], bool]


def progress(swarm: Swarm) -> list[dict[str, float]]:
    """The progress lines of a swarm, one a second."""
    return [json.loads(line) for line in swarm.progress.splitlines(keepends=True) if line.endswith("\n")]


def has_counted(key: str, count: int) -> Enough:
    """Whether a progress line has at least so many; failures are those so far, exchanges those of one second."""
    return lambda swarm: any(line[key] >= count for line in progress(swarm))


def all_have_exchanged(swarm: Swarm) -> bool:
    """Whether a progress line has the connections of all users, and there were about 20 exchanges of each."""
    lines = progress(swarm)
    return any(line["sockets"] == USERS for line in lines) and sum(line["exchanges"] for line in lines) > 20 * USERS


has_failed = has_counted("failures", 2 * USERS + 1)


@dataclass
class Swarms:
    """The results of all swarms of this module, and the servers that count replies."""

    by_name: dict[str, Swarm]
    counting: JsonServer
    recovery: JsonServer

    def __getitem__(self, name: str) -> Swarm:
        return self.by_name[name]


class Begun:
    """Swarms that were started, by name; each is ended as soon as it has done enough."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.by_name: dict[str, Swarm] = {}
        self._enough: dict[str, Enough] = {}

    def begin(
        self, name: str, host: tuple[str, int] | str, *arguments: str, enough: Enough | None, file: Path = LOCUSTFILE
    ) -> None:
        """Start a swarm. enough: whether it can be ended; None: it ends by itself."""
        swarm = Swarm(self._folder / name.replace("/", "-"), host, *COMMON, *arguments, file=file)
        self.by_name[name] = swarm
        if enough is not None:
            self._enough[name] = enough
        wait_for(lambda: self._starting() < 2, "that at most one Locust starts")

    def _starting(self) -> int:
        self.are_ended()
        return sum(not swarm.is_up for swarm in self.by_name.values())

    def are_ended(self) -> bool:
        """End the swarms that have done enough; return whether that was all of them."""
        for name, enough in list(self._enough.items()):
            swarm = self.by_name[name]
            assert swarm.process.poll() is None, f"{name}: {swarm.log}"
            if enough(swarm):
                swarm.process.terminate()
                del self._enough[name]
        return not self._enough

    def finish(self) -> None:
        wait_for(self.are_ended, f"that these have done enough: {', '.join(self._enough)}")
        for swarm in self.by_name.values():
            swarm.finish()

    def kill(self) -> None:
        for swarm in self.by_name.values():
            swarm.kill()


@pytest.fixture(scope="module")
def swarms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarms]:
    folder = tmp_path_factory.mktemp("swarms")
    files = {"Impatient": IMPATIENT, "Patient": PATIENT, "slow_import": SLOW_IMPORT}
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    impatient, patient, slow_import = (folder / f"{name}.py" for name in files)
    counting, recovery, silent, begun = JsonServer(), JsonServer(), Silence(), Begun(folder)
    begin = begun.begin
    with contextlib.ExitStack() as stack:
        stack.callback(begun.kill)

        def peer(behave: Callable[[socket.socket], None]) -> tuple[str, int]:
            return stack.enter_context(Peer(behave)).address

        absent = stack.enter_context(bound_socket())
        begin("recovers", absent.getsockname(), "JsonUser", enough=has_counted("exchanges", 1))
        json_server = stack.enter_context(GserverProcess(folder, "json")).address
        echo_server = stack.enter_context(GserverProcess(folder, "echo")).address
        begin("slow-import", json_server, "--run-time", "3s", file=slow_import, enough=None)
        begin("json", json_server, "--csv", "kept", enough=all_have_exchanged)
        begin("echo", echo_server, "--payload", "100000", "EchoUser", enough=all_have_exchanged)
        fast = ("--rate", "0", "--payload", "1", "EchoUser")
        begin("as-fast-as-it-can", echo_server, *fast, enough=has_counted("exchanges", FAST_PER_S))
        spread = (*of_processes(2), "--csv", "kept", "--rate", "20", "JsonUser")
        begin("processes", peer(counting), *spread, enough=all_have_exchanged)
        begin("unasked", peer(JsonServer(times=3)), "JsonUser", enough=has_failed)
        unanswered = ("--stop-timeout", "1", "Patient")
        begin("patient", peer(silent), *unanswered, file=patient, enough=lambda _: silent.requests == USERS)
        no_listener, full = stack.enter_context(bound_socket()), stack.enter_context(full_listener())
        begin("no-listener", no_listener.getsockname(), "Impatient", file=impatient, enough=has_failed)
        begin("accept-queue-full", full.getsockname(), "Impatient", file=impatient, enough=has_failed)
        for host in WRONG_HOSTS:
            begin(host, host, enough=has_counted("failures", 1))
        for name, hostility in HOSTILE.items():
            file = impatient if hostility.user == "Impatient" else LOCUSTFILE
            begin(name, peer(hostility.behave), hostility.user, file=file, enough=has_failed)

        wait_for(lambda: has_counted("failures", 1)(begun.by_name["recovers"]), "refused connects")
        stack.enter_context(Peer(recovery, absent))
        begun.finish()
        yield Swarms(begun.by_name, counting, recovery)


@contextlib.contextmanager
def full_listener() -> Iterator[socket.socket]:
    """A listener with a full accept queue: the kernel drops new connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.create_connection(listener.getsockname())]
        yield listener
        for each in waiting:
            each.close()


def kinds(outcomes: Counter[str]) -> set[str]:
    """The outcomes of the exchanges that were not cut off."""
    return {outcome for outcome, count in outcomes.items() if count and outcome != CUT_OFF}


def was_answered(swarm: Swarm, answered: int) -> bool:
    """Whether the swarm counted every reply of its server, and none twice."""
    exchanges = swarm.exchanges
    return kinds(exchanges) == {OK} and exchanges[OK] <= answered <= exchanges[OK] + exchanges[CUT_OFF]


ALL = [
    "json",
    "echo",
    "as-fast-as-it-can",
    "processes",
    "recovers",
    "unasked",
    "no-listener",
    "accept-queue-full",
    *HOSTILE,
]


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_the_recording_and_locust_have_the_same_counts(swarms: Swarms, name: str) -> None:
    swarm = swarms[name]
    recorded = {}
    for series, outcomes in swarm.outcomes.items():
        if series in ("first_byte", "close"):  # no requests
            continue
        requests = outcomes.total() - outcomes[CUT_OFF]
        recorded[series] = (requests, requests - outcomes[OK])

    assert recorded["connect"][0] > 0
    assert swarm.locust_counts == {series: counts for series, counts in recorded.items() if counts[0]}
    assert "Traceback" not in swarm.log


@pytest.mark.parametrize("name", ["json", "processes"])
def test_locusts_csv_has_the_last_second_and_the_sizes_of_replies(name: str, swarms: Swarms) -> None:
    rows = {name: row for name, row in swarms[name].csv.items() if name != "Aggregated"}

    assert {name: (int(row["Request Count"]), int(row["Failure Count"])) for name, row in rows.items()} == (
        swarms[name].locust_counts
    )
    assert 30 < float(rows["SUM"]["Average Content Size"]) < 40


@pytest.mark.parametrize("name", ALL)
def test_only_successes_have_latencies(swarms: Swarms, name: str) -> None:
    recording = swarms[name].recording

    for series in recording.cells:
        total = recording.total([series])
        assert total.service.measured.total == total.outcomes[OK]


@pytest.mark.parametrize(("name", "series"), [("json", {"GREETING", "SUM"}), ("echo", {"echo"})])
def test_a_good_server_answers_every_exchange_on_one_connection_each(
    swarms: Swarms, name: str, series: set[str]
) -> None:
    """Without a class name only JsonUser runs, because no server has both protocols."""
    outcomes = swarms[name].outcomes

    assert outcomes.keys() == {"connect", "first_byte", "close", *series}
    assert outcomes["connect"] == outcomes["first_byte"] == {OK: USERS}
    assert all(kinds(outcomes[each]) == {OK} for each in series)
    assert max(swarms[name].recording.sockets().values()) == USERS
    assert swarms[name].process.returncode == 0


def test_the_run_time_does_not_include_the_imports(swarms: Swarms) -> None:
    assert swarms["slow-import"].exchanges[OK] > 0


def test_a_rate_of_0_is_as_fast_as_the_server_answers(swarms: Swarms) -> None:
    """A rate of 10 would be 40 exchanges a second."""
    assert max(cell.done for cell in swarms["as-fast-as-it-can"].recording.cells["echo"].values()) >= FAST_PER_S


@pytest.mark.parametrize("name", HOSTILE)
def test_exchanges_with_a_hostile_server_have_the_outcome_of_its_behaviour(swarms: Swarms, name: str) -> None:
    outcomes = swarms[name].outcomes

    assert kinds(outcomes["connect"]) == {OK}
    assert kinds(swarms[name].exchanges) == {HOSTILE[name].outcome}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_failure_closes_the_connection_and_the_next_exchange_opens_another(swarms: Swarms, name: str) -> None:
    """Each user ends without a connection, or with an unused one."""
    failures = swarms[name].exchanges[HOSTILE[name].outcome]

    assert failures > USERS
    assert failures <= swarms[name].outcomes["connect"][OK] <= failures + USERS


@pytest.mark.parametrize(("name", "outcome"), [("no-listener", "refused"), ("accept-queue-full", "timeout")])
def test_a_failed_connect_is_a_request_and_no_exchange(swarms: Swarms, name: str, outcome: str) -> None:
    outcomes = swarms[name].outcomes

    assert outcomes.keys() == {"connect"}
    assert kinds(outcomes["connect"]) == {outcome}
    assert outcomes["connect"][outcome] > USERS


def test_extra_replies_fail_one_exchange_and_are_dropped_with_the_connection(swarms: Swarms) -> None:
    """On each connection the first exchange succeeds, and the second receives an extra reply of the first."""
    exchanges = swarms["unasked"].exchanges

    assert kinds(exchanges) == {OK, "mismatch"}
    assert abs(exchanges[OK] - exchanges["mismatch"]) <= USERS < exchanges["mismatch"]


def test_users_recover_when_the_server_comes_up(swarms: Swarms) -> None:
    outcomes = swarms["recovers"].outcomes

    assert outcomes["connect"]["refused"] > 0
    assert 0 < outcomes["connect"][OK] <= USERS
    assert was_answered(swarms["recovers"], swarms.recovery.answered)


def test_an_exchange_that_the_end_cuts_off_is_neither_success_nor_failure(swarms: Swarms) -> None:
    assert swarms["patient"].exchanges == {CUT_OFF: USERS}
    assert swarms["patient"].locust_counts == {"connect": (USERS, 0)}


def test_processes_merge_to_what_the_server_answered(swarms: Swarms) -> None:
    recording = swarms["processes"].recording

    assert was_answered(swarms["processes"], swarms.counting.answered)
    assert swarms["processes"].exchanges[CUT_OFF] <= USERS < swarms.counting.answered
    assert swarms["processes"].outcomes["connect"] == {OK: USERS}
    assert max(recording.sockets().values()) == USERS
    assert len(recording.health) == 3, "the master and two workers"


@pytest.mark.parametrize("host", WRONG_HOSTS)
def test_a_wrong_host_is_named(swarms: Swarms, host: str) -> None:
    swarm = swarms[host]

    assert swarm.process.returncode == 1
    assert kinds(swarm.outcomes["connect"]) == {"error"}
    assert f"host is {host!r}, expected tcp://HOST:PORT" in swarm.log
