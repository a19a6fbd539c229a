"""gserverctl with real servers: each command, each exit status, where the socket is, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from gserver.arbiter.stats_socket import read_stats
from gserver.control.client import ControlClient
from gserver.control.protocol import Problem
from tests.helpers.processes import PATIENCE_S, GserverProcess, run_gserver, wait_for

APP = """
import gevent
from gserver import Lines, Service

def wait_here(line):
    gevent.sleep(3600)

def handle(line, conn):
    if line == b"wait":
        wait_here(line)
    return line

app = Service(handle, codec=Lines)
"""
COMMAND = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]
#: A user namespace in which this user is another one than root, so that the default path is the one of users.
AS_USER = ["unshare", "--user", "--map-user=1000"]

Finished = subprocess.CompletedProcess[str]


def can_be_another_user() -> bool:
    try:
        return subprocess.run([*AS_USER, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_user_namespace = pytest.mark.skipif(not can_be_another_user(), reason="no user namespace can be made here")


def run(*arguments: str, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> Finished:
    """Run gserverctl."""
    return subprocess.run(
        [*prefix, *COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


class ControlledServer(GserverProcess):
    """A server with its control socket at `ctl`, in its folder."""

    def __init__(self, folder: Path, *arguments: str, **options: Any) -> None:
        (folder / "app.py").write_text(APP)
        self.path = str(folder / "ctl")
        given = ("--control-socket", self.path, "--access-logfile", str(folder / "access"))
        super().__init__(folder, "app:app", *given, *arguments, **{"workers": 2, **options})

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def ctl(self, *arguments: str) -> Finished:
        return run("-s", self.path, *arguments)

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        with ControlClient(self.path) as client:
            return client.call(command, **arguments)

    def connection_rows(self, where: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call("connections", where=where).get("rows", [])
        return rows

    @contextlib.contextmanager
    def talking(self, *lines: bytes) -> Iterator[list[socket.socket]]:
        """A client for each line, which the server has received."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.connect()) for _ in lines]
            for client, line in zip(clients, lines, strict=True):
                client.sendall(line + b"\n")
            wait_for(
                lambda: sum(row["received_bytes"] > 0 for row in self.connection_rows()) >= len(lines),
                "the lines have arrived",
            )
            yield clients

    @contextlib.contextmanager
    def talking_to_both(self) -> Iterator[set[int]]:
        """Clients of both workers, of which one may accept the first few; the workers."""
        with contextlib.ExitStack() as stack:
            workers: set[int] = set()
            while len(workers) < 2:
                assert len(self.connection_rows()) < 100, "one worker accepts all connections"
                stack.enter_context(self.talking(b"hello"))
                workers = {row["worker"] for row in self.connection_rows()}
            yield workers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlledServer]:
    with ControlledServer(tmp_path) as made:
        wait_for(lambda: made.call("status")["state"] == "serving", "both workers serve")
        yield made


def succeeded(finished: Finished) -> str:
    assert (finished.returncode, finished.stderr) == (0, ""), finished
    return finished.stdout


def assert_one_line(finished: Finished, status: int, pattern: str) -> None:
    assert finished.returncode == status, finished
    assert finished.stderr.count("\n") == 1, finished
    assert re.search(pattern, finished.stderr), finished


# Each command


def test_status_shows_the_server(server: ControlledServer) -> None:
    with server.talking(b"hello"):
        text = succeeded(server.ctl("status"))
        document = json.loads(succeeded(server.ctl("status", "--json")))

    assert re.search(rf"^server +app:app, gserver \S+, pid {server.process.pid}, up .*s$", text, re.M)
    assert re.search(r"^workers +2 of 2 serve$", text, re.M)
    assert re.search(r"^connections +1 open, 1 accepted$", text, re.M)
    assert document["ready"]
    assert document["not_ready_because"] is None
    assert (document["pid"], document["workers"]["serving"], document["messages"]) == (server.process.pid, 2, 1)


def test_workers_are_listed_added_removed_and_restarted(server: ControlledServer) -> None:
    listed = json.loads(succeeded(server.ctl("workers", "--json")))
    pids = [row["pid"] for row in listed["rows"]]
    assert sorted(pids) == sorted(worker.pid for worker in server.workers())
    assert all(str(pid) in succeeded(server.ctl("workers")) for pid in pids)

    assert succeeded(server.ctl("workers", "add")) == "the server goes on with 3 workers\n"
    server.wait_for_log("Worker ready", 3)
    assert succeeded(server.ctl("workers", "remove")) == "the server goes on with 2 workers\n"
    server.wait_for_log("Worker exited with status 0", 1)
    (oldest, *_) = [row["pid"] for row in server.call("workers")["rows"]]
    assert succeeded(server.ctl("workers", "restart", str(oldest))) == f"worker {oldest} will be replaced\n"
    server.wait_for_log(rf"Worker exited with status 0 \(pid: {oldest}\)")
    wait_for(lambda: server.call("status")["workers"]["serving"] == 2, "two workers serve again")
    assert_one_line(
        server.ctl("workers", "restart", str(oldest)), 1, rf"^gserverctl: there is no worker {oldest}, must"
    )
    assert_one_line(server.ctl("workers", "restart"), 2, "workers restart needs a PID")


def test_the_last_worker_is_not_removed(tmp_path: Path) -> None:
    with ControlledServer(tmp_path, workers=1) as server:
        assert_one_line(server.ctl("workers", "remove"), 1, "number of workers would be 0, must be from 1 to ")


def test_listeners_show_their_addresses_and_queues(server: ControlledServer) -> None:
    host, port = server.address
    (row,) = json.loads(succeeded(server.ctl("listeners", "--json")))["rows"]

    assert (row["bind"], row["address"], row["queued"]) == ("127.0.0.1:0", f"{host}:{port}", 0)
    assert f"{host}:{port}" in succeeded(server.ctl("listeners"))


def test_connections_are_listed_and_shown_with_what_their_handlers_do(server: ControlledServer) -> None:
    with server.talking(b"hello", b"wait", b"wait"):
        listed = json.loads(succeeded(server.ctl("connections", "--json")))
        waiting = server.connection_rows("state=handling")
        shown = succeeded(server.ctl("connection", waiting[0]["id"]))
        longest = server.call("connections", sort="handling", limit=1)["rows"]
        table = succeeded(server.ctl("connections", "--where", "messages>0"))

    assert (listed["count"], listed["missing"], len(listed["rows"])) == (3, [], 3)
    assert {row["handler"] for row in waiting} == {"wait_here (app.py:6)"}
    assert len(waiting) == 2
    assert longest[0]["id"] in {row["id"] for row in waiting}
    assert re.search(r"^stack +wait_here \(app.py:6\)\n +handle \(app.py:10\)$", shown, re.M)
    assert re.search(r"^kernel.rtt_s +\S+ ms$", shown, re.M)
    assert table.count("\n") == 2  # the heading, and the one that was answered


def test_listings_without_rows_have_a_list_of_rows(server: ControlledServer) -> None:
    listed = json.loads(succeeded(server.ctl("connections", "--json")))

    assert listed == {"rows": [], "count": 0, "missing": []}


def test_wrong_connections_and_conditions_are_one_line(server: ControlledServer) -> None:
    pid = server.call("workers")["rows"][0]["pid"]

    assert_one_line(server.ctl("connection", f"{pid}-77"), 1, f"there is no connection '{pid}-77'")
    assert_one_line(server.ctl("connection", "nonsense"), 1, "there is no connection 'nonsense'")
    assert_one_line(server.ctl("close", "1-1"), 1, "there is no connection '1-1'")
    assert_one_line(server.ctl("close", "--where", " "), 1, "close needs a condition")
    assert_one_line(server.ctl("close"), 2, "close needs an ID, --addr, --listener, --worker or --where")
    assert_one_line(server.ctl("connections", "--where", "speed>1"), 1, "'speed' is no number of a connection")
    assert_one_line(server.ctl("connections", "--limit", "0"), 1, "limit is 0, must be a whole number from 1")


def test_close_ends_connections_as_administrative(server: ControlledServer, tmp_path: Path) -> None:
    with server.talking(b"hello", b"hello", b"wait") as (one, other, waiting):
        name = next(row["id"] for row in server.connection_rows() if row["peer"] == "{}:{}".format(*one.getsockname()))
        assert one.recv(10) == other.recv(10) == b"hello\n"
        assert succeeded(server.ctl("close", name)) == "closed: 1\n"
        assert one.recv(10) == b""
        assert succeeded(server.ctl("close", "--addr", "127.0.0.0/8", "--where", "messages>0")) == "closed: 1\n"
        assert other.recv(10) == b""
        assert succeeded(server.ctl("close", "--where", "state=handling")) == "closed: 1\n"
        assert [row["state"] for row in server.connection_rows()] == ["draining"]  # its handler may end
        assert succeeded(server.ctl("close", "--now", "--where", "age>0")) == "closed: 1\n"
        assert waiting.recv(10) == b""
        wait_for(lambda: server.connection_rows() == [], "the handler was killed")

    wait_for(lambda: (tmp_path / "access").read_text().count("administrative") == 3, "all are in the access log")
    assert server.call("status")["connections"]["closed"] == {"administrative": 3}


def test_ready_off_fails_the_check_and_on_restores_it(server: ControlledServer) -> None:
    assert "send no clients" in succeeded(server.ctl("ready", "off"))
    taken_out = server.ctl("status")
    with server.talking(b"hello") as (client,):
        assert client.recv(10) == b"hello\n"
    assert "clients may come" in succeeded(server.ctl("ready", "on"))

    assert taken_out.returncode == 1
    assert re.search(r"^ready +no: the operator has taken the server out of service$", taken_out.stdout, re.M)
    succeeded(server.ctl("status"))


def test_reload_waits_for_its_result(server: ControlledServer, tmp_path: Path) -> None:
    before = {row["pid"] for row in server.call("workers")["rows"]}
    assert re.fullmatch(r"reloaded in \S+ m?s \(new workers\)\n", succeeded(server.ctl("reload")))
    assert before.isdisjoint(row["pid"] for row in server.call("workers")["rows"] if row["state"] == "serving")

    (tmp_path / "app.py").write_text("1 / 0\n")
    failed = server.ctl("reload")
    (tmp_path / "app.py").write_text(APP)
    assert_one_line(failed, 1, "the reload failed: ")
    reloads = server.call("status")["reloads"]
    assert (reloads["done"], reloads["failed"], reloads["last"]["outcome"]) == (1, 1, "failed")


def test_a_reload_that_a_stop_ends_is_one_line(server: ControlledServer, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import time\ntime.sleep(60)\n" + APP)
    command = [*COMMAND, "-s", server.path, "reload"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reloading:
        server.wait_for_log("Reloading")
        succeeded(server.ctl("stop", "--quick"))
        output, errors = reloading.communicate(timeout=PATIENCE_S)

    assert_one_line(
        Finished(command, reloading.returncode, output, errors), 1, "the reload failed: the server is stopping"
    )
    assert server.wait() == 0


@pytest.mark.parametrize("quick", [(), ("--quick",)])
def test_stop_waits_for_the_end(server: ControlledServer, quick: tuple[str, ...]) -> None:
    pid = server.process.pid
    assert succeeded(server.ctl("stop", *quick)) == f"the server with pid {pid} has stopped\n"

    assert server.wait() == 0
    assert not Path(server.path).exists()
    assert_one_line(server.ctl("status"), 3, r"control socket '.*' cannot be used: No such file or directory")


# Workers that do not answer


def test_a_stopped_worker_is_shown_as_stuck_and_missing_and_nothing_waits_for_it(tmp_path: Path) -> None:
    with ControlledServer(tmp_path, "--timeout", "0") as server:
        wait_for(lambda: server.call("status")["workers"]["serving"] == 2, "both workers serve")
        with server.talking_to_both() as workers_before:
            stopped = psutil.Process(min(workers_before))
            stopped.suspend()
            try:
                wait_for(lambda: server.call("status")["workers"]["stuck"] == 1, "its heartbeat is missed")
                began = time.monotonic()
                listed = server.ctl("connections")
                took_s = time.monotonic() - began
                workers = succeeded(server.ctl("workers"))
                closed = server.ctl("close", "--where", "age>0")
                (failed,) = [each for each in (server.ctl("connection", f"{stopped.pid}-1"),) if each.returncode]
            finally:
                stopped.resume()
            wait_for(lambda: server.call("connections")["missing"] == [], "it answers again")

    assert took_s < 10.0
    assert_one_line(listed, 4, rf"^gserverctl: worker {stopped.pid} is missing: the worker does not answer$")
    assert listed.stdout.count(f"{stopped.pid}-") == 0
    assert len(listed.stdout.splitlines()) > 1
    assert re.search(rf"^ *{stopped.pid} +stuck .* \d\S* s ago ", workers, re.M)
    assert_one_line(closed, 4, f"worker {stopped.pid} is missing")
    assert_one_line(failed, 1, f"worker {stopped.pid}: the worker does not answer")


def test_a_drained_worker_is_still_asked(server: ControlledServer) -> None:
    """Its connections go on until their replies are sent, and an operator may want to see which these are."""
    with server.talking(b"wait"):
        (row,) = server.connection_rows()
        succeeded(server.ctl("workers", "restart", str(row["worker"])))
        wait_for(
            lambda: (
                {each["pid"]: each["state"] for each in server.call("workers")["rows"]}[row["worker"]] == "draining"
            ),
            "the worker drains",
        )
        (drained,) = server.connection_rows(f"worker={row['worker']}")
        assert drained["id"] == row["id"]
        assert succeeded(server.ctl("close", "--now", row["id"])) == "closed: 1\n"
        server.wait_for_log(rf"Worker exited with status 0 \(pid: {row['worker']}\)")


# Where the socket is


def user_server(folder: Path, runtime: Path, *arguments: str, **options: Any) -> GserverProcess:
    """A server of a user that is not root, whose folder for sockets is `runtime`."""
    # -P: the folder of the sockets, "gserver" in the working directory, is no package.
    command = [*AS_USER, sys.executable, "-P", "-m", "gserver", "echo", "-b", "127.0.0.1:0", *arguments]
    return GserverProcess(folder, command=command, environment={"XDG_RUNTIME_DIR": str(runtime)}, **options)


def as_user(runtime: Path, *arguments: str) -> Finished:
    return run(*arguments, prefix=tuple(AS_USER), environment={"XDG_RUNTIME_DIR": str(runtime)})


@needs_user_namespace
def test_the_only_server_of_a_user_is_found_without_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "gserver"
    assert_one_line(as_user(tmp_path, "status"), 3, "no server of this user runs with a control socket in ")
    with user_server(tmp_path, tmp_path) as server:
        path = folder / f"{server.process.pid}.ctl"
        assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)
        assert f"pid {server.process.pid}," in as_user(tmp_path, "status").stdout
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        assert f"pid {server.process.pid}," in as_user(tmp_path, "status").stdout

    assert list(folder.iterdir()) == []


@needs_user_namespace
def test_several_servers_are_listed_and_end_it_with_2(tmp_path: Path) -> None:
    with user_server(tmp_path, tmp_path) as one, user_server(tmp_path, tmp_path) as other:
        finished = as_user(tmp_path, "status")
        chosen = as_user(tmp_path, "-s", str(tmp_path / "gserver" / f"{other.process.pid}.ctl"), "status")

    assert_one_line(finished, 2, "several servers run, choose one with -s: ")
    assert all(f"(pid {each.process.pid}, echo, 127.0.0.1:" in finished.stderr for each in (one, other))
    assert f"pid {other.process.pid}," in succeeded(chosen)


@needs_user_namespace
def test_the_socket_of_a_killed_server_is_ignored_and_later_removed(tmp_path: Path) -> None:
    with user_server(tmp_path, tmp_path) as killed:
        killed.signal(signal.SIGKILL)
        killed.wait()
    left = tmp_path / "gserver" / f"{killed.process.pid}.ctl"
    assert left.exists()
    os.utime(left, (1, 1))  # a young one might belong to a server that starts
    assert_one_line(as_user(tmp_path, "status"), 3, "no server of this user runs")
    with user_server(tmp_path, tmp_path) as server:
        assert not left.exists()
        assert f"pid {server.process.pid}," in succeeded(as_user(tmp_path, "status"))


@needs_user_namespace
@pytest.mark.parametrize(
    ("runtime", "line"),
    [
        ("", "No control socket: XDG_RUNTIME_DIR is not set"),
        ("missing", "No control socket: .*No such file or directory"),
        ("open", "No control socket: .* is not a folder of this user alone"),
    ],
)
def test_without_a_place_for_a_socket_the_server_runs_and_logs_one_line(
    tmp_path: Path, runtime: str, line: str
) -> None:
    (tmp_path / "open" / "gserver").mkdir(parents=True)
    (tmp_path / "open" / "gserver").chmod(0o755)
    place = tmp_path / runtime if runtime else Path()
    with user_server(tmp_path, place) as server, server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        found = [each for each in server.log.splitlines() if "control socket" in each.lower()]
        finished = as_user(place, "status")

    assert len(found) == 1
    assert re.search(rf"\[INFO\] {line}", found[0])
    assert_one_line(finished, 3, "no control socket" if runtime == "" else "no server of this user runs")


@needs_user_namespace
def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with user_server(tmp_path, tmp_path, "--no-control-socket") as server:
        assert "ontrol socket" not in server.log

    assert not (tmp_path / "gserver").exists()


def test_an_explicit_path_has_the_given_permissions(tmp_path: Path) -> None:
    group = os.getgroups()[-1] if os.getgroups() else os.getgid()
    path = f"{tmp_path}/a,mode=660,user={os.getuid()},group={group}"
    with GserverProcess(tmp_path, "echo", "--control-socket", path):
        found = (tmp_path / "a").stat()
        succeeded(run("-s", str(tmp_path / "a"), "status"))

    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, os.getuid(), group)


@pytest.mark.parametrize("path", ["missing/ctl", "a file"])
def test_an_explicit_path_that_cannot_be_made_ends_the_start(tmp_path: Path, path: str) -> None:
    (tmp_path / "a file").write_text("keep me")
    finished = run_gserver("echo", "-b", "127.0.0.1:0", "--control-socket", path, cwd=tmp_path)
    (line,) = [each for each in finished.stderr.splitlines() if "control socket" in each]

    assert finished.returncode == 1
    assert re.search(r"^gserver: control socket '.*' cannot be made: ", line)
    assert (tmp_path / "a file").read_text() == "keep me"


def test_an_upgrade_has_two_sockets_and_then_one(tmp_path: Path) -> None:
    with ControlledServer(tmp_path, "--pid", "gserver.pid", "--log-file", "log", log=tmp_path / "log") as server:
        old = server.arbiter
        old.send_signal(signal.SIGUSR2)
        wait_for((tmp_path / "ctl.2").exists, "the new arbiter has its socket")
        with ControlClient(server.path) as first, ControlClient(f"{server.path}.2") as second:
            assert first.call("status")["pid"] == old.pid
            new = second.call("status")["pid"]
            assert new != old.pid
            wait_for(lambda: second.call("status")["ready"], "the new workers serve")
            old.send_signal(signal.SIGTERM)
            wait_for(lambda: not (tmp_path / "ctl.2").exists(), "the new arbiter has taken over the path")
            assert second.call("status")["pid"] == new
        wait_for(lambda: server.call("status")["pid"] == new, "the path leads to the new arbiter")
        assert server.ctl("stop").returncode == 0
        wait_for(lambda: not psutil.pid_exists(new), "it has ended")
    assert not (tmp_path / "ctl").exists()


@needs_user_namespace
def test_each_arbiter_of_an_upgrade_has_a_socket_of_its_own_by_default(tmp_path: Path) -> None:
    with user_server(tmp_path, tmp_path, "--pid", "gserver.pid") as server:
        old = server.arbiter
        old.send_signal(signal.SIGUSR2)
        wait_for(lambda: len(list((tmp_path / "gserver").iterdir())) == 2, "both arbiters have a socket")
        assert_one_line(as_user(tmp_path, "status"), 2, "several servers run")
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTERM)
        wait_for(lambda: len(list((tmp_path / "gserver").iterdir())) == 1, "the old arbiter has ended")
        new = int((tmp_path / "gserver.pid").read_text())
        assert f"pid {new}," in succeeded(as_user(tmp_path, "status"))
        succeeded(as_user(tmp_path, "stop"))
    assert list((tmp_path / "gserver").iterdir()) == []


# Which processes have it


def test_no_worker_inherits_the_socket_or_its_clients(server: ControlledServer) -> None:
    """Else a client would not see the end of the server, and a worker's code could answer for the arbiter."""
    with ControlClient(server.path) as client:
        client.call("add_worker")
        server.wait_for_log("Worker ready", 3)
        found = {each.pid: [part.laddr for part in unix_sockets(each)] for each in server.tree()}

    assert sum(address.endswith("/ctl") for address in found.pop(server.process.pid)) == 2
    assert len(found) == 3
    assert not any(address.endswith("/ctl") for addresses in found.values() for address in addresses)


def unix_sockets(process: psutil.Process) -> list[Any]:
    find = process.net_connections if hasattr(process, "net_connections") else process.connections
    return list(find(kind="unix"))


@needs_user_namespace
def test_a_server_in_the_background_has_the_socket_of_its_arbiter(tmp_path: Path) -> None:
    command = [*AS_USER, sys.executable, "-P", "-m", "gserver", "echo", "-b", "127.0.0.1:0", "-D", "--pid", "pid"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    subprocess.run([*command, "--log-file", "log"], cwd=tmp_path, env=environment, check=True, timeout=PATIENCE_S)
    pid = int((tmp_path / "pid").read_text())
    try:
        assert [path.name for path in (tmp_path / "gserver").iterdir()] == [f"{pid}.ctl"]
    finally:
        stopped = as_user(tmp_path, "stop")
    assert succeeded(stopped) == f"the server with pid {pid} has stopped\n"
    wait_for(lambda: not psutil.pid_exists(pid), "it has ended")


# What must not change


def test_the_other_ways_to_reach_a_server_still_work(tmp_path: Path) -> None:
    with ControlledServer(tmp_path, "--stats-socket", "stats", "--pid", "gserver.pid") as server:
        assert read_stats(str(tmp_path / "stats"))["pid"] == server.process.pid
        assert run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path).returncode == 0
        assert server.call("status")["reloads"]["done"] == 1  # one of HUP counts too


@pytest.mark.parametrize("target", ["closed", "full", "a pipe that is not read"])
def test_an_output_that_cannot_be_written_is_one_line(server: ControlledServer, target: str) -> None:
    redirections = {"closed": ">&-", "full": ">/dev/full", "a pipe that is not read": "| true; exit ${PIPESTATUS[0]}"}
    with server.talking(*[b"hello"] * 3):
        for command in ("status", "workers", "listeners", "connections", "connections --json", "--version"):
            script = f'"$@" {command} {redirections[target]}'
            words = ["bash", "-c", script, "bash", *COMMAND, "-s", server.path]
            finished = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            if target == "a pipe that is not read" and finished.returncode == 0:
                assert finished.stderr == ""  # it was faster than the end of the reader
            else:
                assert_one_line(finished, 1, "cannot write to standard output: ")


def arbiter_calls(server: GserverProcess, seconds: float) -> int:
    """How often the arbiter was scheduled in this time: each of its system calls that wait counts once."""

    def switches() -> int:
        text = Path(f"/proc/{server.process.pid}/status").read_text()
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))

    before = switches()
    time.sleep(seconds)
    return switches() - before


def test_an_idle_arbiter_with_a_control_socket_sleeps_as_one_without(tmp_path: Path) -> None:
    with_one, without = tmp_path / "with", tmp_path / "without"
    for folder in (with_one, without):
        folder.mkdir()
    with (
        ControlledServer(with_one) as server,
        GserverProcess(without, "echo", "--no-control-socket", workers=2) as plain,
        ControlClient(server.path) as client,
    ):
        client.call("connections")
        wait_for(lambda: server.call("status")["state"] == "serving", "all workers serve")
        woken, otherwise = arbiter_calls(server, 3.0), arbiter_calls(plain, 3.0)

    assert woken <= otherwise + 3


# In a script


def test_a_script_uses_the_client(server: ControlledServer) -> None:
    with server.talking(b"hello", b"wait"), ControlClient(server.path) as client:
        rows = list(client.request("connections", sort="idle"))
        assert client.result == {"count": 2, "missing": []}
        with pytest.raises(Problem, match="there is no worker 1") as caught:
            client.call("restart_worker", pid=1)
        assert caught.value.code == "not_found"
        assert client.call("close", where="id=" + rows[0]["id"])["closed"] == 1
